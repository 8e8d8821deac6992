"""Which implementation of an op runs.

``auto`` is the native one on a CPU, Triton on a GPU, and the reference where neither is to be had, for float64, and on
other devices. ``CLEAR_DIST_OPS_IMPL`` puts another in ``auto``'s place. No kernel is ever required: without a compiler
and without Triton everything works, slower, and one warning says what is missing.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from functools import cache
from typing import Literal, get_args

import torch

from . import native

Impl = Literal["auto", "reference", "triton", "native"]
VARIABLE = "CLEAR_DIST_OPS_IMPL"


class SlowPath(RuntimeWarning):
    """Kernels are missing; the reference runs instead."""


def why_not(impl: str, device: str) -> str | None:
    """Why an implementation cannot run on a device type; None if it can."""
    if impl == "reference":
        return None
    if impl == "native":
        return native.why_not(device)
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device == "cuda" or (device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    return f"Triton has no {device} backend (TRITON_INTERPRET=1 runs its kernels on the CPU, very slowly)"


def available(device: str = "cpu") -> dict[str, str | None]:
    """Implementation -> None where it can run on the device type, else the reason why not."""
    return {impl: why_not(impl, device) for impl in get_args(Impl) if impl != "auto"}


@torch.compiler.assume_constant_result
def choose(impl: str, device: str, dtype: str) -> str:
    """The implementation that runs: ``reference``, ``triton`` or ``native``.

    Args:
        impl: what was asked for.
        device: a device type, ``cpu``, ``cuda`` ...
        dtype: of the op's main input, as ``float32``.

    Raises:
        ValueError: an implementation that is not known, or not there, or does not know the dtype.
    """
    known = get_args(Impl)
    source = "impl"
    if impl == "auto" and os.environ.get(VARIABLE, "auto") != "auto":
        impl, source = os.environ[VARIABLE], VARIABLE
    if impl not in known:
        raise ValueError(f"unknown {source} {impl!r}; known: {sorted(known)}")
    exact = dtype == "float64"
    if impl == "auto":
        preferred = {"cpu": "native", "cuda": "triton"}.get(device)
        if exact or preferred is None or (device == "cpu" and dtype == "float16"):
            return "reference"
        reason = why_not(preferred, device)
        if reason is not None:
            _warn(reason)
            return "reference"
        return preferred
    if impl != "reference" and exact:
        if source == VARIABLE:
            return "reference"
        raise ValueError(f"impl={impl!r} computes in single precision; float64 is for impl='reference'")
    reason = why_not(impl, device)
    if reason is not None:
        raise ValueError(f"{source}={impl!r} cannot run here: {reason}")
    return impl


@cache
def _warn(reason: str) -> None:
    warnings.warn(
        f"clear_dist.ops: {reason}. Plain PyTorch runs instead: right, but slower and in more memory.",
        SlowPath,
        stacklevel=4,
    )
