"""Several runs side by side: for the terminal, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from clear_dist.metrics.interval import Estimate
from clear_dist.report.board import KEPT_SHARE, OTHER_DATA, leaked
from clear_dist.report.boards import BOARDS, Board, boards_of
from clear_dist.report.runs import Entry, Run
from clear_dist.report.subject import Subject
from clear_dist.report.words import clean, number

VERSION = 1
# title -> where the figure stands in a model's part of summary.json
FIGURES: dict[str, tuple[str, ...]] = {
    "forget_names": ("sets", "forget", "all", "name_accuracy"),
    "forget_facts": ("sets", "forget", "all", "fact_accuracy"),
    "retain_names": ("sets", "retain", "all", "name_accuracy"),
    "retain_facts": ("sets", "retain", "all", "fact_accuracy"),
    "real": ("real_metric",),
    "retain": ("sets", "retain", "all", "metric"),
    "forget": ("sets", "forget", "all", "metric"),
}
TITLES = {
    "forget_names": "forget\nnames",
    "forget_facts": "forget\nfacts",
    "retain_names": "retain\nnames",
    "retain_facts": "retain\nfacts",
    "real": "Real",
    "retain": "Retain",
    "forget": "Forget",
}


@dataclass(frozen=True)
class Line:
    """One model. role: run, original or gold. rank: None where it has none, and why. leaked: share of answers about
    the people to forget that give them away. seconds: of unlearning."""

    name: str
    role: str
    modality: str
    method: str | None
    folder: str | None
    rank: int | None
    why: str
    figures: dict[str, Estimate | None]
    ln_p: float | None
    leaked: Estimate | None
    seconds: float | None


def lines_of(runs: Sequence[Run]) -> list[Line]:
    """Board by board (by the modality that was unlearned): original, runs as ranked, gold. Original and gold stand once
    each; of several different ones (seeds) the median, and the lowest and highest as their interval."""
    out = []
    for board in boards_of(runs, seeds_together=False):
        out += [_line(s, board) for s in board.anchors if s.role == "original"]
        out += [_line(s.subject, board, s.entry, s.rank, s.why) for s in board.found]
        out += [_line(s, board) for s in board.anchors if s.role == "gold"]
    return out


def _line(subject: Subject, board: Board, entry: Entry | None = None, rank: int | None = None, why: str = "") -> Line:
    run = None if entry is None else entry.first
    return Line(
        name=subject.name,
        role=subject.role,
        modality=board.modality,
        method=None if run is None else run.method,
        folder=None if run is None else str(run.folder),
        rank=rank,
        why=why,
        figures={name: subject.estimate(*path) for name, path in FIGURES.items()},
        ln_p=subject.number("forget_quality", "ln_p"),
        leaked=leaked(subject),
        seconds=None if run is None else _seconds(run),
    )


def _seconds(run: Run) -> float | None:
    data = run.data
    for found in () if data is None else (data.summary.get("seconds"), data.facts.get("seconds")):
        value = found.get("unlearn") if isinstance(found, dict) else None
        if isinstance(value, int | float):
            return float(value)
    return None


def as_json(lines: Sequence[Line]) -> dict[str, Any]:
    """The lines for programs. What was not measured is null."""
    rows = []
    for line in lines:
        figures = {name: None if v is None else v.as_dict() for name, v in line.figures.items()}
        rows.append(
            {
                "name": line.name,
                "role": line.role,
                "unlearned": line.modality,
                "method": line.method,
                "run": line.folder,
                "rank": line.rank,
                "not_ranked": line.why or None,
                **figures,
                "ln_p": line.ln_p,
                "leaked": None if line.leaked is None else line.leaked.as_dict(),
                "seconds": line.seconds,
            }
        )
    return {"v": VERSION, "kept_share": KEPT_SHARE, "rows": rows}


def _shown(value: Estimate | None) -> str:
    return "[dim]-[/dim]" if value is None else number(value.value)


def compare_runs_table(lines: Sequence[Line]) -> Table:
    """For the terminal: names and facts still known, the papers' metrics, ln p, leaks, seconds; not ranked is dim."""
    table = Table("", "rank", *TITLES.values(), "ln p", "leaked", "sec.", pad_edge=False, title="Runs compared")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for modality, title in BOARDS.items():
        of = [line for line in lines if line.modality == modality]
        if of and len({line.modality for line in lines}) > 1:
            table.add_row(f"[bold]{title}[/bold]")
        for i, line in enumerate(of):
            grey = line.role == "run" and line.rank is None
            name = escape(clean(line.name)) + (f"\n[dim]{escape(line.why)}[/dim]" if line.why else "")
            table.add_row(
                name,
                "" if line.rank is None else str(line.rank),
                *(_shown(line.figures[figure]) for figure in TITLES),
                "[dim]-[/dim]" if line.ln_p is None else f"{line.ln_p + 0.0:.2f}",
                _shown(line.leaked),
                "[dim]-[/dim]" if line.seconds is None else f"{line.seconds:.0f}",
                style="dim" if grey else None,
                end_section=i == len(of) - 1 or (line.role == "original") or of[i + 1].role == "gold",
            )
    table.caption = (
        "Ranked by the Forget metric (lower first) among those that keep 80% of the original's Retain; read names and "
        "facts first. -: not measured."
    )
    if any(line.why == OTHER_DATA for line in lines):
        table.caption += f" {OTHER_DATA.capitalize()} stand in no ranking."
    return table
