"""Deterministic mode: same seed, same bits, on the same kind of device and the same numbers of ranks and threads.

On CPUs nothing has to be asked for. On GPUs some kernels add in the order in which threads happen to arrive (cuBLAS
with several streams, cuDNN's choice by timing, the backward pass of attention and of indexing); here each is replaced
by one with a fixed order, or the operation is refused. Our own kernels add in a fixed order always: no atomics.
https://docs.pytorch.org/docs/stable/notes/randomness.html
"""

from __future__ import annotations

import os
from typing import Any

import torch

# Read when a library is first used: by cuBLAS at its first handle, by flash-attention at its first call.
ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}
_before: list[tuple[Any, ...]] = []


def fix_order() -> None:
    """Only deterministic kernels from now on, in this process; once more does nothing. Undone by ``free_order``."""
    if _before:
        return
    was = tuple(os.environ.get(name) for name in ENVIRONMENT)
    cudnn = torch.backends.cudnn
    _before.append((torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark, was))
    os.environ.update(ENVIRONMENT)
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False


def free_order() -> None:
    """What was before ``fix_order``."""
    if not _before:
        return
    enabled, deterministic, benchmark, was = _before.pop()
    torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
    for name, value in zip(ENVIRONMENT, was, strict=True):
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def machine(device: torch.device) -> dict[str, Any]:
    """What equal bits depend on besides seed, ranks and versions, for run.json."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "deterministic": device.type == "cpu" or torch.are_deterministic_algorithms_enabled(),
    }
