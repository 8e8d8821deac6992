"""Attacks on the models of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Final

from pydantic import StringConstraints

from .base import Config, opt

FAMILIES: Final = ("relearn", "quantise", "prompts", "prefixes")
_ONE = f"({'|'.join(FAMILIES)})"


class RobustnessConfig(Config):
    """Try to bring back what a finished run's models forgot: train a little, round the weights, ask otherwise.

    Records are added to the run's; summary and report are written again.
    """

    recipe: ClassVar[str] = "robustness"
    run: Annotated[Path, "positional"] = opt(
        ..., "run", "directory of a finished unlearn, evaluate or quickstart", "RUN"
    )
    attacks: Annotated[str, StringConstraints(pattern=rf"^(all|{_ONE}(,{_ONE})*)$")] = opt(
        "all", "evaluation", f"{', '.join(FAMILIES)}: some of them, comma-separated; or all", "all|A,B,C"
    )
    limit: int = opt(200, "evaluation", "questions to ask of the forget set, and of the retain set", "N", ge=1)
    relearn_rows: int = opt(
        4, "training", "relearn: rows to show again, of the forget set and of the retain set", "N", ge=1
    )
    relearn_steps: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*$")] = opt(
        "1,5,20", "training", "relearn: optimiser steps after which to ask", "N,N,N"
    )
    relearn_lr: float | None = opt(
        None, "training", "relearn: learning rate (default: the one the run unlearned with, else 1e-4)", "X", gt=0
    )
    seed: int = opt(0, "run", "seed of the rows shown again and of the adapter they train", "N", ge=0)

    @property
    def families(self) -> tuple[str, ...]:
        """The attacks asked for, in the order they run."""
        return FAMILIES if self.attacks == "all" else tuple(f for f in FAMILIES if f in self.attacks.split(","))

    @property
    def steps(self) -> tuple[int, ...]:
        """``relearn_steps`` as numbers, going up."""
        return tuple(sorted({int(step) for step in self.relearn_steps.split(",")}))
