"""Forget quality: can the unlearned model's truth ratios be told from the gold model's?

The exact two-sample Kolmogorov-Smirnov test (TOFU, arXiv 2401.06121). With F, G the empirical distribution
functions of n and m values, D = max |F - G| and p = P(D' >= D) over all equally likely interleavings of the two
samples. p is found by following every lattice path from (0, 0) to (n, m): with A(x, y) the chance that a path
ending in (x, y) has left the corridor |x/n - y/m| < D,

    A(x, y) = 1 outside the corridor, else  x/(x+y) A(x-1, y) + y/(x+y) A(x, y-1)

Only positive numbers are added, in log space along anti-diagonals, so ln p is right to rounding however small p is
(the papers print ln p down to -123, where 1 - (paths inside) would have lost every digit).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clear_dist.metrics.interval import DRAWS
from clear_dist.types import UserError

ALPHA = 0.05  # below this p the two models are told apart
_BLOCK = 4_000_000  # counts held at once while resampling


@dataclass(frozen=True)
class ForgetQuality:
    """p: chance of so large a distance if both models were alike; ln_p: its natural logarithm;
    ks: the distance D; n: truth ratios per model (the smaller count where they differ)."""

    p: float
    ln_p: float
    ks: float
    n: int


def ks_ln_p(n: int, m: int, distance: int) -> float:
    """ln P(D >= distance / lcm(n, m)) for two samples of n and m values from one continuous distribution.

    distance: D * lcm(n, m), an integer, so that the corridor's edge is compared without rounding.
    Time O((n + m) * min(n, m)), memory O(min(n, m)).
    """
    assert n > 0 and m > 0
    n, m = min(n, m), max(n, m)
    common = math.lcm(n, m)
    step_x, step_y = common // n, common // m  # x/n - y/m = (x*step_x - y*step_y) / common
    if distance <= 0:
        return 0.0
    if distance > common:
        return -math.inf
    x_all = np.arange(n + 1)
    with np.errstate(divide="ignore"):
        log_x = np.log(x_all)  # log 0 = -inf: no step can come from there
    ln_left = np.full(n + 1, -math.inf)  # ln A along the current anti-diagonal, by x
    for total in range(1, n + m + 1):
        low, high = max(0, total - m), min(n, total)
        y = total - x_all
        with np.errstate(divide="ignore", invalid="ignore"):
            from_below = ln_left + np.where(y > 0, np.log(np.maximum(y, 1)), -math.inf)
        from_left = np.concatenate(([-math.inf], ln_left[:-1])) + log_x
        ln_left = np.logaddexp(from_below, from_left) - math.log(total)
        ln_left[np.abs(x_all * step_x - y * step_y) >= distance] = 0.0
        ln_left[:low] = -math.inf
        ln_left[high + 1 :] = -math.inf
    return min(float(ln_left[n]), 0.0)


def _finite(name: str, values: Sequence[float]) -> NDArray[np.float64]:
    array = np.sort(np.asarray(values, dtype=np.float64))
    if array.size == 0:
        raise UserError(
            f"forget quality needs truth ratios of the {name} model, got none: are there perturbed answers?"
        )
    if np.isnan(array).any():
        raise UserError(f"forget quality: a truth ratio of the {name} model is NaN")
    return array


def forget_quality(unlearned: Sequence[float], gold: Sequence[float]) -> ForgetQuality:
    """Exact two-sample KS test between the truth ratios R of two models on the forget set.

    Ties count as equal values (the test is then conservative, as usual). Raises UserError on empty or NaN input.
    """
    a, b = _finite("unlearned", unlearned), _finite("gold", gold)
    points = np.concatenate([a, b])
    common = math.lcm(a.size, b.size)
    below_a = np.searchsorted(a, points, side="right") * (common // a.size)
    below_b = np.searchsorted(b, points, side="right") * (common // b.size)
    distance = int(np.abs(below_a - below_b).max())
    ln_p = ks_ln_p(a.size, b.size, distance)
    return ForgetQuality(p=math.exp(ln_p), ln_p=ln_p, ks=distance / common, n=min(a.size, b.size))


@lru_cache(maxsize=1024)
def smallest_detectable(n: int, alpha: float = ALPHA) -> float:
    """The KS distance two samples of n must reach before p falls below alpha; more than 1 means: never.

    What a p-value above alpha is worth: with few rows even a clear difference passes unseen.
    """
    low, high = 1, n + 1  # p falls with the distance: bisection
    while low < high:
        middle = (low + high) // 2
        if _equal_p(n, middle) < alpha:
            high = middle
        else:
            low = middle + 1
    return low / n


def _equal_p(n: int, distance: int) -> float:
    """P(D >= distance / n) for two samples of n: 2 sum_j (-1)^(j-1) C(2n, n - j distance) / C(2n, n), j = 1, 2 ...
    (Gnedenko and Korolyuk 1951). Quicker than :func:`ks_ln_p`, but it underflows where that does not."""
    terms = [
        2 * math.lgamma(n + 1) - math.lgamma(n - k + 1) - math.lgamma(n + k + 1)
        for k in range(distance, n + 1, distance)
    ]
    return min(1.0, 2 * sum(math.exp(term) * (-1) ** j for j, term in enumerate(terms)))


def power(
    original: Sequence[float], gold: Sequence[float], *, draws: int = DRAWS, seed: int = 0, alpha: float = ALPHA
) -> float:
    """Chance that the test tells the original model from gold (p < alpha) on so many rows, in [0, 1].

    What a large p of an unlearned model is worth: a test that would not even see the original proves nothing. Estimated
    by the bootstrap: rows are drawn anew, and the test made again, ``draws`` times. Both models answer the same
    questions, so a row is drawn with both of its ratios. Like every power computed from what was observed it flatters
    a little: resampling adds its own spread to the distance.

    Args:
        original, gold: [n] truth ratios, row by row of the same questions.

    Raises UserError on empty or NaN input and on different numbers of rows.
    """
    for name, ratios in (("original", original), ("gold", gold)):
        _finite(name, ratios)
    n = len(original)
    if len(gold) != n:
        raise UserError(f"power: {n} truth ratios of the original model and {len(gold)} of gold, expected as many")
    distance = round(smallest_detectable(n, alpha) * n)
    _, rank = np.unique(np.concatenate([original, gold]), return_inverse=True)
    width = int(rank.max()) + 1  # distinct values
    rng = np.random.default_rng(seed)
    told_apart, block = 0, max(1, _BLOCK // (2 * n))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        row = rng.integers(n, size=(size, n))
        at = np.arange(size)[:, None] * width
        counts = [np.bincount((values[row] + at).ravel(), minlength=size * width) for values in (rank[:n], rank[n:])]
        gap = (counts[0] - counts[1]).reshape(size, width).cumsum(axis=1)
        told_apart += int((np.abs(gap).max(axis=1) >= distance).sum())
    return told_apart / draws
