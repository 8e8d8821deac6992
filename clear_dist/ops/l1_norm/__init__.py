"""``l1_norm``: the sum of absolute values of many tensors at once (a LoRA of a 7B model has some 450)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import floating
from ..dispatch import Impl, choose
from .reference import l1_add_grad_reference, l1_norm_reference

__all__ = ["l1_add_grad_", "l1_norm"]


def l1_norm(tensors: Sequence[Tensor], *, impl: Impl = "auto") -> Tensor:
    """sum_i sum |w_i|, in one launch; d / dw = sign(w).

    Args:
        tensors: any shapes and float dtypes, all on one device; gradients flow into each.
        impl: which implementation to run; ``auto`` picks.

    Returns:
        A scalar, fp32 (float64 if any tensor is); 0 where all tensors are empty. The sum does not depend on threads.

    Raises:
        ValueError: no tensor at all; dtypes or devices that do not fit; ``impl``.
    """
    chosen = _check(tensors, impl)
    if chosen == "reference":
        return l1_norm_reference(tensors)
    return l1([w.contiguous() for w in tensors], chosen)


def l1_add_grad_(
    tensors: Sequence[Tensor], grads: Sequence[Tensor], scale: float | Tensor, *, impl: Impl = "auto"
) -> None:
    """grads_i += scale * sign(tensors_i), in place and in one launch: the gradient of scale * sum |w|.

    Args:
        tensors: any shapes and float dtypes, all on one device.
        grads: as many, of the tensors' sizes, contiguous.
        scale: a number, or a tensor of one element on their device.

    Raises:
        ValueError: numbers, sizes, dtypes or devices that do not fit; ``impl``.
    """
    chosen = _check(tensors, impl)
    if len(tensors) != len(grads):
        raise ValueError(f"grads: expected {len(tensors)}, one for each tensor, got {len(grads)}")
    for k, (w, g) in enumerate(zip(tensors, grads, strict=True)):
        if w.shape != g.shape or w.device != g.device or not g.is_contiguous():
            raise ValueError(
                f"grads[{k}]: expected {list(w.shape)} on {w.device}, contiguous, got {list(g.shape)} on {g.device}"
            )
        floating(f"grads[{k}]", g)
    wide = torch.float64 if any(x.dtype == torch.float64 for x in (*tensors, *grads)) else torch.float32
    if isinstance(scale, Tensor) and (scale.numel() != 1 or scale.device != tensors[0].device):
        raise ValueError(
            f"scale: expected one number on {tensors[0].device}, got {list(scale.shape)} on {scale.device}"
        )
    factor = torch.as_tensor(scale, dtype=wide, device=tensors[0].device).detach().reshape(())
    if chosen == "reference" or wide == torch.float64 or _halves(grads):
        l1_add_grad_reference([w.detach() for w in tensors], grads, factor)
        return
    given = [w.detach().contiguous() for w in tensors]
    if chosen == "native":
        torch.ops.clear_dist.l1_add_sign(given, list(grads), factor)
        return
    from .triton import l1_add_sign

    l1_add_sign(given, list(grads), factor)


def _check(tensors: Sequence[Tensor], impl: Impl) -> str:
    if not tensors:
        raise ValueError("tensors: expected at least one")
    for k, w in enumerate(tensors):
        floating(f"tensors[{k}]", w)
        if w.device != tensors[0].device:
            raise ValueError(f"tensors[{k}]: on {w.device}, but tensors[0] is on {tensors[0].device}")
    kind = next((w.dtype for w in tensors if w.dtype == torch.float64), tensors[0].dtype)
    if _halves(tensors):
        kind = torch.float16
    chosen = choose(impl, tensors[0].device.type, str(kind).removeprefix("torch."))
    return "reference" if not sum(w.numel() for w in tensors) or _halves(tensors) else chosen


def _halves(tensors: Sequence[Tensor]) -> bool:
    """fp16 on a CPU, for which there is no kernel."""
    return any(w.dtype == torch.float16 and w.device.type == "cpu" for w in tensors)


@torch.library.custom_op("clear_dist::l1", mutates_args=())
def l1(tensors: list[Tensor], impl: str) -> Tensor:
    """[] fp32."""
    if impl == "native":
        return torch.ops.clear_dist.l1_norm(tensors)
    from .triton import l1_norm as run

    return run(tensors)


@l1.register_fake
def _(tensors, impl):  # pyright: ignore
    del impl
    return tensors[0].new_empty((), dtype=torch.float32)


def _setup(ctx, inputs, output):  # pyright: ignore
    del output
    ctx.save_for_backward(*inputs[0])


def _backward(ctx, upstream):  # pyright: ignore
    signs = torch._foreach_sign(list(ctx.saved_tensors))  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_mul_(signs, upstream)  # pyright: ignore[reportPrivateImportUsage]
    return list(signs), None


l1.register_autograd(_backward, setup_context=_setup)
