"""CUDA kernels as libraries that run on a CPU, for their tests: sources rewritten for ``cuda_emulator.h`` and compiled,
the structures of ``csrc/cuda.h``, and rows of logits with their statistics and gradients in float64."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from clear_dist.ops.rows.names import DIFFERENCE, IGNORE, NAMES, PAIR, SINGLE, STATE

Kernels = dict[str, ctypes.CDLL]
CXX = shutil.which("g++") or shutil.which("clang++")
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ONE = ("logp", "log1mp", "top1", "entropy")
BETA = 0.7
SOURCES = ("rows_stats", "rows_grad", "l1", "distance")


class Rows(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("z", "r", "y")]
        + [(name, ctypes.c_int64) for name in ("z_stride", "r_stride", "T", "V")]
        + [(name, ctypes.c_int) for name in ("z_dtype", "r_dtype", "want", "mode")]
        + [("beta", ctypes.c_float), ("device", ctypes.c_int)]
    )


class Distance(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("h", "target")]
        + [(name, ctypes.c_int64) for name in ("h_stride", "target_stride", "M", "D")]
        + [(name, ctypes.c_int) for name in ("h_dtype", "target_dtype", "device")]
    )


class L1(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("data", "grad")]
        + [(name, ctypes.c_int64) for name in ("count", "first_piece")]
        + [(name, ctypes.c_int) for name in ("dtype", "grad_dtype")]
    )


def emulated(source: str) -> str:
    """A .cu file as C++ for the emulator: smaller shares of a row, launches and shared memory rewritten."""
    source = source.replace("constexpr size_t COMFORTABLE = 100 * 1024", "constexpr size_t COMFORTABLE = 2 * 1024")
    source = re.sub(
        r"extern __shared__ uint4 (\w+)\[\];", r"uint4* \1 = (uint4*)emulated::current->block->arena;", source
    )
    source = re.sub(r"__shared__ (\w+) (\w+);", r"auto& \2 = emulated::shared<\1, __LINE__>();", source)
    source = re.sub(r"__shared__ (\w+) (\w+)\[(.*?)\];", r"auto& \2 = emulated::shared<\1[\3], __LINE__>();", source)
    return re.sub(
        r"([\w:]+(?:<[^;{}]*?>)?)<<<([^;]*?), ([^;,]*?), 0, [^;]*?>>>\(([^;]*)\);",
        r"emulated::launch(\2, \3, 0, 1, [=] { \1(\4); });",
        source,
    )


def compile_emulated(root: Path, folder: Path) -> Kernels:
    """Source -> its library; ``emulate(clusters, shared)`` of it says what the device has of both."""
    for path in [*root.glob("csrc/*.h"), *root.glob("csrc/*.cuh"), *(root / "csrc" / f"{n}.cu" for n in SOURCES)]:
        text = emulated(path.read_text())
        if path.name == "rows_cluster.cuh":
            assert "constexpr int THREADS = 512;" in text
            text = text.replace("constexpr int THREADS = 512;", "constexpr int THREADS = 64;")
        (folder / path.name.replace(".cu", ".cpp", 1) if path.suffix == ".cu" else folder / path.name).write_text(text)
    for name in ("cuda_runtime.h", "cuda_bf16.h", "cuda_fp16.h", "cooperative_groups.h"):
        (folder / name).write_text("")

    def build(name: str) -> ctypes.CDLL:
        command = [str(CXX), "-O1", "-g0", "-w", "-std=c++20", "-fPIC", "-shared", "-I", str(folder), "-include"]
        command += [str(root / "tests" / "ops" / "cuda_emulator.h"), str(folder / f"{name}.cpp")]
        done = subprocess.run([*command, "-o", str(folder / f"{name}.so")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]
        return ctypes.CDLL(str(folder / f"{name}.so"))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SOURCES, pool.map(build, SOURCES), strict=True))


def strided(x: Tensor, dtype: torch.dtype, gap: int) -> Tensor:
    """The same values in a dtype, rows ``gap`` elements further apart than they are long; the gap is NaN."""
    rows, columns = x.shape
    room = torch.full((rows, columns + gap), float("nan"), dtype=dtype)
    room[:, :columns] = x.to(dtype)
    return room[:, :columns]


class Case:
    """Logits, targets, and the arguments of a call."""

    def __init__(
        self,
        mode: int,
        V: int,
        *,
        dtypes: tuple[torch.dtype, torch.dtype] = (torch.float32, torch.float32),
        apart: float = 1.0,
        scale: float = 3.0,
        gap: int = 0,
        gap_r: int | None = None,
        targets: bool = True,
        want: tuple[str, ...] | None = None,
    ) -> None:
        g = torch.Generator().manual_seed(V + mode)
        T = 6
        reference = scale * torch.randn(T, V, generator=g)
        difference = apart * torch.randn(T, V, generator=g)
        first, second = (reference + difference, reference) if mode == PAIR else (reference, difference)
        self.z, self.r = strided(first, dtypes[0], gap), strided(second, dtypes[1], gap if gap_r is None else gap_r)
        y = torch.randint(0, V, (T,), generator=g)
        y[0] = int(self.z[0].float().argmax())
        y[1], y[2] = 0, V - 1
        y[4], y[5] = IGNORE, V
        self.y = y if targets else None
        self.mode, self.T, self.V = mode, T, V
        names = NAMES if mode != SINGLE else ONE
        needing = {"logp", "log1mp", "top1", "logp_ref", "log1mp_ref", "log_ratio", "cross_rest"}
        self.want = want or tuple(n for n in names if targets or n not in needing)
        self.bits = sum(1 << NAMES.index(n) for n in self.want)

    def call(self) -> Rows:
        pair = self.mode != SINGLE
        return Rows(
            self.z.data_ptr(),
            self.r.data_ptr() if pair else None,
            self.y.data_ptr() if self.y is not None else None,
            *(self.z.stride(0), self.r.stride(0), self.T, self.V, DTYPES[self.z.dtype], DTYPES[self.r.dtype]),
            *(self.bits, self.mode, BETA, 0),
        )

    def scored(self) -> list[int]:
        return [0, 1, 2, 3] if self.y is not None else list(range(self.T))

    def truth(self) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Statistics [K, T'] and logits [T', V] of the rows that are scored, in float64; coef -> gradient."""
        rows = self.scored()
        z, r = self.z[rows].double(), self.r[rows].double()
        student = (z + r if self.mode == DIFFERENCE else z).requires_grad_()
        lp = student.log_softmax(-1)
        lq = (r if self.mode == PAIR else z).log_softmax(-1)
        m = torch.logaddexp(lp, lq) - torch.log(torch.tensor(2.0, dtype=torch.float64))
        stats: dict[str, Tensor] = {
            "entropy": -(lp.exp() * lp).sum(-1),
            "entropy_ref": -(lq.exp() * lq).sum(-1),
            "kl_forward": (lq.exp() * (lq - lp)).sum(-1),
            "kl_reverse": (lp.exp() * (lp - lq)).sum(-1),
            "js": ((lp.exp() * (lp - m)).sum(-1) + (lq.exp() * (lq - m)).sum(-1)) / 2,
            "npo_vocab": 2 / BETA * torch.nn.functional.softplus(BETA * (lp - lq)).mean(-1),
        }
        if self.y is not None:
            y = self.y[rows][:, None]
            others = torch.ones_like(lp).scatter(1, y, 0.0).log()
            at = {"logp": lp.gather(1, y)[:, 0], "logp_ref": lq.gather(1, y)[:, 0]}
            rest = (lq + others).softmax(-1)
            stats |= at | {
                "log1mp": (lp + others).logsumexp(-1),
                "log1mp_ref": (lq + others).logsumexp(-1),
                "top1": (student.gather(1, y)[:, 0] >= student.max(-1).values).double(),
                "log_ratio": at["logp"] - at["logp_ref"],
                "cross_rest": -(rest * lp).sum(-1),
            }
        stacked = torch.stack([stats[name] for name in self.want])

        def gradient(coef: Tensor) -> Tensor:
            loss = (stacked * coef.double()).sum()
            return torch.autograd.grad(loss, student, retain_graph=True)[0] if loss.requires_grad else student * 0

        return stacked.detach(), student.detach(), gradient


def stats_of(kernels: Kernels, case: Case) -> tuple[Tensor, Tensor]:
    stats, state = torch.full((len(case.want), case.T), 7.0), torch.full((STATE, case.T), 7.0)
    record = torch.full((case.T, 18), float("nan"))
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (record, stats, state)]
    assert kernels["rows_stats"].clear_dist_cuda_row_stats(ctypes.byref(case.call()), *pointers, None) == 0
    return stats, state


def gradient_of(kernels: Kernels, case: Case, state: Tensor, coef: Tensor, out: Tensor) -> None:
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (state, coef, out)]
    assert (
        kernels["rows_grad"].clear_dist_cuda_row_grad(
            ctypes.byref(case.call()), *pointers, ctypes.c_int64(out.stride(0)), DTYPES[out.dtype], None
        )
        == 0
    )


def check(kernels: Kernels, case: Case, atol: float = 4e-6, rtol: float = 1e-5) -> None:
    """Statistics and gradient against float64; rows that are not scored, and those whose target is nowhere."""
    rows = case.scored()
    want, _, gradient = case.truth()
    stats, state = stats_of(kernels, case)
    for k, name in enumerate(case.want):
        torch.testing.assert_close(
            stats[k, rows].double(), want[k], atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}"
        )
    if case.y is not None:
        assert (stats[:, 4] == 0).all() and (state[:, 4] == 0).all()
        assert stats[:, 5].isnan().all() and state[:, 5].isnan().all()
    coef = torch.linspace(-1, 1.5, len(case.want) * case.T).reshape(len(case.want), case.T).contiguous()
    out = torch.full((case.T, case.V), float("nan"))
    gradient_of(kernels, case, state, coef, out)
    torch.testing.assert_close(out[rows].double(), gradient(coef[:, rows]), atol=atol, rtol=rtol * 5)
    if case.y is not None:
        assert (out[4] == 0).all() and out[5].isnan().all()
