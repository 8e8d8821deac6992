"""95% confidence intervals of means over examples, seeded, so that a report is the same twice.

Means of 0/1 outcomes get Wilson's score interval: the bootstrap of "0 of 16" is [0, 0], which claims certainty
where there is little. All other means get the percentile bootstrap. Examples are taken as independent; where
several are about one person the true interval is wider.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clear_dist.types import UserError

DRAWS = 1000
_BLOCK = 4_000_000  # entries of the resampling matrix held at once


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval and the number of examples behind it; ``note`` says what is special about it."""

    value: float
    low: float
    high: float
    n: int
    note: str | None = None

    def as_dict(self) -> dict[str, object]:
        """As in summary.json: {"value", "ci": [low, high], "n"}, and "note" where there is one."""
        out: dict[str, object] = {"value": self.value, "ci": [self.low, self.high], "n": self.n}
        return out if self.note is None else {**out, "note": self.note}

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> Estimate | None:
        """The inverse of ``as_dict``; None stays None. Raises UserError on anything else."""
        if value is None:
            return None
        try:
            low, high = value["ci"]
            n, note = value["n"], value.get("note")
            numbers = (value["value"], low, high)
            if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers) or not is_count(n):
                raise ValueError("a figure is three finite numbers and a count")
            mean, low, high = map(float, numbers)
            return cls(mean, low, high, n, None if note is None else str(note))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f'summary: expected {{"value", "ci": [low, high], "n"}} or null, got {value!r}') from error


def is_count(value: object) -> bool:
    """Whether a value read from a file can be a number of examples."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def resample(values: NDArray[np.float64], draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Bootstrap means. values [N, K], NaN = absent -> [draws, K]: column means of ``draws`` resamples of the rows.

    Rows are drawn together, so columns measured on the same examples keep their correlation. A resample in which
    a column has no value gives NaN.
    """
    n = values.shape[0]
    assert n > 0
    present = (~np.isnan(values)).astype(np.float64)
    filled = np.nan_to_num(values)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // n)
    parts = []
    for start in range(0, draws, block):
        size = min(block, draws - start)
        index = rng.integers(n, size=(size, n)) + np.arange(size)[:, None] * n
        counts = np.bincount(index.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        with np.errstate(invalid="ignore"):
            parts.append(counts @ filled / (counts @ present))
    return np.concatenate(parts)


def percentile_interval(samples: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """The central ``level`` of bootstrap values [B]; NaN values (resamples without data) are left out."""
    low, high = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson(hits: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def mean_interval(values: Sequence[float], *, seed: int = 0, draws: int = DRAWS, note: str | None = None) -> Estimate:
    """Mean of per-example values with its 95% interval. Raises UserError on no values or values not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise UserError("a mean needs at least one value")
    if not np.isfinite(array).all():
        raise UserError(f"value {int(np.flatnonzero(~np.isfinite(array))[0])} of {array.size} is not a finite number")
    mean = float(array.mean())
    if np.isin(array, (0.0, 1.0)).all():
        low, high = wilson(float(array.sum()), array.size)
    else:
        low, high = percentile_interval(resample(array[:, None], draws, seed)[:, 0])
    return Estimate(mean, low, high, int(array.size), note)
