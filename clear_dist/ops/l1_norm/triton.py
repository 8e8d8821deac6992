"""Sum of absolute values over many tensors in one launch, and its gradient added in place.

A table in device memory holds the address and the length of every chunk of every tensor; a program takes one chunk.
That balances 450 LoRA factors of very different sizes, and partial sums have one place each and are added in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton_launch import launch

CHUNK = 16384  # elements of a program: 2500 programs for 40 million parameters
BLOCK, WARPS = 2048, 8
ALIGNMENT = 16  # bytes: what a vector load needs

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _at(table, column, program, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """The pointer in a column of the table, whose rows are: address, address of the gradient, length."""
    pointer = tl.load(table + program * 3 + column).to(tl.pointer_type(TYPE))  # pyright: ignore[reportArgumentType]
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def l1_chunk_kernel(table, partial, TYPE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """partial[i] = sum |w| over chunk i, fp32."""
    i = tl.program_id(0)
    w = _at(table, 0, i, TYPE, ALIGNED)
    n = tl.load(table + i * 3 + 2).to(tl.int32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        k = start + tl.arange(0, BLOCK)
        total += tl.abs(tl.load(w + k, mask=k < n, other=0.0).to(tl.float32))
    tl.store(partial + i, tl.sum(total, 0))


@triton.jit
def l1_total_kernel(partial, out, n, BLOCK: tl.constexpr):
    """out = sum of partial [n], by one program: always in the same order."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        k = start + tl.arange(0, BLOCK)
        total += tl.load(partial + k, mask=k < n, other=0.0)
    tl.store(out, tl.sum(total, 0))


@triton.jit
def l1_add_sign_kernel(
    table, scale, TYPE: tl.constexpr, GRAD_TYPE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """gradient += scale * sign(w) over one chunk; the sum is formed in fp32."""
    i = tl.program_id(0)
    w = _at(table, 0, i, TYPE, ALIGNED)
    g = _at(table, 1, i, GRAD_TYPE, ALIGNED)
    n = tl.load(table + i * 3 + 2).to(tl.int32)
    step = tl.load(scale)
    for start in range(0, n, BLOCK):
        k = start + tl.arange(0, BLOCK)
        mask = k < n
        x = tl.load(w + k, mask=mask, other=0.0).to(tl.float32)
        sign = tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))
        old = tl.load(g + k, mask=mask, other=0.0).to(tl.float32)
        tl.store(g + k, (old + step * sign).to(GRAD_TYPE), mask=mask)


def l1_norm(tensors: Sequence[Tensor]) -> Tensor:
    """0-dim fp32: the sum of |w| over all tensors (fp32, bf16, fp16; one device), bitwise the same every time."""
    if not tensors:
        return torch.zeros((), dtype=torch.float32)
    device = tensors[0].device
    groups: dict[torch.dtype, list[Tensor]] = {}
    for x in tensors:
        if x.numel():
            groups.setdefault(x.dtype, []).append(x if _dense(x) else x.contiguous())
    tables = {dtype: _table(group, None) for dtype, group in groups.items()}
    total = sum(len(table) for table, _ in tables.values())
    partial = torch.empty(total, dtype=torch.float32, device=device)
    out = torch.empty((), dtype=torch.float32, device=device)
    start = 0
    for dtype, (table, aligned) in tables.items():
        launch(
            l1_chunk_kernel, len(table), device, table, partial[start:],
            TYPE=_TYPES[dtype], ALIGNED=aligned, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
        start += len(table)
    launch(l1_total_kernel, 1, device, partial, out, total, BLOCK=BLOCK, num_warps=WARPS)
    return out


def l1_add_sign(tensors: Sequence[Tensor], grads: Sequence[Tensor], scale: Tensor) -> None:
    """grads_i += scale * sign(tensors_i), in place; scale: 0-dim, on the tensors' device. sign(0) = sign(NaN) = 0."""
    pairs: dict[tuple[torch.dtype, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
    for w, g in zip(tensors, grads, strict=True):
        assert w.shape == g.shape and w.device == g.device, "a tensor and its gradient differ in shape or device"
        if w.numel() == 0:
            continue
        if not _dense(g):
            g.add_(w.sign() * scale)
            continue
        alike = w.stride() == g.stride()
        laid = w if alike else torch.empty_strided(g.shape, g.stride(), dtype=w.dtype, device=w.device).copy_(w)
        pairs.setdefault((w.dtype, g.dtype), []).append((laid, g))
    scale = scale.to(torch.float32)
    for (dtype, grad_dtype), group in pairs.items():
        table, aligned = _table([w for w, _ in group], [g for _, g in group])
        launch(
            l1_add_sign_kernel, len(table), table.device, table, scale,
            TYPE=_TYPES[dtype], GRAD_TYPE=_TYPES[grad_dtype], ALIGNED=aligned, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip


def _table(tensors: Sequence[Tensor], grads: Sequence[Tensor] | None) -> tuple[Tensor, bool]:
    """([chunks, 3] int64 on the tensors' device: address, address in the gradient or 0, length; all aligned)."""
    others = [0] * len(tensors) if grads is None else [g.data_ptr() for g in grads]
    where = tuple((w.data_ptr(), other, w.numel()) for w, other in zip(tensors, others, strict=True))
    size = tensors[0].element_size()
    return _table_of(where, size, 0 if grads is None else grads[0].element_size(), tensors[0].device)


@lru_cache(maxsize=16)
def _table_of(
    where: tuple[tuple[int, int, int], ...], size: int, other_size: int, device: torch.device
) -> tuple[Tensor, bool]:
    """The table is a function of addresses and lengths alone, so one that was built before is right again."""
    rows = np.array(where, dtype=np.int64)
    chunks = -(-rows[:, 2] // CHUNK)
    of = np.repeat(np.arange(len(rows)), chunks)
    nth = np.arange(len(of)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    begin = nth * CHUNK
    table = np.stack(
        [rows[of, 0] + begin * size, rows[of, 1] + begin * other_size, np.minimum(rows[of, 2] - begin, CHUNK)], axis=1
    )
    return torch.from_numpy(table).to(device), not (rows[:, :2] % ALIGNMENT).any()


def _dense(x: Tensor) -> bool:
    """Its elements fill their memory without holes or overlap, in whatever order."""
    return torch.ops.aten.is_non_overlapping_and_dense(x)
