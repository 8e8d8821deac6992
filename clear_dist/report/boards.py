"""Runs sorted onto leaderboards, one for each modality that was unlearned, and the forget-retain front of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clear_dist.report.board import Standing, standings
from clear_dist.report.cells import Row, Table, share, text
from clear_dist.report.draw import LIGHT, Image, draw
from clear_dist.report.front import front_figure
from clear_dist.report.runs import Entry, Run, entries_of, groups_of, landmark
from clear_dist.report.subject import Subject

BOARDS = {"text": "Text only", "visual": "Pictures only", "both": "Text and pictures"}


@dataclass(frozen=True)
class Board:
    """Runs that unlearned the same modality; ``entries`` are of one data, those of other data follow."""

    modality: str
    entries: tuple[Entry, ...]
    others: tuple[Entry, ...]
    anchors: tuple[Subject, ...]

    @property
    def found(self) -> list[Standing]:
        return standings([*self.entries, *self.others])


def boards_of(runs: Sequence[Run], *, seeds_together: bool = True) -> list[Board]:
    """One leaderboard for each modality that was unlearned. Within it, runs of other data than most are apart.

    seeds_together: whether the seeds of a method are one entry.
    """
    groups = groups_of([run for run in runs if run.data is not None])
    out = []
    for modality in BOARDS:
        parts = []
        for group in groups:
            members = [r for r in group if r.modality == modality or r.candidate is None]
            if any(r.candidate is not None for r in members):
                parts.append(members)
        if not parts:
            continue
        parts.sort(key=lambda members: -sum(r.candidate is not None for r in members))
        group = parts[0]
        entries = entries_of(group, seeds_together=seeds_together)
        others = [e for part in parts[1:] for e in entries_of(part, other=True, seeds_together=seeds_together)]
        anchors = [s for name in ("original", "gold") if (s := landmark(name, entries, group)) is not None]
        out.append(Board(modality, tuple(entries), tuple(others), tuple(anchors)))
    return out


def _known(subject: Subject, metrics: Sequence[str], set_name: str) -> float | None:
    values = [subject.estimate("sets", set_name, "all", m) for m in metrics]
    present = [v.value for v in values if v is not None]
    return sum(present) / len(metrics) if len(present) == len(metrics) and metrics else None


def front_image(board: Board) -> Image | None:
    """Forget against retain accuracy (mean of names and facts, of those every run measured) with the Pareto front."""
    subjects = [*board.anchors, *(e.subject for e in board.entries)]
    both = ("forget", "retain")
    metrics = [
        m for m in ("name_accuracy", "fact_accuracy")
        if all(s.estimate("sets", name, "all", m) is not None for s in subjects for name in both)
    ]  # fmt: skip
    points = []
    for one in subjects:
        forget, retain = (_known(one, metrics, name) for name in both)
        if forget is not None and retain is not None:
            points.append({"method": one.name, "forget": forget, "retain": retain})
    if not any(p["method"] not in ("original", "gold") for p in points):
        return None
    best = front_figure(points, LIGHT)[1]
    rows = tuple(
        Row((text(str(p["method"])), share(float(p["forget"])), share(float(p["retain"])),
             text("yes" if p["method"] in best else "")))
        for p in points
    )  # fmt: skip
    what = " and ".join({"name_accuracy": "name", "fact_accuracy": "fact"}[m] for m in metrics)
    return draw(
        f"front_{board.modality}",
        lambda theme: front_figure(points, theme)[0],
        alt=f"Retain against forget accuracy ({what}) of {len(points)} models. On the Pareto front: {', '.join(best)}. "
        "Every point is in the table below.",
        title="What forgetting costs: towards the upper left is better; the dashed line is the Pareto front",
        numbers=Table(f"front-{board.modality}", f"Accuracy ({what}) on forget and retain",
                      ("Model", "forget", "retain", "on the front"), rows),
    )  # fmt: skip
