"""torch.compile, block by block: one compiled forward serves all decoder blocks and any lengths.

Blocks share their code, so the compiler works once, not once a block, and marks lengths as dynamic, so that a batch of
another shape needs no new code. Student and reference (the adapter switched off) are two programs. Hooks on blocks,
recomputation (gradient checkpointing) and the adapter's switch stay outside or are guarded, and work as before.
"""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn
from torch.utils._triton import has_triton

from clear_dist.models.family import Family
from clear_dist.types import UserError


def check_compile(stage: int, device: torch.device) -> None:
    """Raises UserError where blocks cannot be compiled: under ZeRO stage ``stage``, or without a compiler."""
    if stage == 3:
        raise UserError(
            "--compile: ZeRO stage 3 gathers weights from inside a block while it runs, which cannot be compiled. "
            "Use stage 0, 1 or 2 (--ds), or leave --compile out."
        )
    if device.type == "cuda" and not has_triton():
        raise UserError("--compile: needs Triton on a GPU (pip install triton), or leave it out.")
    compilers = [os.environ.get("CXX"), "g++", "clang++"]
    if device.type == "cpu" and not any(name and shutil.which(name) for name in compilers):
        raise UserError("--compile: needs a C++ compiler on a CPU: install g++, name one in CXX, or leave it out.")


def compile_blocks(family: Family, module: nn.Module, backend: str = "inductor") -> None:
    """Compile the forward of every decoder block, once it is first run. Weights, names and hooks stay as they are."""
    for block in family.blocks(module):
        block.forward = torch.compile(block.forward, dynamic=True, backend=backend)
