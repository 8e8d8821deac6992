"""The per-token numbers that losses are written with, by their usual names: each one statistic of ``token_stats``."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .dispatch import Impl
from .token_stats import HeadAdapter, token_stats

Kind = Literal["forward", "reverse", "js"]


def kl_statistic(kind: str) -> str:
    """``forward`` -> ``kl_forward``.

    Raises:
        ValueError: another kind.
    """
    names = {"forward": "kl_forward", "reverse": "kl_reverse", "js": "js"}
    if kind not in names:
        raise ValueError(f"kind: expected one of {sorted(names)}, got {kind!r}")
    return names[kind]


def linear_logp(
    h: Tensor, weight: Tensor, y: Tensor, *, adapter: HeadAdapter | None = None, impl: Impl = "auto"
) -> Tensor:
    """log softmax(h W^T)[y], without the logits of more than a few hundred tokens at a time.

    4TDV operations, forward and backward together, for a frozen head; 8TDV for a trained one.

    Args:
        h: [T, D] hidden states of the scored tokens.
        weight: [V, D] head, or [V, D] W of a head with ``adapter``.
        y: [T] int64 targets; -100 is not scored and gives 0.
        adapter, impl: see ``token_stats``.

    Returns:
        [T] fp32, in nats.

    Raises:
        ValueError: see ``token_stats``.
    """
    return token_stats(h, weight, y, adapter=adapter, want=("logp",), impl=impl)["logp"]


def linear_log_ratio(
    h: Tensor,
    h_ref: Tensor,
    weight: Tensor,
    y: Tensor,
    weight_ref: Tensor | None = None,
    *,
    adapter: HeadAdapter | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """log p(y) - log q(y), what NPO (arXiv 2404.05868) and DPO (arXiv 2305.18290) sum over an answer.

    With a shared head, from x = (h - h_ref) W^T: ``x_y - log sum_v q_v e^(x_v)``, exact where the two models are nearly
    equal. 6TDV operations for a frozen head.

    Args:
        h, h_ref: [T, D] hidden states of student and reference.
        weight: [V, D] the student's head, and the reference's unless ``weight_ref`` is given.
        y: [T] int64 targets; -100 is not scored and gives 0.
        adapter, impl: see ``token_stats``.

    Returns:
        [T] fp32, in nats; no gradient flows into the reference.

    Raises:
        ValueError: see ``token_stats``.
    """
    found = token_stats(
        h, weight, y, h_ref=h_ref, weight_ref=weight_ref, adapter=adapter, want=("log_ratio",), impl=impl
    )
    return found["log_ratio"]


def linear_kl(
    h: Tensor,
    h_ref: Tensor,
    weight: Tensor,
    weight_ref: Tensor | None = None,
    *,
    kind: Kind = "forward",
    y: Tensor | None = None,
    adapter: HeadAdapter | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """KL divergence per token between student p = softmax(h W^T) and reference q = softmax(h_ref W_ref^T).

    6TDV operations for a frozen head. With a shared head the difference form: see ``ops.rows``.

    Args:
        h, h_ref: [T, D] hidden states of student and reference.
        weight: [V, D] the student's head, and the reference's unless ``weight_ref`` is given.
        kind: ``forward`` KL(q || p), the reference first; ``reverse`` KL(p || q); ``js`` Jensen-Shannon.
        y: [T] int64, optional: -100 marks tokens that are not scored; other targets change nothing.
        adapter, impl: see ``token_stats``.

    Returns:
        [T] fp32, in nats, >= 0 (js <= log 2).

    Raises:
        ValueError: an unknown kind; see ``token_stats``.
    """
    name = kl_statistic(kind)
    found = token_stats(h, weight, y, h_ref=h_ref, weight_ref=weight_ref, adapter=adapter, want=(name,), impl=impl)
    return found[name]
