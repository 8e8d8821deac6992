"""The membership attacks on a finished farm of shadow models."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from .base import Config, opt


class AttackConfig(Config):
    """Attack the models of a farm: can forgotten people be told from people never seen? Writes a report."""

    recipe: ClassVar[str] = "attack"
    farm: Path = opt(..., "run", "directory of the farm", "DIR")
    out: Path = opt(..., "run", "run directory of the attack", "DIR")
    enrolment: Literal["held_out", "paper"] | None = opt(
        None,
        "evaluation",
        "pictures behind enrolment vectors: never attacked, or attacked as in CLEAR (default: as the farm has it)",
    )
    variance: Literal["mad", "std", "pooled", "global"] = opt(
        "std", "evaluation", "how U-LIRA estimates a spread: all four are reported, this one leads"
    )
    folds: int = opt(5, "evaluation", "parts of the models, judged in turn by the others; 2: half and half", "N", ge=2)
    draws: int = opt(1000, "evaluation", "bootstrap draws of an interval", "N", ge=100)
    seed: int = opt(0, "run", "seed of folds and draws", "N", ge=0)
