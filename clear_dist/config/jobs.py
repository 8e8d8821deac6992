"""Commands that train nothing by themselves, or only the small things CLEAR-mini is made of."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import StringConstraints, model_validator

from clear_dist.defaults import DEFAULT_METHOD

from .base import Config, DataFields, ModelFields, opt


class EvaluateConfig(DataFields, ModelFields):
    """Ask models about the forget, retain, real-faces and real-world sets, and write records and a report."""

    recipe: ClassVar[str] = "evaluate"
    original: Path | None = opt(None, "model", "model before unlearning, shown beside it", "DIR")
    gold: Path | None = opt(None, "evaluation", "model that never saw the people; needed for forget quality", "DIR")
    name: Annotated[str, StringConstraints(pattern=r"^[^/\s\p{C}][^/\p{C}]*$")] = opt(
        "unlearned", "run", "what records and report call --model; no slash, no control character", "NAME"
    )
    eval_limit: int | None = opt(None, "evaluation", "examples of each set to evaluate (default: all)", "N", ge=1)
    truth_ratio: Literal["geometric", "arithmetic"] = opt(
        "geometric", "evaluation", "mean over wrong answers: of TOFU's code and logs, or as CLEAR prints it"
    )
    clip: str | None = opt(None, "evaluation", "CLIP model for CLIPScore: a directory or Hub name", "DIR|HUB")
    max_new_tokens: int = opt(48, "evaluation", "longest generated answer", "N", ge=1)
    pass_tokens: int | None = opt(
        None, "layout", "tokens of one forward pass (default: 16384, on a GPU 32768)", "N", ge=1
    )
    ds: Path | None = opt(
        None, "layout", "DeepSpeed JSON; with ZeRO stage 3 models are cut into shards over the ranks", "FILE"
    )
    resume: Literal["auto", "never"] = opt("auto", "run", "auto: what was asked before is not asked again")
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
