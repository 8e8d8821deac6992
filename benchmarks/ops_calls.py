"""One call of a variant in ``bench_ops``, the time there is for calls, and what becomes of one that fails."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.ops_cases import Inputs
from benchmarks.ops_peers import Variant

UPSTREAM = 0.7  # of those who return a mean: not 1, which some libraries take a short cut for


class Budget:
    """Seconds that may be spent, by a clock that tests can set. Some are kept back for tables and plots."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.began = clock, clock()
        self.seconds, self.kept = seconds, min(15.0, (seconds or 0.0) / 4)

    @property
    def spent(self) -> float:
        return self.clock() - self.began

    @property
    def left(self) -> float:
        return float("inf") if self.seconds is None else self.seconds - self.kept - self.spent


class DeviceLost(RuntimeError):
    """The GPU's context does not survive what a variant did: nothing more can be measured in this process.

    ``found`` is what was measured of the case so far.
    """

    found: Sequence[Any] = ()  # of ops_measure.Measured


def forward(variant: Variant, x: Inputs) -> Tensor:
    assert variant.run is not None
    with torch.no_grad():
        return variant.run(x)


def forward_backward(variant: Variant, x: Inputs) -> tuple[Tensor, Sequence[Tensor]]:
    """``x`` with leaves that want gradients -> (value, a gradient per leaf)."""
    assert variant.run is not None
    out = variant.run(x)
    if variant.mean:
        return out.detach(), torch.autograd.grad(out, x.leaves, torch.full_like(out, UPSTREAM))
    return out.detach(), torch.autograd.grad(out, x.leaves, x.c.to(out.dtype))


def reason_of(error: BaseException, device: torch.device) -> str:
    """Why a variant is skipped; memory it left behind is freed.

    Raises:
        DeviceLost: the GPU is unusable.
    """
    first = (str(error).splitlines() or [""])[0][:160]
    gc.collect()
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except RuntimeError as lost:
            raise DeviceLost(first) from lost
        torch.cuda.empty_cache()
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {first}"
