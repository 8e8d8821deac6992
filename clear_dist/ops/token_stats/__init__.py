"""``token_stats``: what an unlearning loss needs to know of each answer token, from one pass over the head."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

from torch import Tensor

from .names import HIDDEN_STATISTICS, NEEDS_REFERENCE, STATISTICS, TARGET_STATISTICS, check, npo_vocab_beta
from .reference import token_stats_reference

__all__ = [
    "HIDDEN_STATISTICS",
    "NEEDS_REFERENCE",
    "STATISTICS",
    "TARGET_STATISTICS",
    "Impl",
    "npo_vocab_beta",
    "token_stats",
]

Impl = Literal["auto", "reference"]

_IMPLEMENTATIONS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "auto": token_stats_reference,
    "reference": token_stats_reference,
}


def token_stats(
    h: Tensor,
    weight: Tensor | None,
    y: Tensor | None,
    *,
    h_ref: Tensor | None = None,
    weight_ref: Tensor | None = None,
    logp_ref: Tensor | None = None,
    want: Collection[str] = ("logp",),
    impl: Impl = "auto",
) -> dict[str, Tensor]:
    """Per-token statistics, differentiable with respect to the student (``h`` and ``weight``).

    With ``p = softmax(h W^T)`` (student) and ``q = softmax(h_ref W_ref^T)`` (reference), in nats:

    * ``logp``            log p(y)
    * ``log1mp``          log(1 - p(y)), exact where p(y) is next to 1
    * ``top1``            1 where y is the student's likeliest token, else 0 (no gradient)
    * ``entropy``         -sum p log p
    * ``logp_ref``        log q(y) (no gradient)
    * ``log1mp_ref``      log(1 - q(y)) (no gradient)
    * ``entropy_ref``     -sum q log q (no gradient)
    * ``cross_rest``      -sum over v != y of q(v) / (1 - q(y)) log p(v): cross-entropy with what the reference says
      beside y
    * ``kl_forward``      KL(q || p), the reference first
    * ``kl_reverse``      KL(p || q), the student first
    * ``js``              (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2
    * ``npo_vocab(BETA)`` mean over the vocabulary of (2 / BETA) log(1 + (p(v) / q(v))^BETA): what the public CLEAR
      code calls npo, kept for comparison with it
    * ``cosine``          <h, h_ref> / (|h| |h_ref|)
    * ``l2``              |h - h_ref|^2, summed over D

    ``cosine`` and ``l2`` are of the hidden states themselves: alone, no logits are formed.

    Args:
        h: [T, D] final hidden states of the scored tokens, any float dtype.
        weight: [V, D] head weight of the student; may be None for ``cosine`` and ``l2``.
        y: [T] int64 target tokens; may be None where nothing wanted looks at targets.
        h_ref: [T, D] the reference's hidden states; required by what compares with the reference.
        weight_ref: [V, D] the reference's head; ``weight`` where the head is shared.
        logp_ref: [T] log q(y) computed before; it is then returned as ``logp_ref`` and ``h_ref`` not asked for it.
        want: names of the statistics to compute.
        impl: which implementation to run; ``auto`` picks.

    Returns:
        name -> [T] fp32, float64 for float64 inputs. Gradients never flow into the reference. T = 0 gives empty
        tensors that are still connected to the graph.

    Raises:
        ValueError: unknown statistic, or one whose inputs (``h_ref``, ``y``, ``weight``) are not given.
    """
    wanted = frozenset(want)
    check(
        wanted,
        head=weight is not None,
        target=y is not None,
        reference=h_ref is not None,
        logp_ref=logp_ref is not None,
    )
    if impl not in _IMPLEMENTATIONS:
        raise ValueError(f"unknown impl {impl!r}; known: {sorted(_IMPLEMENTATIONS)}")
    return _IMPLEMENTATIONS[impl](h, weight, y, h_ref, weight_ref, logp_ref, wanted)
