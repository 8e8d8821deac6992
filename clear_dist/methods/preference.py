"""Terms that prefer one answer to another, or to none: sequence-level log-ratios.

Log-ratio of an answer: log pi(y|x) - log pi_o(y|x), **summed** over its tokens. It is a statistic of its own, not the
difference of two: where student and reference are nearly equal, as unlearning starts, the difference is rounding.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from clear_dist.types import TokenStats, View

from .objective import Objective
from .terms import label, not_negative, positive, term


def _log_ratio(s: TokenStats) -> Tensor:
    """[N]"""
    return s.per_example(s["log_ratio"], "sum")


def npo(view: View, *, beta: float = 1.0) -> Objective:
    """Negative preference optimisation (arXiv 2404.05868, eq. 3; CLEAR appendix A).

    (2/beta) E log(1 + (pi(y|x)/pi_o(y|x))^beta), the log-ratio summed over the answer. beta -> 0 is gradient
    ascent; a large beta stops sooner.
    """
    positive("npo", beta=beta)

    def value(s: TokenStats) -> Tensor:
        return s.global_mean(2.0 / beta * F.softplus(beta * _log_ratio(s)))

    return term(label("npo", view, beta=None if beta == 1 else float(beta)), (view,), {"log_ratio"}, value)


def dpo(win: View, lose: View, *, beta: float = 0.1) -> Objective:
    """Direct preference optimisation (arXiv 2305.18290, eq. 7): -E log sigmoid(beta (r(win) - r(lose))), r the
    log-ratio. The two views are bound example by example."""
    positive("dpo", beta=beta)
    if win is lose:
        raise ValueError(f"dpo: prefers {win.name} to itself; name two views, e.g. dpo(IDK, FORGET)")

    def value(w: TokenStats, s: TokenStats) -> Tensor:
        assert w.examples == s.examples and w.total_examples == s.total_examples, "a pair is bound example by example"
        return s.global_mean(F.softplus(-beta * (_log_ratio(w) - _log_ratio(s))))

    return term(label("dpo", win, lose, beta=float(beta)), (win, lose), {"log_ratio"}, value)


def simnpo(view: View, *, beta: float = 2.5, gamma: float = 0.0) -> Objective:
    """SimNPO (arXiv 2410.07163, eq. 4): -(2/beta) E log sigmoid(-beta/|y| log pi(y|x) - gamma). No reference: the
    log-probability is divided by the answer's length instead."""
    positive("simnpo", beta=beta)
    not_negative("simnpo", gamma=gamma)

    def value(s: TokenStats) -> Tensor:
        return s.global_mean(2.0 / beta * F.softplus(beta * s.per_example(s["logp"]) + gamma))

    name = label("simnpo", view, beta=float(beta), gamma=None if gamma == 0 else float(gamma))
    return term(name, (view,), {"logp"}, value)
