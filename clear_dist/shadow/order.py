"""Which pictures a step sees: a stream of seeded permutations cut into equal batches.

Batches all have the same size (a captured graph needs that), and no picture is left out for being the last: what a
permutation leaves over begins the next batch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def batches(count: int, size: int, steps: int, seed: int) -> Tensor:
    """[steps, min(size, count)] int64: indices into ``count`` pictures."""
    assert count > 0 and size > 0 and steps >= 0
    size = min(size, count)
    generator = torch.Generator().manual_seed(seed)
    passes = -(-steps * size // count)
    stream = [torch.randperm(count, generator=generator) for _ in range(passes)]
    flat = torch.cat(stream)[: steps * size] if stream else torch.zeros(0, dtype=torch.int64)
    return flat.view(steps, size)


def steps_of(count: int, size: int, epochs: float) -> int:
    """Steps that ``epochs`` passes over ``count`` pictures take; at least one."""
    return max(1, round(epochs * count / min(size, count)))
