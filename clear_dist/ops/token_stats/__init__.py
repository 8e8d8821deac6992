"""``token_stats``: what an unlearning loss needs to know of each answer token, from one pass over the head."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import floating, matrix, same_device, targets
from ..dispatch import Impl, choose
from ..rows.names import CONSTANT, IGNORE, OF_ONE
from .head import head_stats
from .names import HIDDEN_STATISTICS, NEEDS_REFERENCE, STATISTICS, TARGET_STATISTICS, check, npo_vocab_beta
from .reference import token_stats_reference

__all__ = [
    "HIDDEN_STATISTICS",
    "NEEDS_REFERENCE",
    "STATISTICS",
    "TARGET_STATISTICS",
    "HeadAdapter",
    "Impl",
    "npo_vocab_beta",
    "token_stats",
]


@dataclass(frozen=True)
class HeadAdapter:
    """LoRA on the student's head: its weight is W + scale b a. The reference has none.

    a: [r, D]. b: [V, r].
    """

    a: Tensor
    b: Tensor
    scale: float = 1.0


def token_stats(
    h: Tensor,
    weight: Tensor | None,
    y: Tensor | None,
    *,
    h_ref: Tensor | None = None,
    weight_ref: Tensor | None = None,
    logp_ref: Tensor | None = None,
    adapter: HeadAdapter | None = None,
    want: Collection[str] = ("logp",),
    impl: Impl = "auto",
    rows: int = 0,
    wide: bool = False,
) -> dict[str, Tensor]:
    """Per-token statistics, differentiable with respect to the student (``h``, ``weight`` and ``adapter``).

    With ``p = softmax(h W^T)`` (student) and ``q = softmax(h_ref W_ref^T)`` (reference), in nats:

    * ``logp``            log p(y)
    * ``log1mp``          log(1 - p(y)), exact where p(y) is next to 1
    * ``top1``            1 where no token is likelier to the student than y, else 0 (no gradient)
    * ``entropy``         -sum p log p
    * ``logp_ref``        log q(y) (no gradient)
    * ``log1mp_ref``      log(1 - q(y)) (no gradient)
    * ``entropy_ref``     -sum q log q (no gradient)
    * ``log_ratio``       log p(y) - log q(y)
    * ``cross_rest``      -sum over v != y of q(v) / (1 - q(y)) log p(v): cross-entropy with what the reference says
      beside y
    * ``kl_forward``      KL(q || p), the reference first
    * ``kl_reverse``      KL(p || q), the student first
    * ``js``              (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2
    * ``npo_vocab(BETA)`` mean over the vocabulary of (2 / BETA) log(1 + (p(v) / q(v))^BETA): what the public CLEAR
      code calls npo, kept for comparison with it
    * ``cosine``          <h, h_ref> / (|h| |h_ref|)
    * ``l2``              |h - h_ref|^2, summed over D

    ``cosine`` and ``l2`` are of the hidden states themselves: alone, no logits are formed. With a head that student and
    reference share, what compares the two is computed from logits of the reference and of h - h_ref, which keeps it
    exact where they are nearly equal, in bf16 too.

    Args:
        h: [T, D] final hidden states of the scored tokens, any float dtype.
        weight: [V, D] head weight of the student; may be None for ``cosine`` and ``l2``.
        y: [T] int64 target tokens; may be None where nothing wanted looks at targets. -100: the token is not scored,
            all its statistics and gradients are 0 (of hidden states too).
        h_ref: [T, D] the reference's hidden states; required by what compares with the reference.
        weight_ref: [V, D] the reference's head; ``weight`` where the head is shared.
        logp_ref: [T] log q(y) computed before; it is then returned as ``logp_ref`` and serves ``log_ratio``, and
            ``h_ref`` is not asked for either.
        adapter: LoRA on the student's head.
        want: names of the statistics to compute.
        impl: which implementation to run; ``auto`` picks (see ``dispatch``).
        rows: tokens whose logits exist at a time; 0 chooses. The reference forms all at once.
        wide: on a GPU, logits of a 16-bit head in fp32: twice the traffic, log-probabilities without the rounding of
            logits. On a CPU they are fp32 anyway.

    Returns:
        name -> [T] fp32, float64 for float64 inputs. Gradients never flow into the reference. T = 0 gives empty
        tensors that are still connected to the graph. A second derivative is refused.

    Raises:
        ValueError: an unknown statistic or implementation; one whose inputs (``h_ref``, ``y``, ``weight``) are not
            given; shapes, dtypes or devices that do not fit; on a CPU a target outside the vocabulary (on a GPU looking
            would stall it: such a token's statistics are NaN instead).
    """
    wanted = frozenset(want)
    check(
        wanted,
        head=weight is not None,
        target=y is not None,
        reference=h_ref is not None,
        logp_ref=logp_ref is not None,
    )
    _check_inputs(h, weight if wanted - HIDDEN_STATISTICS else None, y, h_ref, weight_ref, logp_ref, adapter, rows)
    if logp_ref is None:
        return _computed(h, weight, y, h_ref, weight_ref, adapter, wanted, impl, rows, wide)
    known = logp_ref.detach().to(torch.promote_types(logp_ref.dtype, torch.float32))
    asked = wanted - {"logp_ref", "log_ratio"} | ({"logp"} if "log_ratio" in wanted else set())
    out = _computed(h, weight, y, h_ref, weight_ref, adapter, asked, impl, rows, wide)
    if "log_ratio" in wanted:
        assert y is not None
        out["log_ratio"] = (out["logp"] - known).where(y != IGNORE, 0.0)
    out["logp_ref"] = known
    return {name: out[name] for name in wanted}


def _computed(
    h: Tensor,
    weight: Tensor | None,
    y: Tensor | None,
    h_ref: Tensor | None,
    weight_ref: Tensor | None,
    adapter: HeadAdapter | None,
    wanted: Collection[str],
    impl: Impl,
    rows: int,
    wide: bool,
) -> dict[str, Tensor]:
    """What nobody has said before: statistics of hidden states by themselves, all others from one sweep."""
    out: dict[str, Tensor] = {}
    left = set(wanted)
    h_ref = None if h_ref is None else h_ref.detach()
    hidden = left & HIDDEN_STATISTICS
    if hidden:
        found = token_stats_reference(h, None, None, h_ref, None, hidden)
        out |= found if y is None else {name: x.where(y != IGNORE, 0.0) for name, x in found.items()}
        left -= hidden
    if not left:
        return out
    assert weight is not None
    shared = weight_ref is None or weight_ref is weight
    weight_ref = None if shared or weight_ref is None else weight_ref.detach()
    u = None if adapter is None else adapter.scale * (h.to(adapter.a.dtype) @ adapter.a.t())
    b = None if adapter is None else adapter.b
    kind = torch.promote_types(h.dtype, weight.dtype)
    chosen = choose(impl, h.device.type, str(kind).removeprefix("torch."))
    if chosen == "reference" or len(h) == 0:
        return out | token_stats_reference(h, weight, y, h_ref, weight_ref, left, u_TR=u, b_VR=b)
    names = sorted(left)
    if left <= CONSTANT and not left & OF_ONE:  # of the reference alone: its logits are all that is formed
        assert h_ref is not None
        of = weight.detach() if weight_ref is None else weight_ref
        alone = [name.removesuffix("_ref") for name in names]
        stats, _ = head_stats(h_ref, of, y, None, None, None, None, ",".join(alone), False, chosen, rows, wide)
        return out | dict(zip(names, stats.unbind(), strict=True))
    trained = any(x is not None and x.requires_grad for x in (weight, u, b))
    keep = h.requires_grad and not trained and torch.is_grad_enabled()
    compares = any(name not in OF_ONE for name in names)
    y = None if y is None else y.contiguous()
    given = (h, weight, y, h_ref if compares else None, weight_ref if compares else None, u, b)
    stats, _ = head_stats(*given, ",".join(names), keep, chosen, rows, wide)
    found = dict(zip(names, stats.unbind(), strict=True))
    return out | {name: x.detach() if name in CONSTANT else x for name, x in found.items()}


def _check_inputs(
    h: Tensor,
    weight: Tensor | None,
    y: Tensor | None,
    h_ref: Tensor | None,
    weight_ref: Tensor | None,
    logp_ref: Tensor | None,
    adapter: HeadAdapter | None,
    rows: int,
) -> None:
    if rows < 0:
        raise ValueError(f"rows: expected 0 (choose) or more, got {rows}")
    matrix("h", h)
    size = h.shape[1]
    if h_ref is not None:
        matrix("h_ref", h_ref, rows=len(h), columns=size)
    if weight is not None:
        matrix("weight", weight, columns=size)
        if not len(weight):
            raise ValueError("weight: expected at least one row, got none")
    if weight_ref is not None and weight is not None:
        matrix("weight_ref", weight_ref, rows=len(weight), columns=size)
    if adapter is not None and weight is not None:
        matrix("adapter.a", adapter.a, columns=size)
        matrix("adapter.b", adapter.b, rows=len(weight), columns=len(adapter.a))
    if logp_ref is not None:
        floating("logp_ref", logp_ref)
    if logp_ref is not None and logp_ref.shape != h.shape[:1]:
        raise ValueError(f"logp_ref: expected [{len(h)}], as many as h has rows, got {list(logp_ref.shape)}")
    if y is not None:
        targets("y", y, rows=len(h), vocabulary=None if weight is None else len(weight))
    if adapter is not None:
        same_device("h", h, **{"adapter.a": adapter.a, "adapter.b": adapter.b})
    same_device("h", h, weight=weight, y=y, h_ref=h_ref, weight_ref=weight_ref, logp_ref=logp_ref)
