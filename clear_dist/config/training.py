"""How to train: fine-tuning and unlearning."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from clear_dist.defaults import DEFAULT_METHOD, MINI_FINETUNE, MINI_UNLEARN, preset_values

from .base import DataFields, ModelFields, Preset, opt


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
    gradient_checkpointing: Literal["auto", "on", "off"] = opt(
        "auto",
        "layout",
        "recompute activations in backward: less memory, a third more computing (auto: on a GPU, where the plan does "
        "not fit without)",
    )
    tower_cache: Literal["auto", "on", "off"] = opt(
        "auto",
        "layout",
        "the frozen vision tower's output of every picture: computed once and kept in memory (auto: where that is less "
        "work, and fits into a quarter of the host's free memory)",
    )
    compile: bool = opt(
        False,
        "layout",
        "torch.compile of the decoder's blocks, not under ZeRO-3: the first steps take minutes, the rest less",
    )
    prefetch: int = opt(2, "layout", "batches packed ahead while a step runs (0: none)", "N", ge=0, le=64)
    ds: Path | None = opt(
        None,
        "layout",
        "DeepSpeed JSON, e.g. ds_configs/z3.json, or the name of a shipped one; auto values are filled. auto: the "
        "first shipped stage that fits this device",
        "FILE|auto",
    )
    resume: str = opt(
        "auto", "run", "auto: go on where this run stopped; or go on from the run at PATH", "auto|never|PATH"
    )
    checkpoint_every: int = opt(0, "run", "steps between checkpoints (0: at the end of every epoch)", "N", ge=0)
    keep_checkpoints: int = opt(2, "run", "checkpoints that stay; older ones go once a newer is there", "N", ge=1)
    max_skipped_steps: int = opt(
        0, "training", "steps without a finite loss and gradient that are left out before the run stops", "N", ge=0
    )
    hang_minutes: float = opt(
        30.0, "run", "minutes without a step after which every rank writes its stacks and exits (0: never)", "X", ge=0
    )
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
        preset = preset_values(numbers, cls.recipe, method if isinstance(method, str) else None)
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
        if self.base_weights == "nf4" and self.full:
            raise ValueError("`base_weights` nf4 are frozen: they need LoRA, not `full`")
        if self.base_weights == "nf4" and self.compile:
            raise ValueError("`compile` does not know 4-bit weights: leave it out, or use `base_weights` full")
        if self.layout == "varlen" and self.attention not in ("auto", "flash_attention_2"):
            raise ValueError(
                f"`layout` varlen needs `attention` flash_attention_2, not {self.attention}: use `layout` dense"
            )
        return self


def as_number(value: float | str) -> float | str:
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
        return {key: as_number(value) for key, value in values.items()}

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
        for name in ("method", "objective"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise ValueError(f"`{name}` is empty: name one, or leave it out")
        if self.method and self.objective:
            raise ValueError("`method` and `objective` both say what to optimise: give one of them")
        if self.full and self.reference == "adapter":
            raise ValueError("`reference` adapter needs LoRA: with `full`, use cache or copy")
        if self.reference_model is not None and self.reference not in ("auto", "copy"):
            raise ValueError("`reference_model` is a second model: it needs `reference` copy, or none given")
        if self.merge and self.base_weights == "nf4":
            raise ValueError(
                "`merge` adds the adapter to weights that are 4-bit: rounding them again would undo what was learned; "
                "keep the adapter"
            )
        if self.full and self.l1:
            raise ValueError("`l1` is a penalty on LoRA weights: it needs LoRA, not `full`")
        if self.keep == "best" and not self.eval_every:
            raise ValueError("`keep` best chooses among evaluated steps: it needs `eval_every`")
        return self
