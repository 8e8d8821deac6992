"""The native extension: one shared object built from ``csrc/``, loaded when first asked for."""

from __future__ import annotations

import ctypes
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .rows.names import STATE

PACKAGE = Path(__file__).resolve().parents[1]
REPORT = "_C.build.json"  # what setup.py says of the build


@cache
def load() -> str | None:
    """Load the extension, once; None if it is there, else the reason why not."""
    library = PACKAGE / "_C.so"
    if not library.exists():
        reason = report().get("reason") or "the package was installed without building it"
        return f"the native extension is not there: {reason}. `make setup` builds it where there is a C++ compiler"
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f"the native extension does not load ({error}); build it again for this torch: `make setup`"
    _register_fakes()
    return None


@cache
def report() -> dict[str, Any]:
    """What the build left: built, reason, cuda (architectures or None), cuda_reason, compiler, torch"""
    try:
        return json.loads((PACKAGE / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def why_not(device: str) -> str | None:
    """Why the extension cannot run on a device type; None if it can."""
    if device not in ("cpu", "cuda"):
        return f"the native extension has no {device} kernels"
    reason = load()
    if reason is None and device == "cuda" and not report().get("cuda"):
        reason = f"the native extension was built without CUDA ({report().get('cuda_reason') or 'no nvcc'})"
    return reason


def cpu_capability() -> str:
    """``baseline``, ``avx2`` or ``avx512``: which CPU kernels run. ``CLEAR_DIST_CPU`` asks for less."""
    assert load() is None
    of_library = ctypes.CDLL(str(PACKAGE / "_C.so")).clear_dist_cpu_capability
    of_library.restype = ctypes.c_char_p
    return of_library().decode()


def _register_fakes() -> None:
    """Shapes of the results, for tracing."""

    def row_stats(
        z: Tensor, r: Tensor | None, y: Tensor | None, want: int, form: int, beta: float
    ) -> tuple[Tensor, Tensor]:
        del r, y, form, beta
        rows = z.shape[0]
        return (
            z.new_empty(want.bit_count(), rows, dtype=torch.float32),
            z.new_empty(STATE, rows, dtype=torch.float32),
        )

    fakes: dict[str, Any] = {
        "row_stats": row_stats,
        "row_grad": lambda *arguments: None,
        "hidden_distance": lambda h, target: h.new_empty(h.shape[0], dtype=torch.float32),
        "hidden_distance_grad": lambda h, target, c: torch.empty_like(h, memory_format=torch.contiguous_format),
        "l1_norm": lambda tensors: tensors[0].new_empty((), dtype=torch.float32),
        "l1_add_sign": lambda tensors, grads, scale: None,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"clear_dist::{name}", fake)
