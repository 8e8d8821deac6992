"""Tables of a scale study: every point of the baseline, measured beside predicted, what methods cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clear_dist.report.cells import Cell, Row, Table, gap, text
from clear_dist.report.scale_read import NO_FIT, Kind, Ratio, ScaleData, amount, costs, memory_unit, value

MOST_ROWS = 72  # of a table; all of them are in scale_study.json


def _number(found: float | None, factor: float = 1.0, small: str = "") -> Cell:
    return gap("–") if found is None else Cell(amount(found * factor), small, "number")


def _ratio(found: Ratio | None) -> Cell:
    if found is None:
        return gap("–")
    small = "" if found.low == found.high else f"{amount(found.low)} to {amount(found.high)}"
    return Cell(amount(found.middle), small, "number")


def _cut(
    key: str, title: str, head: Sequence[str], rows: Sequence[Row], *, heads: int, notes: Sequence[str] = ()
) -> Table:
    more = len(rows) - MOST_ROWS
    said = (*notes, *((f"{more} rows more are in scale_study.json.",) if more > 0 else ()))
    return Table(key, title, tuple(head), tuple(rows[:MOST_ROWS]), heads=heads, notes=said)


def points_table(data: ScaleData, mix: str, key: str) -> Table:
    """Predicted speed and memory of the baseline, a row for every model, number of GPUs and stage."""
    picked = [r for m in data.models for r in data.pick(model=m, mix=mix, method=data.baseline, scaling=data.compared)]
    unit, name = memory_unit(row["predicted"]["peak_bytes"] for row in picked)
    rows: list[Row] = []
    for row in picked:
        plan = row["predicted"]
        names = (text(row["model"]), text(str(row["gpus"])), text(row["stage"]))
        speeds = [value(row, "predicted", field) for field in ("step_s", "tokens_per_s", "images_per_s", "mfu")]
        cells = [_number(v, 100 if i == 3 else 1) if plan["fits"] else gap("–") for i, v in enumerate(speeds)]
        said = text(("fits, recomputing" if plan["recomputes"] else "fits") if plan["fits"] else NO_FIT)
        rows.append(
            Row(
                (*names, *cells, _number(plan["peak_bytes"], 1 / unit), said),
                grey=not plan["fits"],
                rule=bool(rows) and rows[-1].cells[0].text != row["model"],
            )
        )
    head = ("Model", data.devices, "stage", "step, s", "tokens/s", "images/s", "MFU, %", f"peak, {name}", "")
    title = f"Predicted: {data.baseline}, {mix}, {data.compared} scaling"
    return _cut(key, title, head, rows, heads=3)


def measured_table(data: ScaleData) -> Table | None:
    """Every measured row; None without any."""
    if not data.measured:
        return None
    peaks = [row["measured"]["peak_bytes"] for row in data.measured]
    unit, name = memory_unit(peaks)
    rows = []
    for row in data.measured:
        names = [text(str(row[k])) for k in ("model", "gpus", "stage", "method", "mix", "scaling")]
        cells = [_number(row["measured"][field]) for field in ("tokens_per_s", "images_per_s")]
        cells.append(_number(row["measured"]["mfu"], 100))
        for field, factor in (("step_s", 1.0), ("peak_bytes", 1 / unit)):
            plan, real = value(row, "predicted", field), value(row, "measured", field)
            quotient = None if plan is None or real is None else real / plan
            cells += [_number(plan, factor), _number(real, factor), _number(quotient)]
        rows.append(Row((*names, *cells)))
    head = ("Model", data.devices, "stage", "method", "mix", "scaling", "tokens/s", "images/s", "MFU, %")
    step, peak = ("predicted", "measured", "ratio"), (f"predicted, {name}", f"measured, {name}", "ratio")
    groups = (("", 6), ("Measured", 3), ("Step, s", 3), ("Peak", 3))
    table = _cut("measured", "Measured, beside predicted", (*head, *step, *peak), rows, heads=6)
    return Table(table.key, table.title, table.head, table.rows, groups, heads=6, notes=table.notes)


def costs_table(data: ScaleData) -> Table | None:
    """Each method by the baseline; None where there is one method."""
    if len(data.methods) < 2:
        return None
    kinds: tuple[Kind, ...] = ("predicted", "measured") if data.measured else ("predicted",)
    rows = []
    for method in data.methods:
        for model in data.models:
            cells = [
                _ratio(costs(data, method, model, kind, field)) for field in ("step_s", "peak_bytes") for kind in kinds
            ]
            rows.append(Row((text(method), text(model), *cells)))
    head = ("Method", "Model", *kinds, *kinds)
    groups = (("", 2), ("Step time", len(kinds)), ("Peak memory", len(kinds)))
    title = f"Cost of each method, times {data.baseline}"
    note = "The middle of all points that have both, from the least to the most below it."
    table = _cut("costs", title, head, rows, heads=2, notes=(note,))
    return Table(table.key, title, head, table.rows, groups, heads=2, notes=table.notes)


def named(row: Mapping[str, Any]) -> str:
    """A row's columns in a line."""
    return f"{row['model']}, {row['method']}, {row['stage']}, {row['gpus']} ranks, {row['mix']}, {row['scaling']}"
