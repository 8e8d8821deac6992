"""Launching Triton kernels, which are functions no type checker can follow."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch


def launch(kernel: Any, programs: int, device: torch.device, *arguments: object, **constants: object) -> None:
    """Run a kernel on a one-dimensional grid. Triton launches on the current device, which need not be the tensors'.

    Products and sums may be fused; Triton wants that said from 3.9 on.
    """
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(programs,)](*arguments, enable_fp_fusion=True, **constants)
