"""``hidden_distance``: how far hidden states are from where they are wanted (RMU and its relatives)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import floating, for_kernels, same_device
from ..dispatch import Impl, choose
from .control import control_noise, control_vector
from .reference import hidden_distance_reference

__all__ = ["Impl", "control_noise", "control_vector", "hidden_distance"]


def hidden_distance(h: Tensor, target: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Squared L2 distance of each row to its target, |h_m - target_m|^2, summed over D.

    The norm RMU prints (arXiv 2403.03218, CLEAR 2410.18057); its public code averages over D, that is 1 / D of this.
    The gradient, 2 c_m (h_m - target_m), is formed from h and the target again: both are there anyway, and nothing of
    their size is kept or written but the gradient itself.

    Args:
        h: [M, D] hidden states, any float dtype; the only input gradients flow into.
        target: [M, D] a target per row (the reference's states), or [D] one for all (``c * control_vector``), of any
            float dtype: it is not rounded to h's.
        impl: which implementation to run; ``auto`` picks.

    Returns:
        [M] fp32, float64 for float64 ``h``. M = 0 gives an empty tensor that is still connected to the graph.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; unknown implementation.
    """
    if h.ndim != 2 or target.shape not in (h.shape, h.shape[1:]):
        raise ValueError(f"expected h [M, D] and target [M, D] or [D], got {list(h.shape)} and {list(target.shape)}")
    floating("h", h)
    floating("target", target)
    same_device("h", h, target=target)
    kind = torch.float64 if torch.float64 in (h.dtype, target.dtype) else h.dtype
    chosen = choose(impl, h.device.type, str(kind).removeprefix("torch."))
    if chosen == "reference" or not h.numel():
        return hidden_distance_reference(h, target)
    return distance(for_kernels(h), for_kernels(target.detach()), chosen)


@torch.library.custom_op("clear_dist::distance", mutates_args=())
def distance(h: Tensor, target: Tensor, impl: str) -> Tensor:
    """[M] fp32."""
    if impl == "native":
        return torch.ops.clear_dist.hidden_distance(h, target)
    from .triton import distance as run

    return run(h, target)


@distance.register_fake
def _(h, target, impl):  # pyright: ignore
    del target, impl
    return h.new_empty(h.shape[0], dtype=torch.float32)


@torch.library.custom_op("clear_dist::distance_grad", mutates_args=())
def distance_grad(h: Tensor, target: Tensor, upstream: Tensor, impl: str) -> Tensor:
    """[M, D] in h's dtype."""
    upstream = upstream.float().contiguous()
    if impl == "native":
        return torch.ops.clear_dist.hidden_distance_grad(h, target, upstream)
    from .triton import distance_grad as run

    return run(h, target, upstream)


@distance_grad.register_fake
def _(h, target, upstream, impl):  # pyright: ignore
    del target, upstream, impl
    return torch.empty_like(h, memory_format=torch.contiguous_format)


def _setup(ctx, inputs, output):  # pyright: ignore
    del output
    ctx.save_for_backward(*inputs[:2])
    ctx.impl = inputs[2]


def _backward(ctx, upstream):  # pyright: ignore
    return distance_grad(*ctx.saved_tensors, upstream, ctx.impl), None, None


distance.register_autograd(_backward, setup_context=_setup)
