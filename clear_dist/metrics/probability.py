"""Probability of an answer, from the natural log-probabilities of its tokens.

    plain            p(y|x)^(1/|y|) = exp(mean_t log p(y_t | x, y_<t))
    multiple choice  p(y_1)^(1/|y_1|) / sum_i p(y_i)^(1/|y_i|), the right answer first

(TOFU, arXiv 2401.06121, section 2.2.1; CLEAR, arXiv 2410.18057, section 4.3.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from clear_dist.types import UserError


def mean_logp(logp: Sequence[float]) -> float:
    """Mean log-probability per token of one answer: [|y|] -> scalar (nats).

    Raises UserError if there is no token or a value is not finite: a model whose weights have diverged answers
    with NaN, and an average over what is left would look like a result.
    """
    if len(logp) == 0:
        raise UserError("an answer has no tokens: expected at least one log-probability per answer (EOS counts)")
    values = np.asarray(logp, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise UserError(
            f"log-probability of answer token {bad[0]} is {values[bad[0]]}, expected a finite number: the model's "
            "weights have probably diverged; check the training loss, lower the learning rate and train again"
        )
    return float(values.mean())


def answer_probability(logp: Sequence[float]) -> float:
    """p(y|x)^(1/|y|) in [0, 1] from the answer's per-token log-probabilities."""
    return math.exp(mean_logp(logp))


def choice_share(mean_logps: Sequence[float]) -> float:
    """Share of the first of several answers, from their mean log-probabilities: softmax(mean_logps)[0]."""
    if len(mean_logps) == 0:
        raise UserError("a multiple-choice question has no options: expected the right answer and at least one other")
    values = np.asarray(mean_logps, dtype=np.float64)
    weights = np.exp(values - values.max())  # shifted, so that very small probabilities keep their ratio
    return float(weights[0] / weights.sum())


def choice_probability(logps: Sequence[Sequence[float]]) -> float:
    """Length-normalised probability of the first (right) option among all options, in [0, 1]."""
    return choice_share([mean_logp(option) for option in logps])
