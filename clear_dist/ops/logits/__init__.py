"""Statistics of logits that exist already: classification heads, models whose head cannot be reached.

One sweep forward, one backward, nothing of the logits' size kept in between but the logits themselves; the gradient is
written once, in their precision.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..checks import for_kernels, matrix, same_device, targets
from ..dispatch import Impl, choose
from ..linear import Kind, kl_statistic
from ..rows import PAIR, SINGLE, STATE, bits, row_grad, row_stats
from .reference import logits_kl_reference, logits_logp_reference, vocab_npo_reference

__all__ = ["logits_kl", "logits_logp", "vocab_npo"]


def logits_logp(z: Tensor, y: Tensor, *, impl: Impl = "auto") -> Tensor:
    """log softmax(z)[y].

    Args:
        z: [T, V] logits, any float dtype; the only input gradients flow into.
        y: [T] int64 targets; -100 is not scored and gives 0.
        impl: which implementation to run; ``auto`` picks.

    Returns:
        [T] fp32 (float64 for float64), in nats.

    Raises:
        ValueError: shapes, dtypes, devices; on a CPU a target outside the vocabulary (on a GPU: NaN); ``impl``.
    """
    _check(z, None)
    targets("y", y, rows=len(z), vocabulary=z.shape[1])
    same_device("z", z, y=y)
    chosen = _choose(impl, z)
    if chosen == "reference":
        return logits_logp_reference(z, y)
    return logits_stat(for_kernels(z), None, y.contiguous(), "logp", 0.0, chosen)[0]


def logits_kl(z: Tensor, z_ref: Tensor, *, kind: Kind = "forward", impl: Impl = "auto") -> Tensor:
    """KL divergence per row between p = softmax(z) and q = softmax(z_ref).

    Args:
        z, z_ref: [T, V] logits of student and reference, any float dtypes; finite. No gradient flows into ``z_ref``.
        kind: ``forward`` KL(q || p), ``reverse`` KL(p || q), ``js`` (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2.
        impl: which implementation to run; ``auto`` picks.

    Returns:
        [T] fp32 (float64 if either is), in nats.

    Raises:
        ValueError: shapes, dtypes, devices; ``kind``; ``impl``.
    """
    name = kl_statistic(kind)
    _check(z, z_ref)
    chosen = _choose(impl, z, z_ref)
    if chosen == "reference":
        return logits_kl_reference(z, z_ref, name)
    return logits_stat(*_alike(z, z_ref), None, name, 0.0, chosen)[0]


def vocab_npo(z: Tensor, z_ref: Tensor, *, beta: float = 0.1, impl: Impl = "auto") -> Tensor:
    """(2 / beta) log(1 + (p(v) / q(v))^beta), averaged over the whole vocabulary: what the public CLEAR code calls npo.

    For comparison with that code only; it never looks at which token an answer holds.

    Args:
        z, z_ref: [T, V] logits of student and reference, any float dtypes; finite. No gradient flows into ``z_ref``.
        beta: > 0.
        impl: which implementation to run; ``auto`` picks.

    Returns:
        [T] fp32 (float64 if either is).

    Raises:
        ValueError: shapes, dtypes, devices; ``beta``; ``impl``.
    """
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"beta: expected a finite number > 0, got {beta}")
    _check(z, z_ref)
    chosen = _choose(impl, z, z_ref)
    if chosen == "reference":
        return vocab_npo_reference(z, z_ref, float(beta))
    return logits_stat(*_alike(z, z_ref), None, "npo_vocab", float(beta), chosen)[0]


def _check(z: Tensor, z_ref: Tensor | None) -> None:
    matrix("z", z)
    if z.shape[1] == 0:
        raise ValueError(f"z: expected at least one column, got {list(z.shape)}")
    if z_ref is not None:
        matrix("z_ref", z_ref, rows=z.shape[0], columns=z.shape[1])
        same_device("z", z, z_ref=z_ref)


def _choose(impl: Impl, z: Tensor, z_ref: Tensor | None = None) -> str:
    exact = z_ref is not None and z_ref.dtype == torch.float64  # single precision would round what is compared with
    chosen = choose(impl, z.device.type, "float64" if exact else str(z.dtype).removeprefix("torch."))
    return chosen if len(z) else "reference"


def _alike(z: Tensor, z_ref: Tensor) -> tuple[Tensor, Tensor]:
    """Both as the kernels take them; where their dtypes differ, a CPU widens both to fp32 and rounds neither."""
    z, z_ref = for_kernels(z), for_kernels(z_ref.detach())
    if z.dtype != z_ref.dtype and z.device.type == "cpu":
        z, z_ref = z.float(), z_ref.float()
    return z, z_ref


@torch.library.custom_op("clear_dist::logits_stat", mutates_args=())
def logits_stat(
    z: Tensor, z_ref: Tensor | None, y: Tensor | None, name: str, beta: float, impl: str
) -> tuple[Tensor, Tensor]:
    """(one statistic [T] fp32, what its gradient needs [8, T] fp32)."""
    stats, state = row_stats(z, z_ref, y, bits([name]), SINGLE if z_ref is None else PAIR, beta, impl)
    return stats[0].clone(), state


@logits_stat.register_fake
def _(z, z_ref, y, name, beta, impl):  # pyright: ignore
    del z_ref, y, name, beta, impl
    return z.new_empty(z.shape[0], dtype=torch.float32), z.new_empty(STATE, z.shape[0], dtype=torch.float32)


@torch.library.custom_op("clear_dist::logits_stat_grad", mutates_args=())
def logits_stat_grad(
    upstream: Tensor,
    z: Tensor,
    z_ref: Tensor | None,
    y: Tensor | None,
    state: Tensor,
    name: str,
    beta: float,
    impl: str,
) -> Tensor:
    """[T, V] in z's dtype: the gradient, in a fresh tensor (z may be needed elsewhere)."""
    out = torch.empty_like(z, memory_format=torch.contiguous_format)
    coef = upstream.float().contiguous()[None]
    row_grad(z, z_ref, y, state, coef, bits([name]), SINGLE if z_ref is None else PAIR, beta, out, impl)
    return out


@logits_stat_grad.register_fake
def _(upstream, z, z_ref, y, state, name, beta, impl):  # pyright: ignore
    del upstream, z_ref, y, state, name, beta, impl
    return torch.empty_like(z, memory_format=torch.contiguous_format)


def _setup(ctx, inputs, output):  # pyright: ignore
    z, z_ref, y, name, beta, impl = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(z, z_ref, y, output[1])
    ctx.rest = (name, beta, impl)


def _backward(ctx, upstream, of_state):  # pyright: ignore
    del of_state
    return logits_stat_grad(upstream, *ctx.saved_tensors, *ctx.rest), None, None, None, None, None


logits_stat.register_autograd(_backward, setup_context=_setup)
