"""What can be asked of each command: one frozen model per recipe, flat fields, a description and a range for each.

The same models are built by flags, by JSON or YAML files (``clear_dist.flags``) and by Python code. Values that nothing
names come from a preset (``clear_dist.defaults``). Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import typing
import warnings
from copy import copy
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model, field_validator, model_validator
from pydantic.fields import FieldInfo

from clear_dist.defaults import DEFAULT_METHOD, MINI_FINETUNE, MINI_UNLEARN, PAPER_UNLEARN, preset_values

ForgetSplit = Literal["forget01", "forget05", "forget10"]
Preset = Literal["mini", "paper", "clear_code", "tofu"]
# Where a run is kept and how it is watched: two runs that differ only here give the same numbers.
NOT_IDENTITY = frozenset({"out", "resume", "dry_run", "tracker", "checkpoint_every", "reference_cache"})

# Fields that may name a file whose contents decide a run's numbers.
CONTENTS = ("ds", "forget_file", "idk_answers", "objective")


def opt(default: Any, group: str, description: str, metavar: str | None = None, **ranges: float) -> Any:
    """A field with its place on the help page; ``ranges`` are pydantic's gt, ge, lt, le."""
    extra: dict[str, Any] = {"group": group} | ({"metavar": metavar} if metavar else {})
    return Field(default, description=description, json_schema_extra=extra, **ranges)  # pyright: ignore[reportArgumentType, reportCallIssue]


class Config(BaseModel):
    """What every recipe's configuration shares."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    recipe: ClassVar[str]

    def identity(self) -> dict[str, Any]:
        """The fields that decide a run's numbers, JSON-ready."""
        return self.model_dump(mode="json", exclude=set(NOT_IDENTITY))

    def digest(self) -> str:
        """SHA-256 over recipe, identity and the contents of the files it names: equal digests, equal runs."""
        parts: dict[str, Any] = {"recipe": self.recipe, **self.identity()}
        for name in CONTENTS:
            file = getattr(self, name, None)
            if file is not None and "(" not in str(file) and Path(file).is_file():
                parts[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def run_dir(self) -> Path:
        """``out``, or a directory under ``runs/`` that belongs to this very configuration."""
        out: Path | None = getattr(self, "out", None)
        return out if out is not None else Path("runs") / f"{self.recipe.replace('_', '-')}-{self.digest()[:8]}"


class DataFields(Config):
    """Which data, and who is to be forgotten."""

    data: str = opt(
        "clear-mini", "data", "dataset in CLEAR's layout: a directory, a Hub name, or clear-mini", "DIR|HUB|clear-mini"
    )
    tofu: str | None = opt(
        None, "data", "TOFU's wrong answers and paraphrases (default: tofu/ in the dataset)", "DIR|HUB|none"
    )
    forget: ForgetSplit | None = opt(
        None, "data", "a split the dataset publishes (default: forget10, unless people are named)"
    )
    forget_names: tuple[str, ...] = opt((), "data", "people to forget; everyone else is retained", '"NAME;NAME"')
    forget_file: Path | None = opt(None, "data", "the same from a file: a name or row id a line", "FILE")
    modality: Literal["text", "visual", "both"] = opt(
        "both", "data", "train on questions without a picture, with one, or both"
    )
    eval_modality: Literal["text", "visual", "both"] | None = opt(
        None, "evaluation", "what is asked afterwards (default: what is trained on)"
    )
    holdout: int = opt(0, "data", "retain people, drawn by the seed, kept out of both sets", "N", ge=0)
    unseen: int | None = opt(
        None,
        "data",
        "pictures of each person kept out of training (default: those the dataset marks)",
        "N",
        ge=0,
    )
    on_bad_data: Literal["fail", "skip"] = opt(
        "fail", "data", "a broken row or picture: stop and name it, or leave it out and list it"
    )
    max_length: int = opt(512, "layout", "longest sequence, in tokens, image tokens included", "N", ge=8)
    questions_per_picture: int = opt(4, "training", "questions that may share one picture in a batch", "N", ge=1)
    layout: Literal["dense", "varlen", "padded"] = opt(
        "dense", "layout", "packed with a block-diagonal mask, packed for flash-attention, or one sequence a row"
    )

    @model_validator(mode="before")
    @classmethod
    def _split_names(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("forget_names"), str):
            names = tuple(name.strip() for name in values["forget_names"].split(";") if name.strip())
            return {**values, "forget_names": names}
        return values

    @model_validator(mode="after")
    def _one_way_to_name_people(self) -> DataFields:
        given = [f for f in ("forget", "forget_names", "forget_file") if getattr(self, f)]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(f'`{name}`' for name in given)} both say who is to be forgotten: give one of them"
            )
        return self

    @property
    def forget_split(self) -> ForgetSplit | None:
        """The named split in force; None where people are named one by one."""
        return None if self.forget_names or self.forget_file else self.forget or "forget10"


class ModelFields(Config):
    """Which model, in which precision, and which of its weights move."""

    model: str = opt("tiny", "model", "model directory, Hub name, or tiny (the shipped base)", "DIR|HUB|tiny")
    dtype: Literal["auto", "fp32", "bf16"] = opt("auto", "layout", "auto: bf16 on GPUs, fp32 on CPU")
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = opt(
        "auto", "layout", "auto: flash-attention where it is installed and the layout allows it, sdpa otherwise"
    )
    seed: int = opt(0, "run", "seed of everything drawn", "N", ge=0)


class TrainFields(DataFields, ModelFields):
    """How to train."""

    preset: Preset = opt(
        "mini",
        "training",
        "where values not given come from: CLEAR-mini's or the paper's; clear_code and tofu run the equations of "
        "these code bases where they differ",
    )
    full: bool = opt(MINI_FINETUNE["full"], "training", "train all of the language model instead of LoRA")
    lora_r: int = opt(MINI_UNLEARN["lora_r"], "training", "LoRA rank", "N", ge=1)
    lora_alpha: float = opt(MINI_UNLEARN["lora_alpha"], "training", "LoRA alpha", "X", gt=0)
    epochs: int = opt(MINI_FINETUNE["epochs"], "training", "passes over the forget set (finetune: the data)", "N", ge=1)
    max_steps: int | None = opt(
        None, "training", "stop after this many steps; the schedule keeps its length", "N", ge=1
    )
    lr: float = opt(MINI_FINETUNE["lr"], "training", "peak learning rate", "X", gt=0)
    weight_decay: float = opt(MINI_FINETUNE["weight_decay"], "training", "AdamW's weight decay", "X", ge=0)
    warmup: float = opt(MINI_FINETUNE["warmup"], "training", "fraction of the steps that warm up", "X", ge=0, lt=1)
    schedule: Literal["cosine", "linear", "constant"] = opt(
        MINI_FINETUNE["schedule"], "training", "learning rate after warm-up"
    )
    global_batch: int = opt(
        MINI_FINETUNE["global_batch"],
        "training",
        "examples a step, over all ranks (unlearn: forget examples)",
        "N",
        ge=1,
    )
    micro_batch: int | None = opt(
        None, "layout", "examples of all views in one forward pass of a rank (default: about 16k tokens)", "N", ge=1
    )
    gradient_checkpointing: bool = opt(False, "layout", "recompute activations: less memory, more time")
    ds: Path | None = opt(None, "layout", "DeepSpeed JSON, e.g. ds_configs/z3.json; auto values are filled", "FILE")
    resume: str = opt(
        "auto", "run", "auto: go on where this run stopped; or go on from the run at PATH", "auto|never|PATH"
    )
    checkpoint_every: int = opt(0, "run", "steps between checkpoints (0: at the end of every epoch)", "N", ge=0)
    eval_every: int = opt(0, "evaluation", "steps between evaluations (0: before and after only)", "N", ge=0)
    eval_limit: int | None = opt(None, "evaluation", "examples of each set to evaluate (default: all)", "N", ge=1)
    tracker: Literal["none", "tensorboard", "wandb"] = opt("none", "run", "where metrics go besides metrics.jsonl")
    dry_run: bool = opt(False, "run", "check everything, print the plan, train nothing")
    out: Path | None = opt(None, "run", "run directory (default: runs/RECIPE-DIGEST)", "DIR")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("preset", "mini") not in typing.get_args(Preset):
            return values  # the field's own check names what is wrong
        objective = values.get("objective")
        method = None if objective else values.get("method") or cls._default_method()
        numbers = values.get("preset", "mini")
        if numbers in ("clear_code", "tofu") and values.get("data", "clear-mini") == "clear-mini":
            numbers = "mini"  # another code's equation, at a size where the paper's learning rate does nothing
        preset = preset_values(numbers, cls.recipe, method)
        if values.get("preset") in ("clear_code", "tofu"):
            preset.pop("set", None)  # tuned for the paper's equation, not for theirs
        given = values.get("set", {})
        if isinstance(given, dict) and "set" in preset:
            values = {**values, "set": {**preset["set"], **given}}
        return {**preset, **values}

    @classmethod
    def _default_method(cls) -> str | None:
        return None

    @model_validator(mode="after")
    def _consistent_training(self) -> TrainFields:
        if self.layout == "varlen" and self.attention not in ("auto", "flash_attention_2"):
            raise ValueError(
                f"`layout` varlen needs `attention` flash_attention_2, not {self.attention}: use `layout` dense"
            )
        return self


def _number(value: float | str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


class FinetuneConfig(TrainFields):
    """Fine-tune a base model on people: on everyone (the original) or on the retain set only (gold)."""

    recipe: ClassVar[str] = "finetune"
    on: Literal["all", "retain"] = opt("all", "data", "all: makes an original; retain: makes a gold model")
    replay: bool = opt(True, "data", "CLEAR-mini: mix in what the base knows, so that it is not forgotten by the way")


class UnlearnConfig(TrainFields):
    """Make a model forget people, evaluate it before and after, and write a report."""

    recipe: ClassVar[str] = "unlearn"
    method: str | None = opt(None, "method", f"see `clear-dist methods` (default: {DEFAULT_METHOD})", "NAME")
    objective: str | None = opt(None, "method", 'an equation instead, e.g. "2*nll(RETAIN) - nll(FORGET)"', "EQUATION")
    set: dict[str, float | str] = opt({}, "method", "a hyperparameter of the method, e.g. beta=0.5", "KEY=VALUE")
    l1: float = opt(0.0, "method", "weight of an L1 penalty on the LoRA weights", "X", ge=0)
    l1_reduction: Literal["sum", "mean"] = opt(
        "sum", "method", "the penalty: sum of |w|, as in the paper, or their mean"
    )
    train_layers: tuple[int, ...] | None = opt(
        None, "method", "decoder blocks to update, counted from 0 (default: all, or those the method asks for)", "N,N"
    )
    idk_answers: Path | None = opt(None, "method", "answers of the IDK view, one a line", "FILE")
    guide_instruction: str | None = opt(
        None,
        "method",
        "what the original is told when it makes safe answers; {question} stands for the question",
        "TEXT",
    )
    guide_samples: int = opt(2, "method", "safe answers the original makes for each question", "N", ge=1)
    retain_ratio: float = opt(MINI_UNLEARN["retain_ratio"], "method", "retain examples per forget example", "X", ge=0)
    reference: Literal["auto", "adapter", "cache", "copy"] = opt(
        "auto",
        "method",
        "the original inside a loss: the adapter switched off (LoRA), its states kept on disk (full), or a second, "
        "sharded model",
    )
    reference_cache: Path | None = opt(
        None, "method", "where the reference's states are kept (default: the cache directory)", "DIR"
    )
    reference_model: Path | None = opt(
        None, "method", "another model to compare with inside a loss, e.g. DPO's, fine-tuned on IDK answers", "DIR"
    )
    original: Path | None = opt(
        None,
        "model",
        "model that knows the people, to start from (default: --model, taught everyone, cached)",
        "DIR",
    )
    gold_model: Path | None = opt(None, "evaluation", "a gold model made before, to compare with", "DIR")
    merge: bool = opt(False, "run", "with LoRA: also write model/, the adapter merged into the original")
    gold: bool | None = opt(
        None,
        "evaluation",
        "train a gold model too: --model, taught all others (default: for clear-mini)",
    )
    steps: int | None = opt(None, "training", "optimiser steps in all, whatever the epochs", "N", ge=1)
    keep: Literal["last", "best"] = opt(
        "last",
        "evaluation",
        "weights to keep: after the last step; or, with --eval-every, of the evaluated step where the smaller of what "
        "is forgotten, 1 - f/f0, and what is retained, r/r0, is largest (f, r: answers found word for word on forget "
        "and retain; f0, r0: at step 0; the earliest of equals)",
    )

    @field_validator("set", mode="after")
    @classmethod
    def _numbers_are_numbers(cls, values: dict[str, float | str]) -> dict[str, float | str]:
        """The same value from a flag and from a file is the same run."""
        return {key: _number(value) for key, value in values.items()}

    @field_validator("train_layers", mode="before")
    @classmethod
    def _layers_from_text(cls, layers: Any) -> Any:
        """``5,6,7`` or ``5 6 7``, as a flag brings them."""
        return tuple(layers.replace(",", " ").split()) if isinstance(layers, str) else layers

    @field_validator("train_layers", mode="after")
    @classmethod
    def _each_layer_once(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and (not layers or min(layers) < 0):
            raise ValueError("expected decoder blocks counted from 0, e.g. 5,6,7")
        return None if layers is None else tuple(sorted(set(layers)))

    @classmethod
    def _default_method(cls) -> str | None:
        return DEFAULT_METHOD

    @property
    def variant(self) -> Literal["paper", "clear_code", "tofu"]:
        """Whose equations run: the paper's, unless the preset names another code."""
        return "paper" if self.preset == "mini" else self.preset

    @property
    def method_name(self) -> str | None:
        """The method in force; None where an objective is written out."""
        return None if self.objective else self.method or DEFAULT_METHOD

    @property
    def wants_gold(self) -> bool:
        return self.data == "clear-mini" if self.gold is None else self.gold

    @model_validator(mode="after")
    def _consistent_unlearning(self) -> UnlearnConfig:
        if self.method and self.objective:
            raise ValueError("`method` and `objective` both say what to optimise: give one of them")
        if self.full and self.reference == "adapter":
            raise ValueError("`reference` adapter needs LoRA: with `full`, use cache or copy")
        if self.reference_model is not None and self.reference not in ("auto", "copy"):
            raise ValueError("`reference_model` is a second model: it needs `reference` copy, or none given")
        if self.full and self.l1:
            raise ValueError("`l1` is a penalty on LoRA weights: it needs LoRA, not `full`")
        if self.keep == "best" and not self.eval_every:
            raise ValueError("`keep` best chooses among evaluated steps: it needs `eval_every`")
        return self


# A sweep sets these itself, run by run.
_OF_ONE_RUN = frozenset({"method", "objective", "set", "seed", "steps", "out", "resume", "dry_run"})
_IN_PRESETS = frozenset(key for preset in (MINI_UNLEARN, PAPER_UNLEARN) for key in preset if key != "set")


def _open_to_presets(name: str, field: FieldInfo) -> tuple[Any, FieldInfo]:
    """A field of every run of a sweep, with no value of its own where each method's preset has one."""
    if name not in _IN_PRESETS:
        return field.annotation, field
    field = copy(field)
    field.default = None
    kind: Any = field.annotation
    return kind | None, field


_fields: dict[str, Any] = {
    name: _open_to_presets(name, field)
    for name, field in UnlearnConfig.model_fields.items()
    if name not in DataFields.model_fields and name not in _OF_ONE_RUN
}
_Runs: Any = create_model("_Runs", __base__=DataFields, **_fields)


class SweepConfig(_Runs):
    """Run methods x seeds x grids from the same originals, with one table and the forget-retain front. Options that are
    not the sweep's own are those of `unlearn` and go to every run. Finished runs are kept: the same command goes on."""

    recipe: ClassVar[str] = "sweep"
    methods: str = opt("all", "method", "names of `clear-dist methods`, comma-separated; or none", "all|A,B,C")
    objectives: dict[str, str] = opt({}, "method", "LABEL=EQUATION: an equation beside the methods", "LABEL=EQUATION")
    grid: dict[str, tuple[float | str, ...]] = opt(
        {}, "method", "values to try, e.g. lr=3e-4,1e-3 or set.beta=0.1,0.5; several are crossed", "KEY=A,B,C"
    )
    seeds: Annotated[str, StringConstraints(pattern=r"^\d+(,\d+)*$")] = opt(
        "0", "run", "seeds of every method, comma-separated", "N,N,N"
    )
    budget: Literal["preset", "equal"] = opt(
        "preset",
        "training",
        "preset: each method as tuned; equal: the same steps, batch and learning rate for all, those of the preset's "
        "base or of --epochs, --global-batch, --lr ...",
    )
    workers: int | None = opt(
        None,
        "layout",
        "runs at a time, a process each (default: one a core; on GPUs, or under deepspeed: 1)",
        "N",
        ge=1,
    )
    dry_run: bool = opt(False, "run", "list the runs, start none")
    out: Path = opt(..., "run", "directory of the sweep", "DIR")

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for name in ("methods", "seeds"):
            if isinstance(values.get(name), list | tuple):
                values[name] = ",".join(map(str, values[name]))
        for name in ("grid", "objectives"):
            if isinstance(values.get(name), list | tuple):  # flags: KEY=VALUE, repeated
                values[name] = dict(_key_value(f"`{name}`", item) for item in values[name])
        grid = values.get("grid")
        if isinstance(grid, dict):
            values["grid"] = {k: v.split(",") if isinstance(v, str) else v for k, v in grid.items()}
        return values

    @field_validator("grid", mode="after")
    @classmethod
    def _numbers_in_grids(cls, grid: dict[str, tuple[float | str, ...]]) -> dict[str, tuple[float | str, ...]]:
        return {key: tuple(dict.fromkeys(map(_number, values))) for key, values in grid.items()}

    @property
    def seed_list(self) -> list[int]:
        return list(dict.fromkeys(map(int, self.seeds.split(","))))

    def for_each_run(self) -> dict[str, Any]:
        """The options of `unlearn` that were given: name -> value."""
        own = SweepConfig.model_fields
        shared = [n for n in UnlearnConfig.model_fields if n in own and n not in _OF_ONE_RUN]
        return {n: v for n in shared if (v := getattr(self, n)) != own[n].default}

    def identity(self) -> dict[str, Any]:
        """What must not differ between two sweeps into one directory; methods, seeds and grids may be added."""
        return {
            "budget": self.budget,
            **{k: v for k, v in super().identity().items() if k in UnlearnConfig.model_fields},
        }


def _key_value(name: str, item: str) -> tuple[str, str]:
    key, sign, value = item.partition("=")
    if not (key.strip() and sign and value.strip()):
        raise ValueError(f"{name} {item}: expected KEY=VALUE")
    return key.strip(), value.strip()


class EvaluateConfig(DataFields, ModelFields):
    """Ask models about the forget, retain, real-faces and real-world sets, and write records and a report."""

    recipe: ClassVar[str] = "evaluate"
    original: Path | None = opt(None, "model", "model before unlearning, shown beside it", "DIR")
    gold: Path | None = opt(None, "evaluation", "model that never saw the people; needed for forget quality", "DIR")
    name: str = opt("unlearned", "run", "what records and report call --model", "NAME")
    eval_limit: int | None = opt(None, "evaluation", "examples of each set to evaluate (default: all)", "N", ge=1)
    max_new_tokens: int = opt(48, "run", "longest generated answer", "N", ge=1)
    batch: int = opt(64, "run", "requests scored at a time", "N", ge=1)
    out: Path | None = opt(None, "run", "run directory (default: runs/evaluate-DIGEST)", "DIR")


class QuickstartConfig(Config):
    """The whole story on CLEAR-mini: learn everyone, learn all but a few, forget those few, compare, report."""

    recipe: ClassVar[str] = "quickstart"
    ranks: int = opt(2, "run", "processes of the unlearning job", "N", ge=1)
    ds: Path = opt(Path("ds_configs/z3.json"), "run", "DeepSpeed JSON of the unlearning job", "FILE")
    method: str = opt(DEFAULT_METHOD, "run", "see `clear-dist methods`", "NAME")
    seed: int = opt(0, "run", "seed of everything drawn", "N", ge=0)
    out: Path = opt(Path("runs/quickstart"), "run", "run directory", "DIR")


class DataMiniConfig(Config):
    """Write CLEAR-mini, people drawn by the program, as a dataset directory in CLEAR's layout."""

    recipe: ClassVar[str] = "data_mini"
    preset: Literal["mini", "full"] = opt("mini", "data", "mini: minutes on two cores; full: 200 people, CLEAR's rows")
    seed: int = opt(0, "data", "seed of the people to learn (real and generic people have their own)", "N", ge=0)
    out: Path = opt(..., "data", "directory to write", "DIR")


class ModelNewConfig(Config):
    """Make a model with random weights and a tokenizer trained on a dataset's text: jobs of real size, no downloads."""

    recipe: ClassVar[str] = "model_new"
    arch: Literal["llava", "llama"] = opt("llava", "model", "vision-language, or language only")
    params: Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?[kKmMbB]?$")] = opt(
        "30m", "model", "about how many parameters, e.g. 800k, 30m, 7b", "SIZE"
    )
    layers: int | None = opt(None, "model", "transformer layers (default: follows from params)", "N", ge=1)
    hidden: int | None = opt(None, "model", "hidden size (default: follows from params)", "N", ge=8)
    vocab: int | None = opt(None, "model", "largest vocabulary (default: follows from params)", "N", ge=300)
    text_from: Path = opt(..., "model", "dataset directory whose text the tokenizer must spell", "DIR")
    seed: int = opt(0, "model", "seed of the weights", "N", ge=0)
    out: Path = opt(..., "model", "directory to write", "DIR")


class ModelBaseConfig(Config):
    """Train the shipped base of CLEAR-mini again from nothing (a few minutes on two cores)."""

    recipe: ClassVar[str] = "model_base"
    seed: int = opt(0, "model", "seed; the shipped base has seed 0", "N", ge=0)
    out: Path = opt(..., "model", "directory to write", "DIR")


class ReportConfig(Config):
    """Write index.html and report.md of a run from its records; needs no model."""

    recipe: ClassVar[str] = "report"
    run: Annotated[Path, "positional"] = opt(..., "run", "run directory", "RUN")


with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # pydantic has a deprecated method `json`; the flag is worth its name

    class MethodsConfig(Config):
        """List the methods with their equations, sources, needs, hyperparameters and costs."""

        recipe: ClassVar[str] = "methods"
        json: bool = opt(False, "output", "as a JSON list, for programs")  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        markdown: bool = opt(False, "output", "as the Markdown of docs/methods.md")
        preset: Literal["paper", "clear_code", "tofu"] = opt(
            "paper", "output", "whose equations: the papers', CLEAR's public code's, or TOFU's"
        )

        @model_validator(mode="after")
        def _one_form(self) -> MethodsConfig:
            if self.json and self.markdown:
                raise ValueError("`json` and `markdown` are two forms of one list: give one of them")
            if self.markdown and self.preset != "paper":
                raise ValueError("`markdown` shows the equations of every `preset` at once: leave it out")
            return self
