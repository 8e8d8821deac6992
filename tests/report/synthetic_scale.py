"""A scale_study.json with figures that are easy to know again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

TIMES = {"gd": 1.0, "npo": 0.5, "kl": 1.5}  # of a step on one GPU
LIMIT = 80 * 10**9


def row(model: str, gpus: int, stage: str, method: str, mix: str, scaling: str, *, measured: bool) -> dict[str, Any]:
    """Strong: a step takes 1/N of the time but for a tenth that stays; weak: a tenth more on every doubling. z0 is too
    large for the big model."""
    fits = not (model == "big" and stage == "z0")
    seconds = TIMES[method] * (0.9 / gpus + 0.1 if scaling == "strong" else 1 + 0.1 * (gpus.bit_length() - 1))
    tokens = 1000 * (1 if scaling == "strong" else gpus)
    peak = {"z0": 60, "z3": 30}[stage] * 10**9 * (2 if model == "big" else 1)

    def speeds(factor: float) -> dict[str, Any]:
        step = factor * seconds
        return {"step_s": step, "tokens_per_s": tokens / step, "images_per_s": tokens / step / 100, "mfu": 0.4 / factor}

    none: dict[str, Any] = dict.fromkeys(("step_s", "tokens_per_s", "images_per_s", "mfu"))
    return {
        "model": model, "gpus": gpus, "stage": stage, "method": method, "mix": mix, "scaling": scaling,
        "predicted": {**(speeds(1.0) if fits else none), "peak_bytes": peak, "fits": fits, "recomputes": False},
        "measured": {**speeds(2.0), "peak_bytes": round(1.05 * peak)} if measured and fits else None,
        "why": None if measured and fits else "does not fit: short by 40 GB" if not fits else "not measured: elsewhere",
    }  # fmt: skip


def make_study(
    folder: Path,
    *,
    models: Sequence[str] = ("small", "big"),
    gpus: Sequence[int] = (1, 2, 4),
    mixes: Sequence[str] = ("half pictures",),
    methods: Sequence[str] = tuple(TIMES),
    measured: bool = True,
    left_out: Sequence[str] = (),
    **changes: Any,
) -> Path:
    """Writes scale_study.json into a folder; measured: on up to two GPUs."""
    axes = (models, gpus, ("z0", "z3"), methods, mixes, ("strong", "weak"))
    rows = [row(m, n, s, way, mix, how, measured=measured and n <= 2) for m, n, s, way, mix, how in product(*axes)]
    content = {
        "v": 1,
        "machine": {"device": "h100-80g", "cpu": "a CPU", "cores": 2, "versions": {"torch": "2.13"}},
        "gpu": {"name": "h100-80g", "memory_bytes": LIMIT, "flops": 1e15},
        "grid": {"models": list(models), "gpus": list(gpus)},
        "baseline": methods[0],
        "left_out": list(left_out),
        "rows": rows,
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scale_study.json").write_text(json.dumps(content))
    return folder
