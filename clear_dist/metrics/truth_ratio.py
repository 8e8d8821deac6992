"""Truth ratio: are wrong answers as likely as the right one, worded differently?

    R = mean_{y' perturbed} p(y'|x)^(1/|y'|)  /  p(y_paraphrased|x)^(1/|y|)

Equation 3 of CLEAR (arXiv 2410.18057) takes the arithmetic mean. TOFU's released code averages the losses, which
is the geometric mean, and that one reproduces the published logs; it is the default here. R is small for a model
that knows the answer. On retain-like sets max(0, 1 - R) is reported, on the forget set min(R, 1/R).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from clear_dist.metrics.probability import mean_logp
from clear_dist.metrics.record import LogProbs, Record
from clear_dist.types import SetName, UserError

Mean = Literal["geometric", "arithmetic"]
_LIMIT = 700.0  # exp(+-700) is still a finite double, so R and 1/R can be stored


def truth_ratio(paraphrase: float, perturbed: Sequence[float], mean: Mean = "geometric") -> float:
    """R >= 0 from mean log-probabilities per token (nats): of the paraphrase, and of each wrong answer.

    Raises UserError without wrong answers or with values that are not finite.
    """
    wrong = np.asarray(perturbed, dtype=np.float64)
    if wrong.size == 0:
        raise UserError("a truth ratio needs at least one perturbed (wrong) answer, got none")
    if not (np.isfinite(wrong).all() and math.isfinite(paraphrase)):
        raise UserError("a truth ratio needs finite log-probabilities: the model's weights have probably diverged")
    if mean == "geometric":
        log_wrong = float(wrong.mean())
    elif mean == "arithmetic":
        top = float(wrong.max())
        log_wrong = top + math.log(float(np.exp(wrong - top).mean()))
    else:
        raise UserError(f"truth ratio mean {mean!r} is unknown: expected 'geometric' or 'arithmetic'")
    return math.exp(min(max(log_wrong - paraphrase, -_LIMIT), _LIMIT))


def ratio_of(logp: LogProbs, mean: Mean = "geometric") -> float | None:
    """Truth ratio R of stored log-probabilities; None where there are no wrong answers.

    Wrong answers are the perturbed ones, else the wrong options; the right one is the paraphrase, else the answer
    (as TOFU does on its real-world sets).
    """
    wrong = logp.perturbed or logp.options[1:]
    right = logp.paraphrase or (logp.answer if logp.perturbed else (logp.options or (None,))[0])
    if not wrong or right is None:
        return None
    return truth_ratio(mean_logp(right), [mean_logp(w) for w in wrong], mean)


def record_ratio(record: Record, mean: Mean = "geometric") -> float | None:
    """R of a record's log-probabilities; the stored score stands in where there are none (imported logs)."""
    ratio = ratio_of(record.logp, mean)
    return record.score("truth_ratio") if ratio is None and mean == "geometric" else ratio


def truth_score(ratio: float, set_name: SetName) -> float:
    """What is averaged, in [0, 1]: min(R, 1/R) on the forget set, max(0, 1 - R) on all others.

    High means "cannot tell right from wrong" on the forget set and "knows the truth" on the others.
    """
    if set_name == "forget":
        return 0.0 if ratio == 0.0 else min(ratio, 1.0 / ratio)
    return max(0.0, 1.0 - ratio)
