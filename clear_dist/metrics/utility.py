"""Harmonic means over metrics: the Real / Retain / Forget metric of CLEAR and TOFU's model utility.

    metric of a set  harmonic mean of its ROUGE-L recall, probability and truth-ratio score
    model utility    harmonic mean of these three over retain, real faces and real world (nine entries): all sets but
                     the forget set, and but a holdout set, whose people no model is meant to know

The Forget metric mixes ROUGE and probability, where low means forgotten, with a truth ratio where high does: it is
reported as the paper prints it, and nothing should be decided by it alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def harmonic_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., K] -> [...]: harmonic mean over the last axis; 0 where any entry is 0; NaN where any is NaN."""
    values = np.asarray(values, dtype=np.float64)
    assert values.shape[-1] > 0
    with np.errstate(divide="ignore"):
        inverse = 1.0 / values
    return values.shape[-1] / inverse.sum(axis=-1)


def harmonic_mean(values: Iterable[float | None]) -> float | None:
    """Harmonic mean of non-negative numbers; None if there are none or any is missing."""
    entries = list(values)
    if not entries or any(v is None for v in entries):
        return None
    return float(harmonic_means(np.array(entries, dtype=np.float64)))
