"""U-LIRA: per example, is a logit likelier under models that forgot it or under models that never saw it?

    score = log N(l; mu_f, s_f) - log N(l; mu_n, s_n)
          = log(s_n / s_f) + ((l - mu_n) / s_n)^2 / 2 - ((l - mu_f) / s_f)^2 / 2

mu and s are fitted, per example, to the shadow logits of either side. The target counts as one that forgot where the
score is above 0; exactly 0 counts half. Sources: LiRA, Carlini et al. 2022 (arXiv 2112.03570); U-LiRA, Hayes et al.
2024 (arXiv 2403.01218); CLEAR, section 5.2. Deviations: the score stays a difference of logarithms, where public code
divides two densities that are both 0 in the far tail and then calls every target a non-member; each side has its own
spread, where public code has that of the forgotten side on both; and models are targets in turn (see ``logits``).

How the spread is estimated:

    std     standard deviation (n - 1) per side and example, about the mean: what we headline. It sees differences of
            location and of spread, with almost the power of ``pooled``
    mad     median absolute deviation / 0.6745 per side and example, about the median: as CLEAR's code has it
    pooled  one variance for both sides of an example, weighed by degrees of freedom: sees differences of location only
    global  one variance per side over all examples, about each example's mean: for few shadow models

Legend: F forgotten targets, U never targets, E examples, n shadow models of a side in a fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from clear_dist.attacks.logits import LEAST_SHADOWS, Floats, Ints, Logits

Variance = Literal["mad", "std", "pooled", "global"]
VARIANCES: Final[tuple[Variance, ...]] = get_args(Variance)
MAD_TO_SIGMA = 0.6745  # the median absolute deviation of a normal distribution of standard deviation 1

# Below this, a difference of logits is rounding: bf16 keeps a cosine to about 2^-9, which moves a logit by at least
# 4 * 2^-9 = 0.008. Without a floor, shadows that agree to the last bit (all at the clamp) would make any other logit
# impossible. Where both sides are below it, the nearer mean decides.
SIGMA_FLOOR = 1e-2


@dataclass(frozen=True)
class Scores:
    """Scores of an attack, higher = more like a model that forgot: forgotten [F, E], never [U, E]; NaN = absent."""

    forgotten: Floats
    never: Floats


@dataclass(frozen=True)
class _Fit:
    """Location and spread [E] of either side; NaN where there are too few shadows."""

    mu_f: Floats
    s_f: Floats
    mu_n: Floats
    s_n: Floats


@dataclass(frozen=True)
class _Side:
    """Shadows of one side: per example how many, their location, their sum of squares about it."""

    n: Ints
    centre: Floats
    squares: Floats


def scores(logits: Logits, variance: Variance = "std") -> Scores:
    """The score of every target, by the shadows of the other folds.

    NaN where a logit is, and (in a bootstrap draw) where fewer than LEAST_SHADOWS shadows of a side are left.
    """
    return all_scores(logits, (variance,))[variance]


def all_scores(logits: Logits, variances: Sequence[Variance] = VARIANCES) -> dict[Variance, Scores]:
    """``scores`` under several estimators, which share what they have in common."""
    out: dict[Variance, Scores] = {
        v: Scores(np.full_like(logits.forgotten, np.nan), np.full_like(logits.never, np.nan)) for v in variances
    }
    for k in range(logits.folds):
        mine_f, mine_n = logits.fold_f == k, logits.fold_n == k
        targets_f, targets_n = logits.forgotten[mine_f], logits.never[mine_n]
        for variance, fit in _fits(logits.forgotten[~mine_f], logits.never[~mine_n], variances).items():
            out[variance].forgotten[mine_f] = _log_ratio(targets_f, fit)
            out[variance].never[mine_n] = _log_ratio(targets_n, fit)
    return out


def _log_ratio(values: Floats, fit: _Fit) -> Floats:
    """Score of logits [M, E] by the two normal distributions of each example, in logarithms throughout."""
    z_f, z_n = (values - fit.mu_f) / fit.s_f, (values - fit.mu_n) / fit.s_n
    return np.log(fit.s_n / fit.s_f) + 0.5 * (z_n * z_n - z_f * z_f)


def _fits(forgotten: Floats, never: Floats, variances: Sequence[Variance]) -> dict[Variance, _Fit]:
    """Locations and spreads of either side from its shadows [n, E], by estimator."""
    out: dict[Variance, _Fit] = {}
    if "mad" in variances:
        (mu_f, s_f), (mu_n, s_n) = _median_and_mad(forgotten), _median_and_mad(never)
        out["mad"] = _Fit(mu_f, s_f, mu_n, s_n)
    if set(variances) <= {"mad"}:
        return out
    f, n = _moments(forgotten), _moments(never)
    both = (f.squares + n.squares) / np.maximum(f.n + n.n - 2, 1)
    spreads: dict[Variance, tuple[Floats, Floats]] = {
        "std": (f.squares / np.maximum(f.n - 1, 1), n.squares / np.maximum(n.n - 1, 1)),
        "pooled": (both, both),
        "global": (_over_examples(f), _over_examples(n)),
    }
    for variance in variances:
        if variance != "mad":
            out[variance] = _Fit(f.centre, _sigma(spreads[variance][0]), n.centre, _sigma(spreads[variance][1]))
    return out


def _over_examples(side: _Side) -> Floats:
    """One variance for all examples, as [E]."""
    freedom = np.maximum(side.n - 1, 0).sum()
    return np.full(side.n.shape, side.squares.sum() / max(int(freedom), 1))


def _sigma(variance: Floats) -> Floats:
    return np.maximum(np.sqrt(variance), SIGMA_FLOOR)


def _moments(values: Floats) -> _Side:
    """Per example over the shadows [n, E] that count, in two passes: sums of squares of logits would cancel."""
    seen = ~np.isnan(values)
    n = seen.sum(axis=0)
    mean = np.where(seen, values, 0.0).sum(axis=0) / np.maximum(n, 1)
    gap = np.where(seen, values - mean, 0.0)
    return _Side(n, np.where(n >= LEAST_SHADOWS, mean, np.nan), np.einsum("me,me->e", gap, gap))


def _median_and_mad(values: Floats) -> tuple[Floats, Floats]:
    if not len(values):
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], SIGMA_FLOOR)
    columns = np.sort(values.T, axis=1)  # [E, n]; NaN last
    n = (~np.isnan(columns)).sum(axis=1)
    median = _median_of_sorted(columns, n)
    mad = _median_of_sorted(np.sort(np.abs(columns - median[:, None]), axis=1), n)
    return median, np.maximum(mad / MAD_TO_SIGMA, SIGMA_FLOOR)


def _median_of_sorted(columns: Floats, n: Ints) -> Floats:
    """Median of the first n [E] of each row [E, N]; NaN where there are fewer than LEAST_SHADOWS."""
    last = np.maximum(n - 1, 0)
    row = np.arange(len(columns))
    middle = (columns[row, last // 2] + columns[row, (last + 1) // 2]) / 2
    return np.where(n >= LEAST_SHADOWS, middle, np.nan)
