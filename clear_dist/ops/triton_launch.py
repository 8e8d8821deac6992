"""Launching Triton kernels, which are functions no type checker can follow."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch


def launch(kernel: Any, programs: int, device: torch.device, *arguments: object, **constants: object) -> None:
    """Run a kernel on a one-dimensional grid. Triton launches on the current device, which need not be the tensors'."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(programs,)](*arguments, **constants)
