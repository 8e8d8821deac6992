"""Weights that change over training: a factor for every moment, as progress = step / total steps in [0, 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .text import number

MAX_ROUNDS = 1_000_000


class Schedule(Protocol):
    """A weight that changes over training."""

    def at(self, progress: float) -> float:
        """The factor at ``progress`` = step / total steps, in [0, 1)."""
        ...


def _fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}: the fraction of training must lie in 0..1, got {value}")


@dataclass(frozen=True)
class Until:
    """1 until a fraction of training is done, 0 afterwards (SCRUB: forget first, then only repair)."""

    fraction: float

    def __post_init__(self) -> None:
        _fraction("until", self.fraction)

    def at(self, progress: float) -> float:
        return 1.0 if progress < self.fraction else 0.0

    def __str__(self) -> str:
        return f"until({number(self.fraction)})"


@dataclass(frozen=True)
class After:
    """0 until a fraction of training is done, 1 afterwards."""

    fraction: float

    def __post_init__(self) -> None:
        _fraction("after", self.fraction)

    def at(self, progress: float) -> float:
        return 0.0 if progress < self.fraction else 1.0

    def __str__(self) -> str:
        return f"after({number(self.fraction)})"


@dataclass(frozen=True)
class Alternate:
    """Training cut into 2 x ``rounds`` equal parts: 1 in those of its turn, 0 in the others.

    SCRUB (arXiv 2302.09880, algorithm 1) alternates a pass that moves away from the teacher on the forget set
    (``turn`` 0) with a pass that repairs the retain set (``turn`` 1).
    """

    rounds: int
    turn: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= MAX_ROUNDS or self.turn not in (0, 1):
            raise ValueError(f"alternate: rounds in 1..{MAX_ROUNDS} and turn 0 or 1, got {self.rounds} and {self.turn}")

    def at(self, progress: float) -> float:
        # The small constant keeps 1/3 * 3 from falling into the part before.
        return 1.0 if int(progress * 2 * self.rounds + 1e-9) % 2 == self.turn else 0.0

    def __str__(self) -> str:
        return f"alternate({self.rounds}, {self.turn})"
