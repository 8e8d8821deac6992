"""``clear-dist plan``: what a job would need on GPUs that need not be there."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from clear_dist.defaults import DEFAULT_METHOD, MINI_UNLEARN

from .base import Config, opt
from .training import as_number

# Of an example of CLEAR: question and answer of a caption or fact, in LLaMA's tokens.
TEXT_TOKENS, ANSWER_TOKENS = 128, 64

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # pydantic has a deprecated method `json`; the flag is worth its name

    class PlanConfig(Config):
        """Memory, traffic and time of an unlearning step before anything is downloaded or booked: will it fit, how fast
        will it be, and what to change. No weight is read, no GPU is needed. Exit status 1 where it does not fit."""

        recipe: ClassVar[str] = "plan"
        model: str = opt(
            "llava-1.5-7b", "model", "a model directory (only its config.json is read), or a named shape", "DIR|NAME"
        )
        gpus: int = opt(8, "layout", "GPUs in all: data-parallel ranks", "N", ge=1)
        gpus_per_node: int = opt(8, "layout", "GPUs of one machine", "N", ge=1)
        gpu: str = opt("h100-80g", "layout", "kind of GPU, e.g. a100-80g, h200-141g", "NAME")
        ds: Path | None = opt(
            Path("auto"),
            "layout",
            "DeepSpeed JSON, or the name of a shipped one; auto: the first that fits",
            "FILE|auto",
        )
        dtype: Literal["auto", "fp32", "bf16"] = opt("auto", "layout", "auto: bf16 on GPUs, fp32 on CPU")
        attention: Literal["sdpa", "flash_attention_2"] = opt("sdpa", "layout", "what computes attention")
        gradient_checkpointing: Literal["auto", "on", "off"] = opt(
            "auto", "layout", "recompute activations: less memory, more time (auto: where it does not fit without)"
        )
        tower_cache: Literal["off", "on"] = opt(
            "off", "layout", "on: the frozen vision tower's features are there already, so that it does not run"
        )
        micro_batch: int | None = opt(
            None, "layout", "examples of all views in one forward pass of a rank (default: about 16k tokens)", "N", ge=1
        )
        method: str | None = opt(None, "method", f"see `clear-dist methods` (default: {DEFAULT_METHOD})", "NAME")
        objective: str | None = opt(
            None, "method", 'an equation instead, e.g. "2*nll(RETAIN) - nll(FORGET)"', "EQUATION"
        )
        set: dict[str, float | str] = opt({}, "method", "a hyperparameter of the method, e.g. beta=0.5", "KEY=VALUE")
        retain_ratio: float = opt(
            MINI_UNLEARN["retain_ratio"], "method", "retain examples per forget example", "X", gt=0
        )
        reference: Literal["auto", "adapter", "cache", "copy"] = opt(
            "auto",
            "method",
            "the original inside a loss: the adapter switched off (LoRA), its states kept on disk (full), or a second, "
            "sharded model",
        )
        full: bool = opt(False, "training", "train all of the language model instead of LoRA")
        base_weights: Literal["full", "nf4"] = opt(
            "full", "training", "weights of the decoder's blocks beneath LoRA: as they are, or in 4 bits"
        )
        lora_r: int = opt(MINI_UNLEARN["lora_r"], "training", "LoRA rank", "N", ge=1)
        global_batch: int = opt(16, "training", "forget examples a step, over all ranks", "N", ge=1)
        tokens: int = opt(
            TEXT_TOKENS, "data", "text tokens of an example, question and answer; a picture's come on top", "N", ge=2
        )
        scored: int = opt(ANSWER_TOKENS, "data", "answer tokens of an example", "N", ge=1)
        pictures: float = opt(0.5, "data", "share of the examples that have a picture of their own", "X", ge=0, le=1)
        json: bool = opt(False, "output", "one JSON object on the standard output, for programs")  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        out: Path | None = opt(None, "output", "also write plan.json, plan.md and plan.png", "DIR")

        @field_validator("set", mode="after")
        @classmethod
        def _numbers_are_numbers(cls, values: dict[str, Any]) -> dict[str, Any]:
            return {key: as_number(value) for key, value in values.items()}

        @property
        def method_name(self) -> str | None:
            """The method in force; None where an objective is written out."""
            return None if self.objective else self.method or DEFAULT_METHOD

        @model_validator(mode="after")
        def _consistent_plan(self) -> PlanConfig:
            if self.method and self.objective:
                raise ValueError("`method` and `objective` both say what to optimise: give one of them")
            if self.full and self.reference == "adapter":
                raise ValueError("`reference` adapter needs LoRA: with `full`, use cache or copy")
            if self.full and self.base_weights == "nf4":
                raise ValueError("`base_weights` nf4 are frozen: they need LoRA, not `full`")
            if self.scored >= self.tokens:
                raise ValueError(
                    f"`scored` {self.scored} answer tokens leave nothing of `tokens` {self.tokens} for the question"
                )
            if self.gpus > self.gpus_per_node and self.gpus % self.gpus_per_node:
                raise ValueError(
                    f"`gpus` {self.gpus} are no whole number of nodes of `gpus_per_node` {self.gpus_per_node}"
                )
            return self
