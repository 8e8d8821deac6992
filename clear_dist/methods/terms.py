"""The terms: a per-token statistic, reduced to a scalar.

Notation: pi the student, pi_o the reference (the **original** model, never the base), y the answer tokens.
Reduction, everywhere unless said otherwise: the mean over an example's answer tokens, then the mean over the
view's examples, by global counts (arXiv 2410.18057, appendix A: 1/|y| inside, expectation outside).
``reduction="token"`` takes one mean over all the view's answer tokens instead (what HF's loss does).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from clear_dist.types import TokenStats, View

from .objective import Objective, ParameterSet, Penalty, Term, Weighted

FORGET, RETAIN, IDK = View.FORGET, View.RETAIN, View.IDK
Reduction = Literal["example", "token"]
Direction = Literal["forward", "reverse"]


def _single(name: str, view: View, wants: set[str], value) -> Objective:
    return Objective((Weighted(Term(name, (view,), frozenset(wants), value)),))


def _mean(stats: TokenStats, x: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "token":
        return stats.global_token_mean(x)
    return stats.global_mean(stats.per_example(x))


def _label(head: str, view: View, **options: object) -> str:
    shown = "".join(f", {k}={v}" for k, v in options.items() if v is not None)
    return f"{head}({view.name}{shown})"


def nll(view: View, *, reduction: Reduction = "example") -> Objective:
    """Negative log-likelihood: E[ -1/|y| sum_t log pi(y_t) ]."""
    name = _label("nll", view, reduction=None if reduction == "example" else reduction)
    return _single(name, view, {"logp"}, lambda s: -_mean(s, s["logp"], reduction))


def entropy(view: View, *, reduction: Reduction = "example") -> Objective:
    """Entropy of the predictions: E[ 1/|y| sum_t H(pi(.|t)) ], in nats."""
    name = _label("entropy", view, reduction=None if reduction == "example" else reduction)
    return _single(name, view, {"entropy"}, lambda s: _mean(s, s["entropy"], reduction))


def kl(view: View, *, direction: Direction = "reverse", reduction: Reduction = "example") -> Objective:
    """KL divergence between student and reference on answer tokens.

    reverse: KL(pi || pi_o), the direction CLEAR and LLMU print; forward: KL(pi_o || pi), SCRUB's.
    """
    stat = f"kl_{direction}"
    name = _label(
        "kl",
        view,
        direction=None if direction == "reverse" else direction,
        reduction=None if reduction == "example" else reduction,
    )
    return _single(name, view, {stat}, lambda s: _mean(s, s[stat], reduction))


def npo(view: View, *, beta: float = 1.0) -> Objective:
    """Negative preference optimisation (arXiv 2404.05868, eq. 3; CLEAR appendix A).

    (2/beta) E log(1 + (pi(y|x)/pi_o(y|x))^beta), the log-ratio **summed** over the answer. beta -> 0 is
    gradient ascent; a large beta stops sooner.
    """
    if beta <= 0:
        raise ValueError(f"npo: beta must be > 0, got {beta}")

    def value(s: TokenStats) -> Tensor:
        log_ratio = s.per_example(s["logp"] - s["logp_ref"], "sum")
        return s.global_mean(2.0 / beta * F.softplus(beta * log_ratio))

    return _single(_label("npo", view, beta=None if beta == 1 else f"{beta:g}"), view, {"logp", "logp_ref"}, value)


def l1(parameters: ParameterSet = "lora", *, reduction: Literal["sum", "mean"] = "sum") -> Objective:
    """Sum (or mean) of |w| over the LoRA (or all trainable) weights.

    At LoRA initialisation of a 7B model the plain sum is in the hundreds and swamps the loss, hence ``mean``.
    """
    return Objective(penalties=(Penalty("l1", parameters, reduction),))
