"""Membership scores: was an answer in the training data? Asked of the model's log-probabilities alone.

    loss         mean_t log p(y_t)                                       Yeom et al. 2018, arXiv 1709.01604
    zlib         sum_t log p(y_t) / bytes of the zlib-compressed answer  Carlini et al. 2021, arXiv 2012.07805
    min_k        mean of log p(y_t) over the least likely 20% of tokens  Shi et al. 2024, arXiv 2310.16789
    min_k_plus   the same of (log p(y_t) - mu_t) / sigma_t               Zhang et al. 2025, arXiv 2404.02936
    reference    mean_t log p(y_t) - mean_t log p_gold(y_t)              Carlini et al. 2021: a second model calibrates

mu_t and sigma_t are mean and standard deviation of log p(z) over the model's next token z. A score is high for what
looks like a member. What a score is worth is its AUC: the chance that a member scores above a non-member, ties counting
half; 1/2 is guessing. Deviations from the public code of OpenUnlearning: EOS counts in every score (there in loss and
zlib only), and zlib divides the sum, not the mean, by the bytes, so that a long answer is not taken for a member's.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from clear_dist.metrics.interval import Estimate
from clear_dist.metrics.probability import mean_logp
from clear_dist.types import UserError

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus", "reference")
SHARE = 0.2  # of an answer's tokens that min_k looks at
LEAST_STD = 1e-3  # of a token's distribution: OpenUnlearning's floor of the variance, 1e-6


def loss_score(logp: Sequence[float]) -> float:
    """Mean log-probability per token (nats, <= 0) from the answer's tokens [|y|], EOS included."""
    return mean_logp(logp)


def zlib_score(logp: Sequence[float], text: str) -> float:
    """Log-probability of the whole answer over the bytes zlib needs for it (nats per byte, <= 0): likely texts that are
    not merely simple ones. Bytes differ a little between builds of zlib."""
    return mean_logp(logp) * len(logp) / len(zlib.compress(text.encode("utf-8", "surrogatepass")))


def _lowest(values: NDArray[np.float64], share: float) -> float:
    """Mean of the lowest ``share`` of values, at least one."""
    if not 0 < share <= 1:
        raise UserError(f"share of tokens is {share}, expected more than 0 and at most 1")
    count = max(1, math.floor(values.size * share + 1e-9))  # .2 * 35 is 7, not 6.99...
    return float(np.sort(values)[:count].mean())


def min_k(logp: Sequence[float], share: float = SHARE) -> float:
    """Mean log-probability of the least likely ``share`` of tokens, at least one (nats, <= 0)."""
    mean_logp(logp)  # refuses what is empty or not finite
    return _lowest(np.asarray(logp, dtype=np.float64), share)


def min_k_plus(logp: Sequence[float], mean: Sequence[float], std: Sequence[float], share: float = SHARE) -> float:
    """Min-K%++: as :func:`min_k`, each log-probability first calibrated by the distribution it comes from.

    Args:
        logp, mean, std: [|y|] per token: log p(y_t), and mean and standard deviation of log p(z) (``Scored``).
        share: of the tokens that count.

    Standard deviations below LEAST_STD count as that: a distribution all on one token says nothing of how surprising
    it is. Raises UserError on lengths that differ and on values that are not finite.
    """
    mean_logp(logp)
    if not len(logp) == len(mean) == len(std):
        raise UserError(
            f"Min-K%++ of an answer of {len(logp)} tokens: got {len(mean)} means and {len(std)} standard deviations of "
            "log p(z), expected one of each per token"
        )
    centre, spread = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
    if not (np.isfinite(centre).all() and np.isfinite(spread).all() and (spread >= 0).all()):
        raise UserError("Min-K%++: a mean or standard deviation of log p(z) is not finite, or negative")
    return _lowest((np.asarray(logp, dtype=np.float64) - centre) / np.maximum(spread, LEAST_STD), share)


def reference_score(logp: Sequence[float], logp_ref: Sequence[float]) -> float:
    """How much likelier per token the answer is to the model than to a reference that never saw it (nats).

    Raises UserError if the two saw different tokens.
    """
    if len(logp) != len(logp_ref):
        raise UserError(
            f"reference score: {len(logp)} tokens by the model and {len(logp_ref)} by the reference; expected the same "
            "answer cut by the same tokenizer"
        )
    return mean_logp(logp) - mean_logp(logp_ref)


def _scores(name: str, values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise UserError(f"AUC: no scores of {name}, expected at least one")
    if not np.isfinite(array).all():
        raise UserError(f"AUC: score {int(np.flatnonzero(~np.isfinite(array))[0])} of {name} is not a finite number")
    return np.sort(array)


def auc(members: Sequence[float], nonmembers: Sequence[float]) -> float:
    """Chance that a member scores above a non-member, ties 1/2, in [0, 1]: Mann-Whitney's U / (m n), exactly.

    Args:
        members, nonmembers: [m] and [n] scores, higher = more like a member.

    Raises UserError on an empty side or a score that is not finite.
    """
    a, b = _scores("members", members), _scores("non-members", nonmembers)
    # Twice U in whole numbers: each member counts the non-members below it and those not above it.
    twice = np.searchsorted(b, a, side="left").sum() + np.searchsorted(b, a, side="right").sum()
    return int(twice) / (2 * a.size * b.size)


def auc_interval(members: Sequence[float], nonmembers: Sequence[float], level: float = 0.95) -> Estimate:
    """The AUC with its interval; n counts members and non-members together. Arguments and errors as in :func:`auc`.

    Newcombe's score interval (2006, Statistics in Medicine 25, 559: method 5): the limits t solve

        (AUC - t)^2 = z^2 V(t),  V(t) = t(1-t) [1 + h (1-t)/(2-t) + h t/(1+t)] / (m n),  h = (m+n)/2 - 1

    the variance of Hanley and McNeil taken at the limit, as Wilson's interval does for proportions. Bootstrap and
    DeLong collapse to [1, 1] where members and non-members do not overlap, which is just what an original model with
    few people shows. Examples are taken as independent.
    """
    value, m, n = auc(members, nonmembers), len(members), len(nonmembers)
    z, h = NormalDist().inv_cdf((1 + level) / 2), (m + n) / 2 - 1

    def outside(t: float) -> bool:
        """Whether t is further from the AUC than z standard errors at t."""
        variance = t * (1 - t) * (1 + h * (1 - t) / (2 - t) + h * t / (1 + t)) / (m * n)
        return (value - t) ** 2 > z * z * variance

    def limit(end: float) -> float:
        """Bisection between the AUC (inside) and 0 or 1 (outside, the variance being 0 there)."""
        inside, beyond = value, end
        for _ in range(60):
            middle = (inside + beyond) / 2
            inside, beyond = (inside, middle) if outside(middle) else (middle, beyond)
        return inside

    return Estimate(value, limit(0.0), limit(1.0), m + n)


def privleak(auc_model: float, auc_gold: float) -> float | None:
    """PrivLeak in percent: 100 (A - A_gold) / A_gold with A = 1 - AUC; None where gold's A is 0.

    0 where the model gives its forget set away no more than gold does; negative where members can still be told
    (an original model: near -100), positive where answers were pushed below those of people never seen. MUSE (Shi et
    al. 2024, arXiv 2407.06460) writes AUC where A stands here: its code counts the forget set as the non-members
    (README of github.com/jaechan-repo/muse_bench), so its AUC is 1 minus the usual one, as OpenUnlearning notes
    (src/evals/metrics/privacy.py). Sign and percent are theirs. MUSE takes Min-K% with 40% of the tokens; here it is
    given for every attack, and Min-K% looks at 20%.
    """
    return None if auc_gold >= 1.0 else 100.0 * (auc_gold - auc_model) / (1.0 - auc_gold)
