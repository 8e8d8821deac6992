"""Compiling Triton kernels ahead of time, without a GPU: what a kernel takes of a device, and the cases to compile."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

import triton
import triton.backends.nvidia as nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

import clear_dist.ops
from clear_dist.ops.hidden_distance import triton as distance
from clear_dist.ops.l1_norm import triton as l1
from clear_dist.ops.rows import triton as rows
from clear_dist.ops.rows.names import DIFFERENCE, NAMES, OF_ONE, PAIR, bits

TARGETS = {f"sm_{n}": GPUTarget("cuda", n, 32) for n in (80, 90, 100)} | {"gfx942": GPUTarget("hip", "gfx942", 64)}
CUOBJDUMP = Path(nvidia.__file__).parent / "bin" / "cuobjdump"

ROW_TYPES = {
    "z": "*bf16", "r": "*bf16", "y": "*i64", "stats": "*fp32", "state": "*fp32", "coef": "*fp32", "out": "*bf16",
    "T": "i32", "V": "i32", "z_stride": "i64", "r_stride": "i64", "out_stride": "i64", "beta": "fp32",
}  # fmt: skip
DISTANCE_TYPES = {
    "h": "*bf16", "target": "*bf16", "c": "*fp32", "out": "*bf16", "M": "i32", "D": "i32", "h_stride": "i64",
    "target_stride": "i64",
}  # fmt: skip
L1_TYPES = {"table": "*i64", "partial": "*fp32", "scale": "*fp32", "out": "*fp32", "n": "i32"}
# What Triton knows of a number at a launch: that 16 divides it, or that it is 1. Counts of rows are kept from it.
EVEN = ("V", "D", "z_stride", "r_stride", "out_stride", "h_stride", "target_stride")


class Case(NamedTuple):
    """One compilation: types and constants by name, warps, whether addresses and widths are multiples of 16."""

    types: dict[str, str]
    constants: Mapping[str, object]
    warps: int
    aligned: bool = True


class Usage(NamedTuple):
    registers: int
    spilled: int  # bytes of local memory on NVIDIA, registers on AMD
    shared: int  # bytes

    def __str__(self) -> str:
        return f"{self.registers:3d} registers, {self.spilled} spilled, {self.shared} B shared"


def jitted() -> dict[str, JITFunction]:
    """Every jitted function of clear_dist.ops by its name."""
    found: dict[str, JITFunction] = {}
    for module in pkgutil.walk_packages(clear_dist.ops.__path__, "clear_dist.ops."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, JITFunction) and value.__module__ == module.name:
                assert name not in found, f"two jitted functions are called {name}"
                found[name] = value
    return found


def is_called(name: str, functions: dict[str, JITFunction]) -> bool:
    """Whether another jitted function calls it."""
    return any(other != name and re.search(rf"\b{name}\(", inspect.getsource(f.fn)) for other, f in functions.items())


def row_cases(kernel: str, thorough: bool) -> Iterator[tuple[str, Case]]:
    """All statistics at every configuration; thorough: usual sets of them too, other modes, dtypes and widths."""
    single = kernel.startswith("one")
    every = tuple(n for n in NAMES if n in OF_ONE) if single else NAMES
    sets = [("logp",)] if single else [("logp",), ("logp", "kl_forward"), ("kl_reverse",), ("js",)]

    def case(
        config: rows.Config, want: tuple[str, ...], *, mode: int = PAIR, has_y: bool = True, aligned: bool = True,
        types: Mapping[str, str] | None = None,
    ) -> Case:  # fmt: skip
        constants = {"WANT": bits(want), "HAS_Y": has_y, "BLOCK": config.block} | ({} if single else {"MODE": mode})
        all_types = {k: v for k, v in (ROW_TYPES | dict(types or {})).items() if has_y or k != "y"}
        return Case(all_types, constants | ({} if has_y else {"y": None}), config.warps, aligned)

    for config in rows.CANDIDATES:
        name = f"{config.block} columns {config.warps} warps"
        if not thorough:
            yield f"{name}, all", case(config, every)
            continue
        for want in sets:
            yield f"{name}, {' '.join(want)}", case(config, want)
        wide = {"z": "*fp32", "r": "*fp32", "out": "*fp32"}
        yield f"{name}, all, fp32", case(config, every, types=wide)
        if config in rows.candidates(even=False):
            yield f"{name}, all, fp32, unaligned", case(config, every, types=wide, aligned=False)
        if not single and config == rows.MEDIUM:
            yield f"{name}, all, difference fp32 bf16", case(config, every, mode=DIFFERENCE, types={"z": "*fp32"})
    if thorough:
        no_target = ("entropy",) if single else ("entropy", "kl_forward", "kl_reverse", "js", "npo_vocab")
        yield "no target", case(rows.MEDIUM, no_target, has_y=False)
        # Triton makes a constant of a number that is 1.
        for has_y in (True, False):
            one = case(rows.SMALL, every if has_y else no_target, has_y=has_y, aligned=False)
            constants = {**one.constants, "V": 1, "z_stride": 1}
            types = {name: kind for name, kind in one.types.items() if name not in constants}
            yield f"one column{'' if has_y else ', no target'}", Case(types, constants, one.warps, aligned=False)


def other_cases(kernel: str, thorough: bool) -> Iterator[tuple[str, Case]]:
    if kernel.startswith("distance"):
        for dtype in ("bf16", "fp16", "fp32") if thorough else ("bf16",):
            types = DISTANCE_TYPES | {"h": f"*{dtype}", "out": "*fp32" if kernel == "distance_kernel" else f"*{dtype}"}
            yield dtype, Case(types, {"BLOCK": distance.BLOCK}, distance.WARPS)
            yield f"{dtype}, fp32 target", Case(types | {"target": "*fp32"}, {"BLOCK": distance.BLOCK}, distance.WARPS)
    elif kernel == "l1_total_kernel":
        yield "fp32", Case(L1_TYPES, {"BLOCK": l1.BLOCK}, l1.WARPS)
    elif kernel in ("l1_chunk_kernel", "l1_add_sign_kernel"):
        for dtype in l1._TYPES.values() if thorough else [triton.language.float32]:
            for aligned in (True, False):
                constants = {"TYPE": dtype, "GRAD_TYPE": triton.language.float32, "ALIGNED": aligned, "BLOCK": l1.BLOCK}
                yield f"{dtype}{'' if aligned else ', unaligned'}", Case(L1_TYPES, constants, l1.WARPS)


def cases(kernel: str, thorough: bool) -> dict[str, Case]:
    """Name -> what to compile of a kernel."""
    by_rows = kernel.removeprefix("one_").removeprefix("pair_") in ("stats_kernel", "grad_kernel")
    return dict((row_cases if by_rows else other_cases)(kernel, thorough))


def compiled(function: JITFunction, case: Case, target: GPUTarget) -> Usage:
    """Compile and say what it takes."""
    names = function.arg_names
    constants = {name: value for name, value in case.constants.items() if name in names}
    signature = {name: "constexpr" if name in constants else case.types[name] for name in names}
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if case.aligned and (signature[name].startswith("*") or name in EVEN) and name not in constants
    }
    source = ASTSource(
        function,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs=attributes,
    )
    kernel = triton.compile(source, target=target, options={"num_warps": case.warps, "enable_fp_fusion": True})
    shared = int(kernel.metadata.shared)
    if target.backend == "hip":
        text = kernel.asm["amdgcn"]
        spilled = sum(int(n) for n in re.findall(r"\.[sv]gpr_spill_count:\s+(\d+)", text))
        return Usage(int(re.findall(r"\.vgpr_count:\s+(\d+)", text)[0]), spilled, shared)
    usage = of_cubin(kernel.asm["cubin"])
    return Usage(usage["REG"], usage["STACK"] + usage["LOCAL"], shared)


def of_cubin(cubin: bytes) -> dict[str, int]:
    """Registers a thread, stack and local memory (where registers are spilled to) as the binary declares them."""
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
