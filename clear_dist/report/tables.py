"""A summary as a table for the terminal: models side by side on every set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from clear_dist.metrics.interval import Estimate
from clear_dist.metrics.record import is_control
from clear_dist.report.run import estimate
from clear_dist.report.words import GROUPS, METRICS, SETS, number, quality_line

HEADLINE = ("name_accuracy", "fact_accuracy", "attribute_accuracy", "rouge_l", "probability", "truth_ratio", "metric")


def _cell(value: Estimate | None) -> str:
    return (
        "[dim]-[/dim]"
        if value is None
        else f"{number(value.value)} [dim]{number(value.low)}-{number(value.high)}[/dim]"
    )


def reading_order(models: Sequence[str]) -> list[str]:
    """original first, gold last, everything else between in its own order; controls left out."""
    middle = [m for m in models if m not in ("original", "gold") and not is_control(m)]
    return [m for m in ("original",) if m in models] + middle + [m for m in ("gold",) if m in models]


def compare_table(
    summary: Mapping[str, Any],
    *,
    models: Sequence[str] | None = None,
    group: str = "all",
    metrics: Sequence[str] = HEADLINE,
    title: str | None = None,
) -> Table:
    """Rows: metrics of each set that was measured; columns: models, with 95% intervals.

    Args:
        summary: content of summary.json.
        models: which, in which order; default all.
        group: all, text or visual.
    """
    shown = reading_order(list(summary["models"])) if models is None else list(models)
    table = Table(title=title, caption=None if group == "all" else f"{GROUPS[group]} only", pad_edge=False)
    table.add_column("set", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for model in shown:
        table.add_column(escape(model), justify="right", no_wrap=True)
    for set_name, words in SETS.items():
        rows = [(METRICS[k], [estimate(summary, m, set_name, group, k) for m in shown]) for k in metrics]
        rows = [(name, values) for name, values in rows if any(v is not None for v in values)]
        for i, (name, values) in enumerate(rows):
            table.add_row(words if i == 0 else "", name, *map(_cell, values), end_section=i == len(rows) - 1)
    utility = [Estimate.of(summary["models"].get(m, {}).get("model_utility")) for m in shown]
    if any(v is not None for v in utility):
        table.add_row("Model utility", "", *map(_cell, utility))
    qualities = [summary["models"].get(m, {}).get("forget_quality") for m in shown]
    if any(q is not None for q in qualities):
        lines = [(quality_line(q) or "[dim]-[/dim]").replace(", ", "\n") for q in qualities]
        table.add_row("Forget quality", "", *lines)
    return table
