"""What every benchmark shares: which machine it ran on, honest timing, and results as JSON, Markdown and PNG.

Each script answers one question, checks its subject for correctness first, times all variants interleaved in one run
(so that what else the machine does hits all of them), and leaves three files under ``benchmarks/results/``:
``NAME.json`` (``NAME_gpu.json`` where it ran on a GPU), and ``NAME_DATE_cpu.md`` and ``.png`` (or ``_gpu``) as dated
evidence.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "transformers", "peft", "deepspeed", "numpy", "triton", "flash_attn")


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing: what is typical, and how far they lay apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def json(self) -> dict[str, float]:
        return {"median": self.median, "min": self.low, "max": self.high}

    def text(self, digits: int = 2) -> str:
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}-{self.high:,.{digits}f})"


def device_of(name: str) -> torch.device:
    """``auto`` is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware, versions, threads and commit: what a figure means nothing without."""
    out: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "device": device.type,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": round(psutil.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        out["gpu"] = properties.name
        out["gpu_memory_gb"] = round(properties.total_memory / 1e9, 1)
        out["cuda"] = torch.version.cuda
    return out


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((t.split(":", 1)[1].strip() for t in lines if t.startswith("model name")), platform.machine())


def _commit() -> str:
    """The commit the figures belong to; ``+`` where the package or the benchmarks differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            "+" if git("status", "--porcelain", "--", "clear_dist", "benchmarks/*.py") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call, the device's queue empty before and after."""
    _synchronize(device)
    began = time.perf_counter()
    work()
    _synchronize(device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    variants: Mapping[str, Callable[[int], object]], rounds: int, device: torch.device
) -> list[dict[str, float]]:
    """Seconds of every variant in every round: ``[round][variant]``.

    Each round calls all variants with its own number, beginning with another one each time, so that neither a slow
    drift nor the order favours any. Whatever has to warm up must have done so.
    """
    names = list(variants)
    out: list[dict[str, float]] = []
    for number in range(rounds):
        turn = number % len(names)
        took: dict[str, float] = {}
        for name in names[turn:] + names[:turn]:
            took[name] = seconds_of(partial(variants[name], number), device)
        out.append({name: took[name] for name in names})
    return out


def write_results(
    name: str,
    where: Path,
    info: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    markdown: str,
    draw: Callable[[Path], object],
) -> list[Path]:
    """The three files of a benchmark; returns their paths, the JSON first."""
    where.mkdir(parents=True, exist_ok=True)
    gpu = info["device"] == "cuda"
    stem = f"{name}_{info['date']}_{'gpu' if gpu else 'cpu'}"
    result = where / f"{name}{'_gpu' if gpu else ''}.json"
    result.write_text(json.dumps({"v": 1, "machine": info, "rows": list(rows)}, indent=1) + "\n", encoding="utf-8")
    text = where / f"{stem}.md"
    text.write_text(f"{markdown}\n\n![{name}]({stem}.png)\n\n{machine_lines(info)}\n", encoding="utf-8")
    figure = where / f"{stem}.png"
    draw(figure)
    return [result, text, figure]


def machine_lines(info: Mapping[str, Any]) -> str:
    """The machine as a Markdown list."""
    versions = ", ".join(f"{k} {v}" for k, v in info["versions"].items())
    gpu = f"; {info['gpu']}, {info['gpu_memory_gb']:.0f} GB, CUDA {info['cuda']}" if "gpu" in info else ""
    return "\n".join(
        [
            f"- machine: {info['cpu']}, {info['cores']} cores, {info['memory_gb']:.0f} GB{gpu}",
            f"- {info['threads']} thread(s), load {info['load_before']} before the run",
            f"- Python {info['python']}, {versions}",
            f"- commit {info['commit']}, {info['date']}",
        ]
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, figures to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
