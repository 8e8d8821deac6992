"""Where RMU sends the hidden states of what is to be forgotten."""

from __future__ import annotations

import torch
from torch import Tensor


def control_vector(size: int, seed: int) -> Tensor:
    """A random unit vector: u ~ U[0, 1)^D, divided by its length (RMU, arXiv 2403.03218; CLEAR, arXiv 2410.18057).

    Drawn on the CPU, so that it is the same on every device and rank; drawn once, it stays the same for a whole run.

    Args:
        size: D, the hidden size.
        seed: of the draw.

    Returns:
        [D] fp32 on the CPU, of length 1, no component negative.
    """
    if size < 1:
        raise ValueError(f"control_vector: size must be at least 1, got {size}")
    u = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return u / u.norm()


def control_noise(rows: int, size: int, generator: torch.Generator) -> Tensor:
    """Noise drawn for every batch and divided by the length of the **whole** of it: the public CLEAR code's target.

    Kept to compare with that code. Each row's length is about 1 / sqrt(rows), so it depends on how a batch is cut.

    Args:
        rows: M, the hidden states of the batch.
        size: D, the hidden size.
        generator: a CPU generator; it moves on with every draw.

    Returns:
        [M, D] fp32 on the CPU, of Frobenius norm 1 (M > 0).

    Raises:
        ValueError: a negative number of rows or columns.
    """
    if rows < 0 or size < 0:
        raise ValueError(f"control_noise: rows and size must be at least 0, got {rows} and {size}")
    noise = torch.rand(rows, size, generator=generator, dtype=torch.float32)
    return noise / noise.norm().clamp(min=torch.finfo(torch.float32).tiny)
