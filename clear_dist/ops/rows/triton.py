"""Launches the row kernels: how wide a block and how many warps, by device, width and dtype.

``CLEAR_DIST_TRITON_AUTOTUNE=1`` times the candidates once for each case instead of looking in the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..triton_launch import launch
from .names import SINGLE, STATE
from .triton_grad import one_grad_kernel, pair_grad_kernel
from .triton_kernels import one_stats_kernel, pair_stats_kernel

AUTOTUNE = "CLEAR_DIST_TRITON_AUTOTUNE"


class Config(NamedTuple):
    block: int
    warps: int


# What may run. Eight columns a thread: a row's sums are kept a column each, and twelve times eight fit the registers.
SMALL, MEDIUM, LARGE = Config(1024, 4), Config(2048, 8), Config(4096, 16)
CANDIDATES = (SMALL, MEDIUM, LARGE)

# (major compute capability, 0 for AMD; index of the bucket of V; bytes of an element) -> configuration.
# The values are by reasoning, not yet by measurement: set CLEAR_DIST_TRITON_AUTOTUNE=1 to time them.
BUCKETS = (4096, 65536)
CONFIGS: dict[tuple[int, int, int], Config] = {
    (major, bucket, size): config
    for major in (0, 8, 9, 10)
    for size in (2, 4)
    for bucket, config in enumerate((SMALL, MEDIUM, LARGE if major >= 9 and size == 2 else MEDIUM))
}


@cache
def _major(device: torch.device) -> int:
    return 0 if torch.version.hip or device.type != "cuda" else torch.cuda.get_device_capability(device)[0]


def config_for(major: int, width: int, size: int, even: bool) -> Config:
    """The configuration for rows of ``width`` columns of ``size`` bytes; even where 16 divides widths and strides."""
    bucket = sum(width > bound for bound in BUCKETS)
    config = CONFIGS.get((major, bucket, size), SMALL if bucket == 0 else MEDIUM)
    return config if even or config != LARGE else MEDIUM


def candidates(even: bool) -> tuple[Config, ...]:
    """What may run: every column of an uneven row is loaded by itself, for which 16 warps have too few registers."""
    return CANDIDATES if even else (SMALL, MEDIUM)


_TUNED: dict[tuple[object, ...], Config] = {}


def _choose(matrices: Sequence[Tensor | None], key: tuple[object, ...], run: Callable[[Config, bool], None]) -> Config:
    """From the table, or the quickest of the candidates, each timed once it has been compiled.

    ``run(config, True)`` must leave the caller's tensors as they are: outputs may be inputs.
    """
    given = [x for x in matrices if x is not None]
    device, width, size = given[0].device, given[0].shape[1], given[0].element_size()
    even = width % 16 == 0 and all(x.stride(0) % 16 == 0 for x in given)
    if not (device.type == "cuda" and os.environ.get(AUTOTUNE) == "1"):
        return config_for(_major(device), width, size, even)
    key = (device, width, even, *(x.dtype for x in given), *key)
    if key not in _TUNED:
        _TUNED[key] = min(candidates(even), key=lambda config: _milliseconds(lambda: run(config, True)))
    return _TUNED[key]


def _milliseconds(run: Callable[[], None]) -> float:
    """The best of three, after one that compiles."""
    run()
    times: list[float] = []
    for _ in range(3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times)


def _dense(x: Tensor) -> Tensor:
    """Columns contiguous; rows may be apart by any stride."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def row_stats(
    z: Tensor, r: Tensor | None, y: Tensor | None, want_bits: int, mode: int, beta: float
) -> tuple[Tensor, Tensor]:
    """(stats [K, T] fp32 in the order of the bits, state [8, T] fp32); see :func:`clear_dist.ops.rows.row_stats`.

    A target out of range that is not ``IGNORE`` makes its row NaN; it is nowhere read.
    """
    (T, V), has_y = z.shape, y is not None
    stats = torch.empty(want_bits.bit_count(), T, dtype=torch.float32, device=z.device)
    state = torch.empty(STATE, T, dtype=torch.float32, device=z.device)
    if T == 0:
        return stats, state
    assert (r is None) == (mode == SINGLE), "two distributions need two matrices of logits"
    z, r = _dense(z), None if r is None else _dense(r)
    y = None if y is None else y.contiguous()

    def run(config: Config, trial: bool) -> None:
        constants = {"WANT": want_bits, "HAS_Y": has_y, "BLOCK": config.block, "num_warps": config.warps}
        if r is None:
            launch(one_stats_kernel, T, z.device, z, y, stats, state, T, V, z.stride(0), **constants)
        else:
            launch(
                pair_stats_kernel, T, z.device, z, r, y, stats, state, T, V, z.stride(0), r.stride(0), beta,
                MODE=mode, **constants,
            )  # fmt: skip

    run(_choose((z, r), ("stats", want_bits, mode, has_y), run), False)
    return stats, state


def row_grad(
    z: Tensor,
    r: Tensor | None,
    y: Tensor | None,
    state: Tensor,
    coef: Tensor,
    want_bits: int,
    mode: int,
    beta: float,
    out: Tensor,
) -> None:
    """out[t, v] = sum_k coef[k, t] d stats[k, t] / d (student's logit v); see :func:`clear_dist.ops.rows.row_grad`."""
    (T, V), has_y = z.shape, y is not None
    if T == 0:
        return
    assert out.shape == z.shape and (out.stride(1) == 1 or V == 1), "the columns of out must be contiguous"
    assert (r is None) == (mode == SINGLE), "two distributions need two matrices of logits"
    z, r = _dense(z), None if r is None else _dense(r)
    y = None if y is None else y.contiguous()
    coef, state = coef.contiguous(), state.contiguous()

    def run(config: Config, trial: bool) -> None:
        into = torch.empty_like(out) if trial else out
        constants = {"WANT": want_bits, "HAS_Y": has_y, "BLOCK": config.block, "num_warps": config.warps}
        if r is None:
            launch(
                one_grad_kernel, T, z.device, z, y, state, coef, into, T, V, z.stride(0), into.stride(0), **constants
            )  # fmt: skip
        else:
            launch(
                pair_grad_kernel, T, z.device, z, r, y, state, coef, into, T, V,
                z.stride(0), r.stride(0), into.stride(0), beta, MODE=mode, **constants,
            )  # fmt: skip

    run(_choose((z, r, out), ("grad", want_bits, mode, has_y), run), False)
