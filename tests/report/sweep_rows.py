"""Rows of a sweep as a real one would write them, for any methods, seeds and grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "ci": [max(0.0, value - 0.1), min(1.0, value + 0.1)], "n": 40}


def summary(forget: tuple[float, float], retain: tuple[float, float], visible: float | None = 0.9) -> dict[str, Any]:
    """(name, fact) accuracies of a model on forget and retain."""
    sets: dict[str, Any] = {}
    for name, (who, what) in (("forget", forget), ("retain", retain)):
        sets[name] = {"all": {"name_accuracy": estimate(who), "fact_accuracy": estimate(what)}}
    sets["forget"]["all"]["attribute_accuracy"] = None if visible is None else estimate(visible)
    return {"sets": sets, "forget_quality": None}


def row(
    method: str,
    seed: int,
    forget: tuple[float, float],
    retain: tuple[float, float],
    grid: Mapping[str, float | str] | None = None,
    seconds: float = 30.0,
    **more: Any,
) -> dict[str, Any]:
    point = "".join(f"-{k}={v}" for k, v in (grid or {}).items())
    return {
        "run": f"{method}{point}-seed{seed}",
        "method": method,
        "seed": seed,
        "set": {},
        "grid": dict(grid or {}),
        "objective": None if method in ("original", "gold") else f"{method}(FORGET)",
        "summary": summary(forget, retain),
        "seconds": seconds + 15,
        "seconds_by_part": {"unlearn": seconds, "evaluate": 15.0},
        **more,
    }


def anchors(seeds: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for seed in seeds:
        rows += [row("original", seed, (0.8, 1.0), (0.9, 1.0)), row("gold", seed, (0.0, 0.2), (0.9, 1.0))]
    return rows


def curve(forget: Sequence[float], retain: Sequence[float], every: int = 10) -> list[dict[str, float]]:
    pairs = zip(forget, retain, strict=True)
    return [{"step": i * every, "exact/forget": f, "exact/retain": r} for i, (f, r) in enumerate(pairs)]
