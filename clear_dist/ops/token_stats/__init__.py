"""``token_stats``: what an unlearning loss needs to know of each answer token, from one pass over the head."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

from torch import Tensor

from .reference import token_stats_reference

Impl = Literal["auto", "reference"]
STATISTICS: frozenset[str] = frozenset({"logp", "entropy", "logp_ref", "kl_forward", "kl_reverse", "js"})
NEEDS_REFERENCE: frozenset[str] = frozenset({"logp_ref", "kl_forward", "kl_reverse", "js"})

_IMPLEMENTATIONS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "auto": token_stats_reference,
    "reference": token_stats_reference,
}


def token_stats(
    h: Tensor,
    weight: Tensor,
    y: Tensor,
    *,
    h_ref: Tensor | None = None,
    weight_ref: Tensor | None = None,
    want: Collection[str] = ("logp",),
    impl: Impl = "auto",
) -> dict[str, Tensor]:
    """Per-token statistics, fp32 and differentiable with respect to the student (``h`` and ``weight``).

    With ``p = softmax(h W^T)`` (student) and ``q = softmax(h_ref W_ref^T)`` (reference), in nats:

    * ``logp``        log p(y)
    * ``entropy``     -sum p log p
    * ``logp_ref``    log q(y)
    * ``kl_forward``  KL(q || p), the reference first
    * ``kl_reverse``  KL(p || q), the student first
    * ``js``          (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2

    Args:
        h: [T, D] final hidden states of the scored tokens, any float dtype.
        weight: [V, D] head weight of the student.
        y: [T] int64 target tokens.
        h_ref: [T, D] the reference's hidden states; required by the last four statistics.
        weight_ref: [V, D] the reference's head; ``weight`` where the head is shared.
        want: names of the statistics to compute.
        impl: which implementation to run; ``auto`` picks.

    Returns:
        name -> [T] fp32. Gradients never flow into the reference. T = 0 gives empty tensors that are
        still connected to the graph.

    Raises:
        ValueError: unknown statistic, or one that needs a reference without ``h_ref``.
    """
    unknown = set(want) - STATISTICS
    if unknown:
        raise ValueError(f"unknown statistics {sorted(unknown)}; known: {sorted(STATISTICS)}")
    if h_ref is None and NEEDS_REFERENCE & set(want):
        raise ValueError(f"{sorted(NEEDS_REFERENCE & set(want))} need h_ref")
    if impl not in _IMPLEMENTATIONS:
        raise ValueError(f"unknown impl {impl!r}; known: {sorted(_IMPLEMENTATIONS)}")
    return _IMPLEMENTATIONS[impl](h, weight, y, h_ref, weight_ref, want)
