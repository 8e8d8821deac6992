"""What a sweep found: a table (terminal and Markdown), the forget-retain front, and curves during unlearning.

Everything here is computed from the rows of ``sweep.json`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.markup import escape as rich_escape
from rich.table import Table

from clear_dist.report.front import ANCHORS, front, pareto
from clear_dist.report.markdown import escape
from clear_dist.report.sweep_curves import draw_curves
from clear_dist.report.words import number

Rows = Sequence[Mapping[str, Any]]
NAME, FACT, ATTRIBUTE = "name_accuracy", "fact_accuracy", "attribute_accuracy"
NOTE = (
    "Medians over seeds, every seed in brackets. Forget: 1 as the original, 0 as gold, which never saw these people "
    "(without gold: as nothing). Retain: 1 as the original, 0 as nothing, for gold knows these people as well. "
    "Visible: accuracy on what can be seen on the pictures of the people to forget. Named: answers about those "
    "pictures that give the person's name or a fact away. Told: visible attributes such answers state rightly. "
    "Seconds: of unlearning alone. "
    "On the front: no other point knows less of forget and at least as much of retain, or as little and more."
)


def label(row: Mapping[str, Any]) -> str:
    """A point of the sweep as it is named: ``npo lr=0.0003 beta=0.1``."""
    point = [f"{key.removeprefix('set.')}={_short(value)}" for key, value in row.get("grid", {}).items()]
    return " ".join([str(row["method"]), *point])


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def figure_of(row: Mapping[str, Any], set_name: str, metric: str) -> float | None:
    """An accuracy of a row's summary; None where the run is not finished or measured none."""
    found = (((row.get("summary") or {}).get("sets") or {}).get(set_name) or {}).get("all") or {}
    return None if found.get(metric) is None else float(found[metric]["value"])


def aftermath_of(row: Mapping[str, Any], measure: str) -> float | None:
    """A figure of what a row's model says about forget pictures; None where it was not asked."""
    found = ((row.get("summary") or {}).get("aftermath") or {}).get(measure)
    return None if found is None else float(found["value"])


def relative(
    row: Mapping[str, Any], anchors: Mapping[str, Mapping[str, Any]], set_name: str, metric: str
) -> float | None:
    """(x - zero) / (original - zero): zero is gold on the forget set, nothing elsewhere.

    anchors: "original" and, where there is one, "gold", of the row's seed. None where a figure is absent, or the
    original knows no more than the zero.
    """
    value = figure_of(row, set_name, metric)
    one = figure_of(anchors.get("original", {}), set_name, metric)
    zero = figure_of(anchors["gold"], set_name, metric) if set_name == "forget" and "gold" in anchors else 0.0
    if value is None or one is None or zero is None or one <= zero:
        return None
    return (value - zero) / (one - zero)


@dataclass(frozen=True)
class Line:
    """A point of the sweep over its seeds: title -> one value a seed (None: absent); ``failed``: seed -> why."""

    name: str
    seeds: tuple[int, ...]
    values: Mapping[str, tuple[float | None, ...]]
    failed: Mapping[int, str]
    skipped: str | None
    best: bool


TITLES = ("forget name", "forget fact", "retain name", "retain fact", "visible", "named", "told", "seconds")
AFTERMATH = {"named": "named", "told": "attribute_recall"}  # title -> measure


def lines(rows: Rows) -> list[Line]:
    """The table's lines, in the rows' order, original and gold first."""
    anchors: dict[int, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["method"] in ANCHORS and "summary" in row:
            anchors.setdefault(row["seed"], {})[row["method"]] = row
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: r["method"] not in ANCHORS):
        groups.setdefault(label(row), []).append(row)
    best = best_points(rows)
    out = []
    for name, group in groups.items():
        done = [r for r in group if "summary" in r]
        values: dict[str, tuple[float | None, ...]] = {}
        for title in TITLES[:4]:
            set_name, kind = title.split()
            metric = {"name": NAME, "fact": FACT}[kind]
            values[title] = tuple(relative(r, anchors.get(r["seed"], {}), set_name, metric) for r in done)
        values["visible"] = tuple(figure_of(r, "forget", ATTRIBUTE) for r in done)
        for title, measure in AFTERMATH.items():
            values[title] = tuple(aftermath_of(r, measure) for r in done)
        values["seconds"] = tuple((r.get("seconds_by_part") or {}).get("unlearn") for r in done)
        failed = {r["seed"]: str(r["error"]) for r in group if "error" in r}
        skipped = next((str(r["skipped"]) for r in group if "skipped" in r), None)
        out.append(Line(name, tuple(r["seed"] for r in done), values, failed, skipped, name in best))
    return out


def front_points(rows: Rows) -> list[dict[str, Any]]:
    """A point a run for :func:`front`: accuracy on forget and on retain, the mean of names and facts (of what of these
    was measured everywhere)."""
    done = [r for r in rows if "summary" in r]
    sets = ("forget", "retain")
    metrics = [m for m in (NAME, FACT) if all(figure_of(r, s, m) is not None for r in done for s in sets)]
    if not metrics:
        return []
    points = []
    for row in done:
        known = {s: [v for m in metrics if (v := figure_of(row, s, m)) is not None] for s in sets}
        means = {s: sum(values) / len(values) for s, values in known.items()}
        points.append({"method": label(row), "family": row["method"], "seed": row["seed"], **means})
    return points


def best_points(rows: Rows) -> list[str]:
    """Labels on the forget-retain front of the medians over seeds."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for point in front_points(rows):
        if point["method"] not in ANCHORS:
            runs.setdefault(point["method"], []).append(point)
    return pareto({n: (median(p["forget"] for p in ps), median(p["retain"] for p in ps)) for n, ps in runs.items()})


def _shown(title: str, value: float) -> str:
    return f"{value:.0f}" if title == "seconds" else number(round(value, 2) + 0.0)[:-1]


def _cell(title: str, values: Sequence[float | None]) -> tuple[str, list[str]]:
    """(median, the values it is of); no values where there is but one."""
    present = [v for v in values if v is not None]
    if not present:
        return "-", []
    return _shown(title, median(present)), [_shown(title, v) for v in present] if len(present) > 1 else []


def sweep_table(rows: Rows) -> Table:
    """For the terminal: medians over seeds, with the lowest and the highest; ``*``: on the forget-retain front."""
    table = Table("", *TITLES, pad_edge=False, caption="* on the forget-retain front")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for line in lines(rows):
        name = f"{rich_escape(line.name)}{' *' if line.best else ''}"
        if not line.seeds:
            table.add_row(name, f"[dim]{_why(line)}[/dim]")
            continue
        cells = []
        for title in TITLES:
            present = [v for v in line.values[title] if v is not None]
            middle, every = _cell(title, present)
            spread = f" [dim]{_shown(title, min(present))} to {_shown(title, max(present))}[/dim]" if every else ""
            cells.append(middle + spread * (title in TITLES[:4]))
        table.add_row(name, *cells)
    return table


def _why(line: Line) -> str:
    return "does not apply" if line.skipped else "failed"


def markdown(rows: Rows) -> str:
    """sweep.md: the table, what it means, and what did not run."""
    found = lines(rows)
    seeds = sorted({seed for line in found for seed in line.seeds})
    head = ["", *TITLES, "on the front"]
    table = [head, ["---", *["---:"] * len(TITLES), "---"]]
    for line in found:
        if line.seeds:
            cells = [
                f"{middle} ({' '.join(every)})" if every else middle
                for middle, every in (_cell(title, line.values[title]) for title in TITLES)
            ]
            short = f" ({len(line.seeds)} of {len(line.seeds) + len(line.failed)} runs)" if line.failed else ""
            table.append([escape(line.name) + short, *cells, "yes" if line.best else ""])
    text = ["# Sweep", "", f"Seeds {', '.join(map(str, seeds))}. {NOTE}", ""] if seeds else ["# Sweep", ""]
    text += ["| " + " | ".join(row) + " |" for row in table] + [""]
    equations = dict.fromkeys((label(r), str(r["objective"])) for r in rows if r.get("objective"))
    if equations:
        text += ["## Equations", ""] + [f"* {escape(name)}: {escape(equation)}" for name, equation in equations] + [""]
    skipped = [f"* {escape(line.name)}: {escape(line.skipped)}" for line in found if line.skipped]
    failed = [
        f"* {escape(line.name)}, seed {seed}: {escape(why)}" for line in found for seed, why in line.failed.items()
    ]
    for title, notes in (("Does not apply", skipped), ("Failed", failed)):
        text += [f"## {title}", "", *notes, ""] if notes else []
    return "\n".join(text).rstrip() + "\n"


def report(rows: Rows, out: Path) -> list[Path]:
    """Writes sweep.md, front.png and, where runs were evaluated on their way, curves.png; returns what was written."""
    written = [out / "sweep.md"]
    written[0].write_text(markdown(rows), encoding="utf-8")
    points = front_points(rows)
    if any(point["method"] not in ANCHORS for point in points):
        front(points, out / "front.png")
        written.append(out / "front.png")
    curves: dict[str, list[tuple[Sequence[Mapping[str, float]], int | None]]] = {}
    for row in rows:
        if row.get("curve"):
            curves.setdefault(label(row), []).append((row["curve"], row.get("kept_step")))
    if curves:
        draw_curves(curves, out / "curves.png")
        written.append(out / "curves.png")
    return written
