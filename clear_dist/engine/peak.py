"""The highest point of memory during some work, counted by the allocator itself.

On a GPU that is ``max_memory_allocated``. On a CPU torch's profiler reports every block its allocator gives and takes
back, those inside operators and of backward included, and the running sum is followed.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when a profiler first starts, which else announces itself

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def peak_of(work: Callable[[], object], device: torch.device) -> int:
    """Bytes by which memory rose, at the highest, above where it was before ``work``; 0 where it never did."""
    with following(device) as risen:
        work()
    return risen()


@contextmanager
def following(device: torch.device) -> Iterator[Callable[[], int]]:
    """Memory is followed inside the block; what is yielded says, after it, what ``peak_of`` says of its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        found: list[int] = []
        yield lambda: found[0]
        torch.cuda.synchronize(device)
        found.append(torch.cuda.max_memory_allocated(device) - before)
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield lambda: _highest(profiler)


def _highest(profiler: profile) -> int:
    inner = profiler.profiler
    assert inner is not None and inner.kineto_results is not None, "asked inside the block"
    events: list[Any] = inner.kineto_results.events()
    found = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    now = peak = 0
    for _, size in sorted(found, key=lambda event: event[0]):
        now += size
        peak = max(peak, now)
    return peak


def alive(device: torch.device) -> int:
    """Bytes that tensors hold now: the allocator's count on a GPU, on a CPU all storages that Python knows of."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if isinstance(thing, Tensor) and thing.device.type == "cpu" and thing.layout == torch.strided:
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())
