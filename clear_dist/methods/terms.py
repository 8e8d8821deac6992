"""Terms on the probabilities of answer tokens: a per-token statistic, reduced to a scalar.

Notation: pi the student, pi_o the reference (the **original** model, never the base), y the answer tokens.
Reduction, everywhere unless said otherwise: the mean over an example's answer tokens, then the mean over the
view's examples, by global counts (arXiv 2410.18057, appendix A: 1/|y| inside, expectation outside).
``reduction="token"`` takes one mean over all the view's answer tokens instead (what HF's loss does).
Terms on preferences are in ``preference``, those on hidden states in ``hidden``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from clear_dist.types import TokenStats, View

from .objective import SEQUENCE, Objective, ParameterSet, Penalty, Term, Want, Weighted
from .text import number

FORGET, RETAIN, IDK, RANDOM = View.FORGET, View.RETAIN, View.IDK, View.RANDOM
PRIVATE, SAFE, GUIDE, AUGMENTED = View.PRIVATE, View.SAFE, View.GUIDE, View.AUGMENTED
Reduction = Literal["example", "token"]
Direction = Literal["forward", "reverse"]
Tokens = Literal["answer", "sequence"]


def term(name: str, views: tuple[View, ...], wants: set[Want], value: Callable[..., Tensor]) -> Objective:
    """An objective of one term with weight 1."""
    return Objective((Weighted(Term(name, views, frozenset(wants), value)),))


def label(head: str, *views: View, **options: object) -> str:
    """``head(VIEW, option=value)``; options that are None are left out (they have their default)."""
    shown = [v.name for v in views] + [f"{k}={_shown(v)}" for k, v in options.items() if v is not None]
    return f"{head}({', '.join(shown)})"


def weighted(weight: float, objective: Objective) -> Objective:
    """weight x objective, and nothing at all for weight 0: no forward pass is spent on it."""
    return weight * objective if weight else Objective()


def positive(term_name: str, **numbers: float) -> None:
    """Raises ValueError unless every number is finite and > 0."""
    for name, value in numbers.items():
        if not 0.0 < value < float("inf"):
            raise ValueError(f"{term_name}: {name} must be > 0 and finite, got {value}")


def not_negative(term_name: str, **numbers: float) -> None:
    """Raises ValueError unless every number is finite and >= 0."""
    for name, value in numbers.items():
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"{term_name}: {name} must be >= 0 and finite, got {value}")


def _shown(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _other(value: object, default: object) -> object:
    """The value where it is not the default, for ``label``."""
    return None if value == default else value


def _mean(stats: TokenStats, x: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "token":
        return stats.global_token_mean(x)
    return stats.global_mean(stats.per_example(x))


def nll(view: View, *, reduction: Reduction = "example") -> Objective:
    """Negative log-likelihood: E[ -1/|y| sum_t log pi(y_t) ]."""
    name = label("nll", view, reduction=_other(reduction, "example"))
    return term(name, (view,), {"logp"}, lambda s: -_mean(s, s["logp"], reduction))


def bounded_nll(view: View, *, ceiling: float = 5.0) -> Objective:
    """NLL that stops counting where it is high enough: E[ 1/|y| sum_t min(-log pi(y_t), ceiling) ], in nats.

    Its ascent, ``-bounded_nll(FORGET)``, is gradient ascent that lets go of a token once its NLL has passed the
    ceiling, so it cannot run away. Ours: PUBG (arXiv 2506.02541) names plain ascent.
    """
    positive("bounded_nll", ceiling=ceiling)
    name = label("bounded_nll", view, ceiling=float(ceiling))
    return term(name, (view,), {"logp"}, lambda s: _mean(s, (-s["logp"]).clamp(max=ceiling), "example"))


def entropy(view: View, *, reduction: Reduction = "example") -> Objective:
    """Entropy of the predictions: E[ 1/|y| sum_t H(pi(.|t)) ], in nats."""
    name = label("entropy", view, reduction=_other(reduction, "example"))
    return term(name, (view,), {"entropy"}, lambda s: _mean(s, s["entropy"], reduction))


def kl(
    view: View, *, direction: Direction = "reverse", reduction: Reduction = "example", tokens: Tokens = "answer"
) -> Objective:
    """KL divergence between student and reference: E[ 1/|y| sum_t KL_t ], in nats.

    direction: reverse, KL(pi || pi_o), is what CLEAR and LLMU print; forward, KL(pi_o || pi), is SCRUB's and PUBG's.
    tokens: ``sequence`` averages over prompt, image and answer tokens alike, as TOFU's and CLEAR's public code do
    (their padding tokens, whose number depends on the batch, have no counterpart in packed batches).
    """
    options = {"direction": _other(direction, "reverse"), "reduction": _other(reduction, "example")}
    name = label("kl", view, **options, tokens=_other(tokens, "answer"))
    if tokens == "sequence":
        return term(name, (view,), {f"{SEQUENCE}kl_{direction}"}, _over_sequence(f"kl_{direction}", reduction))
    stat = f"kl_{direction}"
    return term(name, (view,), {stat}, lambda s: _mean(s, s[stat], reduction))


def _over_sequence(stat: str, reduction: Reduction) -> Callable[[TokenStats], Tensor]:
    """Mean of a statistic over the tokens of whole sequences."""

    def value(s: TokenStats) -> Tensor:
        x = s[f"{SEQUENCE}{stat}"]
        if reduction == "token":
            return x.sum() / max(s.total_sequence, 1)
        return s.global_mean(s.per_sequence(x, images=True))

    return value


def vocabulary_npo(view: View, *, beta: float = 0.1) -> Objective:
    """What the public CLEAR code calls npo, for comparison only: E over positions of whole sequences and over the
    whole vocabulary of (2/beta) log(1 + (pi(v)/pi_o(v))^beta). It never looks at which token the answer holds."""
    positive("vocabulary_npo", beta=beta)
    stat = f"npo_vocab({number(float(beta))})"
    return term(
        label("vocabulary_npo", view, beta=float(beta)), (view,), {SEQUENCE + stat}, _over_sequence(stat, "example")
    )


def wga(view: View, *, alpha: float = 1.0) -> Objective:
    """Weighted gradient ascent, to be minimised: E[ 1/|y| sum_t w_t log pi(y_t) ], w_t = pi(y_t)^alpha held constant.

    Tokens already forgotten pull less (arXiv 2502.19301; its token mean is taken per example here).
    """
    positive("wga", alpha=alpha)

    def value(s: TokenStats) -> Tensor:
        logp = s["logp"]
        return _mean(s, (alpha * logp.detach()).exp() * logp, "example")

    return term(label("wga", view, alpha=float(alpha)), (view,), {"logp"}, value)


def satimp(view: View, *, beta1: float = 5.0, beta2: float = 1.0) -> Objective:
    """Saturation and importance weights, to be minimised: E[ 1/|y| sum_t w_t log pi(y_t) ] with
    w_t = pi(y_t)^beta1 (1 - pi(y_t))^beta2 held constant (arXiv 2505.11953; defaults as published for TOFU)."""
    not_negative("satimp", beta1=beta1, beta2=beta2)

    def value(s: TokenStats) -> Tensor:
        logp, rest = s["logp"], s["log1mp"]
        return _mean(s, (beta1 * logp.detach() + beta2 * rest.detach()).exp() * logp, "example")

    name = label("satimp", view, beta1=float(beta1), beta2=float(beta2))
    return term(name, (view,), {"logp", "log1mp"}, value)


def ce_u(view: View, *, skip: int = 1) -> Objective:
    """Cross-entropy unlearning (arXiv 2503.01224): E[ mean_t CE(q_t, pi_t) ], q_t the student's own prediction with
    the true token taken out, held constant.

    With q = pi / (1 - pi(y)) off y, the cross-entropy is H(q) - log(1 - pi(y)), and the gradient of its first part
    at q = sg(q) is that of -log(1 - pi(y)) alone: this is how it is computed, without a second distribution.
    ``skip``: the first answer tokens, which say little, are left out (the paper's footnote); an answer that has no
    more than ``skip`` tokens contributes 0.
    """
    if skip < 0 or int(skip) != skip:
        raise ValueError(f"ce_u: skip must be a whole number >= 0, got {skip}")

    def value(s: TokenStats) -> Tensor:
        logp, rest = s["logp"].detach(), s["log1mp"]
        away = rest.detach()
        # H(q), a constant: entropy of pi = H2(pi(y)) + (1 - pi(y)) H(q).
        binary = -(logp.exp() * logp + away.exp() * away.clamp(min=-80.0))
        h_q = ((s["entropy"].detach() - binary).clamp(min=0.0) * (-away).clamp(max=80.0).exp()).nan_to_num()
        kept = (_place(s.example) >= skip).to(rest.dtype)
        counts = s.per_example(kept, "sum").clamp(min=1.0)
        return s.global_mean(s.per_example((h_q - rest) * kept, "sum") / counts)

    name = label("ce_u", view, skip=_other(int(skip), 1))
    return term(name, (view,), {"logp", "log1mp", "entropy"}, value)


def _place(example: Tensor) -> Tensor:
    """[T] -> [T]: a token's place in its answer, counted from 0 (``example`` is non-decreasing)."""
    index = torch.arange(len(example), device=example.device)
    return index - torch.searchsorted(example.contiguous(), example.contiguous())


def undial(view: View, *, strength: float = 10.0) -> Objective:
    """Self-distillation on adjusted logits (UNDIAL, arXiv 2402.10052): E[ 1/|y| sum_t CE(q'_t, pi_t) ], where q' is
    the reference's prediction with ``strength`` subtracted from the true token's logit.

    With q = pi_o, q' gives the true token k q(y) / Z and all others together w = (1 - q(y)) / Z, k = e^-strength and
    Z = 1 - q(y) + k q(y); hence CE(q', pi) = w CE(q without y, pi) - (1 - w) log pi(y), with
    w = sigmoid(log(1 - q(y)) - log q(y) + strength): exact beside a memorised answer too, at any strength.
    """
    positive("undial", strength=strength)

    def value(s: TokenStats) -> Tensor:
        away = (s["log1mp_ref"] - s["logp_ref"] + strength).sigmoid()
        return _mean(s, away * s["cross_rest"] - (1.0 - away) * s["logp"], "example")

    wants: set[Want] = {"logp", "logp_ref", "log1mp_ref", "cross_rest"}
    return term(label("undial", view, strength=float(strength)), (view,), wants, value)


def l1(parameters: ParameterSet = "lora", *, reduction: Literal["sum", "mean"] = "sum") -> Objective:
    """Sum (or mean) of |w| over the LoRA (or all trainable) weights.

    At LoRA initialisation of a 7B model the plain sum is in the hundreds and swamps the loss, hence ``mean``.
    """
    return Objective(penalties=(Penalty("l1", parameters, reduction),))
