"""A scale study in the terminal: its points before it runs, the first method's speed and memory after it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from clear_dist.services.progress import console

from .plan_outlook import size
from .plan_table import seconds
from .scale_points import Row

MOST_LINES = 48


def print_points(rows: Sequence[Row], reasons: Sequence[str | None]) -> None:
    """A line a point: whether it is measured, or why not."""
    out = Table(pad_edge=False, title=f"{len(rows):,} points", title_justify="left")
    for name in ("model", "GPUs", "stage", "method", "mix", "scaling", "step", "peak", ""):
        out.add_column(name, justify="right" if name in ("GPUs", "step", "peak") else "left")
    for row, why in zip(rows, reasons, strict=True):
        step = "–" if row.short else seconds(row.speed.step_s)
        names = (escape(str(value)) for value in row.key.values())
        out.add_row(*names, step, size(row.peak_bytes), escape(why or "measured"))
    console.print(out)


def print_summary(study: Mapping[str, Any]) -> None:
    """Of the method that others are compared with."""
    every = [row for row in study["rows"] if row["method"] == study["baseline"]]
    scaling = "weak" if any(row["scaling"] == "weak" for row in every) else "strong"
    rows = [row for row in every if row["scaling"] == scaling]
    mixes = len({row["mix"] for row in rows}) > 1
    title = f"{study['baseline']} on {study['gpu']['name']}, {scaling} scaling: predicted, and measured where it was"
    out = Table(pad_edge=False, title=escape(title), title_justify="left")
    for name in ("model", *(("mix",) if mixes else ()), "GPUs", "stage"):
        out.add_column(name, justify="right" if name == "GPUs" else "left", no_wrap=True)
    for name in ("tokens/s", "measured", "MFU", "measured", "peak", "measured"):
        out.add_column(name, justify="right")
    for row in rows[:MOST_LINES]:
        plan, real = row["predicted"], row["measured"] or {}
        out.add_row(
            escape(row["model"]), *((escape(row["mix"]),) if mixes else ()), str(row["gpus"]), escape(row["stage"]),
            _count(plan["tokens_per_s"]) if plan["fits"] else "does not fit", _count(real.get("tokens_per_s")),
            _percent(plan["mfu"]), _percent(real.get("mfu")),
            size(plan["peak_bytes"]), size(real["peak_bytes"]) if real else "–",
        )  # fmt: skip
    console.print(out)
    if len(rows) > MOST_LINES:
        console.print(f"and {len(rows) - MOST_LINES} more; all are in scale_study.json")


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
