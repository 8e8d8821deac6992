"""Squared distance of hidden states to a target, one program a row: only the gradient is written as [M, D]."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton_launch import launch

BLOCK, WARPS = 1024, 4


@triton.jit(do_not_specialize=["M"])
def distance_kernel(h, target, out, M, D, h_stride, target_stride, BLOCK: tl.constexpr):
    """out[m] = sum_d (h[m, d] - target[m, d])^2, fp32. A ``target_stride`` of 0 is one target for all rows."""
    m = tl.program_id(0).to(tl.int64)
    h += m * h_stride
    target += m * target_stride
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, D, BLOCK):
        k = start + tl.arange(0, BLOCK)
        mask = k < D
        a = tl.load(h + k, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(target + k, mask=mask, other=0.0).to(tl.float32)
        total += (a - b) * (a - b)
    tl.store(out + m, tl.sum(total, 0))


@triton.jit(do_not_specialize=["M"])
def distance_grad_kernel(h, target, c, out, M, D, h_stride, target_stride, BLOCK: tl.constexpr):
    """out[m, d] = 2 c[m] (h[m, d] - target[m, d]), formed in fp32; ``out`` [M, D] is contiguous."""
    m = tl.program_id(0).to(tl.int64)
    h += m * h_stride
    target += m * target_stride
    out += m * D
    scale = 2.0 * tl.load(c + m)
    for start in range(0, D, BLOCK):
        k = start + tl.arange(0, BLOCK)
        mask = k < D
        a = tl.load(h + k, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(target + k, mask=mask, other=0.0).to(tl.float32)
        tl.store(out + k, (scale * (a - b)).to(out.dtype.element_ty), mask=mask)


def distance(h: Tensor, target: Tensor) -> Tensor:
    """[M] fp32: |h_m - target_m|^2 for h [M, D] and target [M, D] or [D], fp32, bf16 or fp16, each its own.

    Differences and sums are in fp32, always added up in the same order.
    """
    h, target, stride = _dense(h, target)
    out = torch.empty(h.shape[0], dtype=torch.float32, device=h.device)
    if h.shape[0]:
        launch(
            distance_kernel, h.shape[0], h.device, h, target, out, *h.shape, h.stride(0), stride,
            BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return out


def distance_grad(h: Tensor, target: Tensor, c: Tensor) -> Tensor:
    """[M, D] in the dtype of h: 2 c_m (h_m - target_m), the gradient of sum_m c_m |h_m - target_m|^2. c: [M] fp32."""
    h, target, stride = _dense(h, target)
    out = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    if out.numel():
        launch(
            distance_grad_kernel, h.shape[0], h.device, h, target, c.float().contiguous(), out,
            *h.shape, h.stride(0), stride, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return out


def _dense(h: Tensor, target: Tensor) -> tuple[Tensor, Tensor, int]:
    """Both with contiguous columns, and how far apart the target's rows are: 0 where there is one for all."""
    h, target = (x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous() for x in (h, target))
    return h, target, target.stride(0) if target.ndim == 2 else 0
