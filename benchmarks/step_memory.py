"""The highest point of memory during some work, counted by the allocator itself.

On a GPU that is ``max_memory_allocated``. On a CPU torch's profiler reports every block its allocator gives and takes
back, those inside operators and of backward included, and the running sum is followed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when a profiler first starts, which else announces itself

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


def peak_of(work: Callable[[], object], device: torch.device) -> int:
    """Bytes by which memory rose, at the highest, above where it was before ``work``; 0 where it never did."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    inner = profiler.profiler
    assert inner is not None and inner.kineto_results is not None
    events: list[Any] = inner.kineto_results.events()
    found = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    now = peak = 0
    for _, size in sorted(found, key=lambda event: event[0]):
        now += size
        peak = max(peak, now)
    return peak


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Memory of distinct tensors."""
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())


def module_bytes(module: nn.Module | None) -> int:
    """Weights and buffers."""
    return 0 if module is None else bytes_of([*module.parameters(), *module.buffers()])


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What an optimiser keeps; nothing before its first step."""
    return bytes_of(x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor))
