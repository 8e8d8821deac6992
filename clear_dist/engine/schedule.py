"""Learning-rate schedules: linear warm-up, then cosine, linear or constant."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

ScheduleName = Literal["cosine", "linear", "constant"]


def lr_factor(name: ScheduleName, total_steps: int, warmup: float) -> Callable[[int], float]:
    """step (0-based) -> factor of the peak rate.

    warmup: the fraction of ``total_steps`` (below 1) or the number of steps (1 and above) of the linear rise. The first
    step already moves (factor 1/warm-up steps), and the last one still does (never exactly 0).
    """
    rise = round(warmup * total_steps) if warmup < 1 else round(warmup)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        fraction = min(1.0, (step - rise) / max(1, total_steps - rise))
        if name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * fraction))
        if name == "linear":
            return 1.0 - fraction
        return 1.0

    return factor
