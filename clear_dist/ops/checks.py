"""Arguments of ops, checked before a kernel sees them: every refusal names the argument."""

from __future__ import annotations

import torch
from torch import Tensor

from .rows.names import IGNORE


def matrix(name: str, x: Tensor, *, rows: int | None = None, columns: int | None = None) -> None:
    """Raise ValueError unless ``x`` is a float matrix of that shape (None: any)."""
    if x.ndim != 2 or (rows is not None and x.shape[0] != rows) or (columns is not None and x.shape[1] != columns):
        expected = f"[{'any' if rows is None else rows}, {'any' if columns is None else columns}]"
        raise ValueError(f"{name}: expected {expected}, got {list(x.shape)}")
    floating(name, x)


def floating(name: str, x: Tensor) -> None:
    """Raise ValueError unless ``x`` is fp16, bf16, fp32 or fp64."""
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}")


def for_kernels(x: Tensor) -> Tensor:
    """``x`` [..., D] as kernels take it: any stride between rows, none within; and no fp16 on a CPU."""
    if x.dtype == torch.float16 and x.device.type == "cpu":
        x = x.float()
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def targets(name: str, y: Tensor, *, rows: int, vocabulary: int | None) -> None:
    """Raise ValueError unless ``y`` is [rows] int64 and, on a CPU, every target is in the vocabulary or -100."""
    if y.shape != (rows,):
        raise ValueError(f"{name}: expected [{rows}], one target a row, got {list(y.shape)}")
    if y.dtype != torch.int64:
        raise ValueError(f"{name}: expected int64, got {y.dtype}")
    if vocabulary is None or y.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = ((y < 0) | (y >= vocabulary)) & (y != IGNORE)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"{name}[{row}]: {int(y[row])} is not in 0..{vocabulary - 1}, nor {IGNORE} (not scored)")


def same_device(name: str, x: Tensor, **others: Tensor | None) -> None:
    """Raise ValueError unless all tensors are on ``x``'s device."""
    for other, tensor in others.items():
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{other}: on {tensor.device}, but {name} is on {x.device}")
