"""How ``bench_ops`` measures one case: errors against float64, then memory, then time, all variants in turns.

* **Error.** On the first 32 rows, relative in the Frobenius norm: value and gradient against the same rounded inputs
  in float64. First at a divergence of 0.1 nats, where anybody gets it about right: who does not computes something
  else and is not timed. Then at the case's own divergence, which is what the results say.
* **Memory.** Of one forward and backward beyond what was there before: everything the op allocates, the gradient
  it returns included. On a GPU, the allocator's peak. On Linux CPUs, the process's peak of resident memory, which the
  kernel lets one reset (``/proc/self/clear_refs``), after freed memory was given back (``malloc_trim``): scratch that
  libraries allocate beside PyTorch's allocator counts too. Good to about a megabyte; not measured elsewhere.
* **Time.** ``fwd`` is without gradients, as for a frozen model; ``fwd_bwd`` with them, for an upstream gradient that
  differs from row to row. Each sample is a block of calls long enough to measure; the inputs rotate through copies
  larger than the last cache; blocks of all variants take turns. Where there is no time for a round, the one call
  that was to tell how long a block must be is what there is (``rounds`` = 1).
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.common import interleaved, seconds_of
from benchmarks.ops_calls import Budget, DeviceLost, forward, forward_backward, reason_of
from benchmarks.ops_cases import Case, Inputs, make_inputs
from benchmarks.ops_errors import Check
from benchmarks.ops_peers import Variant

SLOW = 2.0  # seconds
LAST_CACHE = 64 << 20  # bytes, where the device does not say


def peak_mb(work: Callable[[], object], device: torch.device) -> float | None:
    """10^6 bytes that ``work`` needs beyond what is there before it; None where that cannot be measured."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _resident("VmRSS")
        work()
        return max(0.0, (_resident("VmHWM") - before) / 1e6)
    except (OSError, AttributeError, KeyError):
        return None


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(dict(line.split(":", 1) for line in lines)[field].split()[0])


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds, seconds a block of calls lasts, seconds for the rounds of one case."""

    rounds: int
    block: float
    case: float


def effort_of(device: torch.device, quick: bool, scaling: bool) -> Effort:
    if quick:
        return Effort(2, 0.0, 5.0)
    rounds, case = (5, 8.0) if scaling else (9, 12.0 if device.type == "cuda" else 120.0)
    return Effort(rounds, 0.02 if device.type == "cuda" else 0.1, case)


def copies_of(x: Inputs, device: torch.device, quick: bool) -> list[Inputs]:
    """As many copies as together are four times the last cache."""
    cache = LAST_CACHE
    if device.type == "cuda":
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or LAST_CACHE
    count = 1 if quick else min(16, -(-4 * cache // max(1, x.bytes)))
    return [x.with_gradients()] + [x.each(torch.clone).with_gradients() for _ in range(count - 1)]


@dataclass
class Measured:
    """What came out for one variant; ``skip`` where nothing did."""

    variant: Variant
    errors: tuple[float, float] | None = None
    peak: float | None = None
    fwd: dict[str, float] | None = None
    both: dict[str, float] | None = None
    rounds: int = 0
    skip: str | None = None


def measure(case: Case, found: Sequence[Variant], device: torch.device, budget: Budget, quick: bool) -> list[Measured]:
    """Errors, memory and time of every variant, in the order given.

    Raises:
        DeviceLost: with what there is until then.
    """
    out = [Measured(v, skip=v.skip) for v in found]
    if not quick:
        gc.collect()
    try:
        x = make_inputs(case, device)
        check = Check(case, x, device)
        for one in out:
            if not one.skip and budget.left <= 0:
                one.skip = "no time left"
            if not one.skip:
                try:
                    one.errors = check.errors(one.variant)
                except Exception as error:  # one peer's trouble is a line in the table, not the end of the run
                    one.skip = reason_of(error, device)
        del check
        _memory_and_time(out, copies_of(x, device, quick), device, budget, effort_of(device, quick, case.scaling))
    except DeviceLost as error:
        error.found = out
        raise
    return out


def _memory_and_time(
    out: Sequence[Measured], copies: Sequence[Inputs], device: torch.device, budget: Budget, effort: Effort
) -> None:
    plain = [c.each(Tensor.detach) for c in copies]
    works: dict[str, Callable[[int], object]] = {}
    calls: dict[str, int] = {}
    took: dict[str, float] = {}
    for one in sorted(out, key=lambda m: m.variant.name != "eager"):  # what all are compared with comes first
        if one.skip:
            continue
        if budget.left <= 0:
            one.skip = "no time left"
            continue
        variant, name = one.variant, one.variant.name
        work: dict[str, Callable[[int], object]] = {
            f"{name} fwd": lambda i, v=variant: forward(v, plain[i % len(plain)]),
            f"{name} both": lambda i, v=variant: forward_backward(v, copies[i % len(copies)]),
        }
        try:
            for key, call in work.items():
                # Warm: compiled, tuned, libraries loaded. What takes a CPU seconds is not made faster by a second call.
                took[key] = seconds_of(lambda call=call: call(0), device)
                if took[key] < SLOW or name == "compile" or device.type == "cuda":
                    took[key] = seconds_of(lambda call=call: call(1), device)
                calls[key] = max(1, min(500, round(effort.block / max(took[key], 1e-6))))
            one.peak = peak_mb(lambda call=work[f"{name} both"]: call(0), device)
        except Exception as error:
            one.skip = reason_of(error, device)
            continue
        one.fwd, one.both = (spread_ms([took[key]]) for key in work)  # until there is better
        one.rounds = 1
        works |= work

    round_takes = sum(took[key] * calls[key] for key in works)
    # With a budget no case may take more than a quarter of what is left of it; without one, three rounds in any case.
    share = min(effort.case, budget.left / 4)
    least = 3 if budget.seconds is None else 0
    rounds = min(effort.rounds, max(least, int(share / max(round_takes, 1e-9))))
    if not works or rounds < 1:
        return

    def block(name: str, number: int) -> None:
        for i in range(calls[name]):
            works[name](number + i)

    seconds = interleaved({name: lambda n, name=name: block(name, n) for name in works}, rounds, device)
    for one in out:
        if not one.skip:
            fwd, both = (f"{one.variant.name} {part}" for part in ("fwd", "both"))
            one.fwd = spread_ms([s[fwd] / calls[fwd] for s in seconds])
            one.both = spread_ms([s[both] / calls[both] for s in seconds])
            one.rounds = rounds


def spread_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest, in milliseconds."""
    return {"median": 1e3 * median(seconds), "min": 1e3 * min(seconds), "max": 1e3 * max(seconds)}
