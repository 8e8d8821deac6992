"""The scale study: its flags, and the grid it reads from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from clear_dist.defaults import MINI_UNLEARN

from .base import Config, opt
from .plan import ANSWER_TOKENS, TEXT_TOKENS

Stage = Literal["z0", "z1", "z2", "z3", "zpp", "z3_offload", "z3_nvme"]
Scaling = Literal["strong", "weak"]
INLINE, NAMED = "inline", "named"
MOST_POINTS = 5000  # of a grid: predicted in minutes, and still a table somebody can read


class ScaleStudyConfig(Config):
    """Models x GPUs x ZeRO stages x methods x sequence mixes, measured where the devices are here and predicted
    everywhere, in one report: speed, memory, strong and weak scaling, what each method costs beside the first, and
    measured against predicted. Weights are random, nothing is downloaded; killed, it goes on with the same command."""

    recipe: ClassVar[str] = "scale_study"
    grid: Path = opt(..., "run", "the grid: a YAML or JSON file, e.g. benchmarks/grids/cpu.yaml", "FILE")
    out: Path = opt(..., "run", "directory of the study", "DIR")
    dry_run: bool = opt(False, "run", "count and print the points; write nothing")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InlineModel(_Part):
    """A model that is nowhere but here: by its size, or by its width and depth."""

    name: str | None = Field(None, description="what the report calls it", min_length=1)
    arch: Literal["llava", "llama"] = Field("llava", description="with a vision tower, or text only")
    params: str | None = Field(None, description="its size within 10%, e.g. 30m or 1.5b")
    hidden: int | None = Field(None, description="width of the language model", ge=32)
    layers: int | None = Field(None, description="decoder blocks", ge=1)
    vocab: int | None = Field(None, description="words of its vocabulary (default: as its size has it)", ge=64)
    image_size: int | None = Field(None, description="pixels of a picture's side (default: as its size has it)", ge=14)

    @model_validator(mode="after")
    def _has_a_size(self) -> InlineModel:
        if self.params is None and (self.hidden is None or self.layers is None):
            raise ValueError("give params (e.g. 30m), or hidden and layers")
        return self

    @property
    def label(self) -> str:
        return self.name or f"{self.arch}-{self.params or f'{self.layers}x{self.hidden}'}"


class Mix(_Part):
    """What sequences are like; every example is an average one."""

    tokens: int = Field(TEXT_TOKENS, description="text tokens of an example, question and answer", ge=4)
    scored: int = Field(ANSWER_TOKENS, description="answer tokens among them", ge=2)
    pictures: float = Field(0.5, description="share of the examples that have a picture of their own", ge=0, le=1)

    @model_validator(mode="after")
    def _leaves_a_question(self) -> Mix:
        if self.scored > self.tokens - 2:
            raise ValueError(
                f"scored {self.scored} leaves no question in {self.tokens} tokens: at least 2 have to stay"
            )
        return self


def _kind(value: object) -> str:
    return INLINE if isinstance(value, dict | InlineModel) else NAMED


Model = Annotated[Annotated[str, Tag(NAMED)] | Annotated[InlineModel, Tag(INLINE)], Discriminator(_kind)]


class Grid(_Part):
    """Every combination is a point, for strong scaling (the same batch on more GPUs) and for weak (a batch each)."""

    models: tuple[Model, ...] = Field(
        ..., description="named shapes, directories with a config.json, or sizes, e.g. {arch: llava, params: 30m}",
        min_length=1,
    )  # fmt: skip
    gpus: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 4, 8), description="numbers of GPUs", min_length=1)
    gpu: str = Field("h100-80g", description="kind of GPU, as for plan; cpu; auto: what this machine has")
    gpus_per_node: int = Field(8, description="GPUs of one machine", ge=1)
    stages: tuple[Stage, ...] = Field(("z0", "z3"), description="shipped DeepSpeed files", min_length=1)
    methods: tuple[str, ...] = Field(
        ("gd", "npo", "kl"), description="the first, or gd where it is among them, is what others are compared with",
        min_length=1,
    )  # fmt: skip
    set: dict[str, dict[str, float | str]] = Field({}, description="method -> hyperparameter -> value")
    mixes: dict[str, Mix] = Field({"half pictures": Mix()}, description="name -> what sequences are like", min_length=1)  # pyright: ignore[reportCallIssue]
    scaling: tuple[Scaling, ...] = Field(("strong", "weak"), description="which of the two", min_length=1)
    global_batch: int = Field(16, description="strong: forget examples a step, over all GPUs", ge=1)
    per_gpu_batch: int = Field(4, description="weak: forget examples a step, of each GPU", ge=1)
    retain_ratio: float = Field(1.0, description="retain examples per forget example", gt=0)
    micro_batch: int | None = Field(None, description="examples of one forward pass (default: about 16k tokens)", ge=1)
    full: bool = Field(False, description="train all of the language model instead of LoRA")
    lora_r: int = Field(int(MINI_UNLEARN["lora_r"]), description="LoRA rank", ge=1)
    reference: Literal["auto", "adapter", "cache", "copy"] = Field("auto", description="as for plan")
    dtype: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on GPUs, fp32 on CPUs")
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", description="auto: on GPUs, where it does not fit without"
    )
    measure: Literal["auto", "never"] = Field("auto", description="auto: points whose devices are here")
    measure_ranks: int = Field(2, description="on CPUs: the most ranks a measured point may have", ge=1)
    steps: int = Field(5, description="steps whose median is taken", ge=1)
    warmup: int = Field(2, description="steps before them", ge=1)
    timeout: float = Field(600.0, description="seconds after which a point that is measured is given up", gt=0)
    seed: int = Field(0, description="of weights and examples", ge=0)

    @model_validator(mode="after")
    def _whole_nodes(self) -> Grid:
        for count in self.gpus:
            if count > self.gpus_per_node and count % self.gpus_per_node:
                raise ValueError(f"gpus: {count} are no whole number of nodes of gpus_per_node {self.gpus_per_node}")
        for name in ("gpus", "stages", "methods", "scaling"):
            values = getattr(self, name)
            twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
            if twice is not None:
                raise ValueError(f"{name}: {twice} is there twice; name each once")
        if stray := next((name for name in self.set if name not in self.methods), None):
            raise ValueError(f"set: {stray} is none of methods ({', '.join(self.methods)})")
        if self.full and self.reference == "adapter":
            raise ValueError("reference: adapter needs LoRA; with full, use cache or copy")
        return self

    @property
    def baseline(self) -> str:
        """The method whose cost is 1."""
        return "gd" if "gd" in self.methods else self.methods[0]

    @property
    def size(self) -> int:
        """Points, before those that cannot be are left out."""
        lists = (self.models, self.gpus, self.stages, self.methods, self.mixes, self.scaling)
        out = 1
        for values in lists:
            out *= len(values)
        return out
