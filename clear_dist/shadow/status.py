"""How far a farm is: counted from its database, which it only reads, or from the sidecars where there is none."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal
from urllib.parse import quote

from .folder import FARM_FILE, FarmFile, read_farm_file
from .manifest import DATABASE, LEASE, Row, row_of
from .sidecars import read_sidecars

RECENT = 20  # finished tasks that a median looks at
NOTES = 20  # what is shown of what was put right, the latest last

# Without the specifications, which are most of the database: this is read every second.
TASKS = """SELECT key, kind, name, '{}' AS spec, parents, keep, state, attempts, worker, error, result, result_size,
    weights, weights_size, metrics, seconds, finished_at FROM tasks ORDER BY position"""


@dataclass(frozen=True)
class Group:
    """Tasks counted together: what their names have before the last slash. seconds: median of the recent ones."""

    kind: str
    name: str
    total: int
    done: int
    running: int
    failed: int
    blocked: int
    seconds: float | None


@dataclass(frozen=True)
class Failed:
    """A task that is not tried any more, and the end of what its last attempt said."""

    name: str
    attempts: int
    error: str


@dataclass(frozen=True)
class WorkerSeen:
    """A worker: when it was last heard of (Unix time), and the task it holds."""

    name: str
    seen: float
    task: str | None


@dataclass(frozen=True)
class Status:
    """A farm at a moment.

    groups: in the plan's order. quarantined: given up. blocked: names of tasks that wait for those. models_per_hour:
    workers over the median seconds of recent tasks; None before any is done. eta: seconds to the end by medians of each
    group, 0 when nothing is left. size: bytes of results and kept weights. notes: what was put right.
    """

    groups: tuple[Group, ...]
    quarantined: tuple[Failed, ...]
    blocked: tuple[str, ...]
    workers: tuple[WorkerSeen, ...]
    models_per_hour: float | None
    eta: float | None
    size: int
    notes: tuple[str, ...]

    @property
    def total(self) -> int:
        return sum(group.total for group in self.groups)

    @property
    def done(self) -> int:
        return sum(group.done for group in self.groups)

    @property
    def running(self) -> int:
        return sum(group.running for group in self.groups)

    @property
    def finished(self) -> bool:
        """Whether every task is done."""
        return self.done == self.total


def group_of(name: str) -> str:
    """``shadow/007`` counts as ``shadow``; a name without a slash for itself."""
    return name.rpartition("/")[0] or name


def read_status(
    folder: Path, *, source: Literal["database", "sidecars"] = "database", clock: Callable[[], float] = time.time
) -> Status:
    """The farm at ``folder``, running or not; nothing is written and nobody waits.

    Args:
        source: ``sidecars`` from another host than the one that works there, as SQLite's log is for one host.

    Raises:
        UserError: no farm there.
    """
    seen: list[WorkerSeen] = []
    notes: tuple[str, ...] = ()
    rows: list[Row] | None = None
    if source == "database" and (folder / FARM_FILE).exists():
        with contextlib.suppress(sqlite3.Error, ValueError):
            rows, seen, notes = _read_database(folder, clock() - 2 * LEASE)
    return _counted(_from_sidecars(folder, read_farm_file(folder)) if rows is None else rows, seen, notes)


def _read_database(folder: Path, since: float) -> tuple[list[Row], list[WorkerSeen], tuple[str, ...]]:
    """Tasks, workers heard of ``since`` then (or that hold a task), notes: as of one moment."""
    path = quote(str((folder / DATABASE).absolute()))
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        db.execute("BEGIN")  # one snapshot for all three
        rows = [row_of(record) for record in db.execute(TASKS)]
        at = {row.worker: row.task.name for row in rows if row.state == "leased"}
        workers = db.execute("SELECT name, seen FROM workers ORDER BY seen").fetchall()
        seen = [
            WorkerSeen(w["name"], w["seen"], at.get(w["name"]))
            for w in workers
            if w["seen"] >= since or w["name"] in at
        ]
        notes = db.execute("SELECT text FROM notes ORDER BY at DESC, rowid DESC LIMIT ?", (NOTES,)).fetchall()
        return rows, seen, tuple(note["text"] for note in reversed(notes))


def _from_sidecars(folder: Path, farm: FarmFile) -> list[Row]:
    sidecars = read_sidecars(folder)
    done = [sidecars.get(task.key) for task in farm.tasks]
    return [
        Row(task, "pending" if d is None else "done", 0, None if d is None else d.worker, None, d)
        for task, d in zip(farm.tasks, done, strict=True)
    ]


def _counted(rows: Sequence[Row], seen: Sequence[WorkerSeen], notes: tuple[str, ...]) -> Status:
    blocked = _blocked(rows)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(group_of(row.task.name), []).append(row)
    counted = tuple(
        Group(
            kind=members[0].task.kind,
            name=name,
            total=len(members),
            done=_count(members, "done"),
            running=_count(members, "leased"),
            failed=_count(members, "quarantined"),
            blocked=sum(row.task.key in blocked for row in members),
            seconds=_recent_seconds(members),
        )
        for name, members in groups.items()
    )
    overall = _recent_seconds(rows)
    workers = max(1, _count(rows, "leased"))
    left = {g.name: g.total - g.done - g.failed - g.blocked for g in counted}
    guesses = [left[g.name] * (g.seconds or overall or 0.0) for g in counted]
    known = overall is not None or not any(left.values())
    objects = {ref.sha256: ref.size for row in rows if row.done for ref in (row.done.result, row.done.weights) if ref}
    return Status(
        groups=counted,
        quarantined=tuple(
            Failed(row.task.name, row.attempts, row.error or "") for row in rows if row.state == "quarantined"
        ),
        blocked=tuple(blocked.values()),
        workers=tuple(seen),
        models_per_hour=3600 * workers / overall if overall else None,
        eta=sum(guesses) / workers if known else None,
        size=sum(objects.values()),
        notes=notes,
    )


def _count(rows: Sequence[Row], state: str) -> int:
    return sum(row.state == state for row in rows)


def _recent_seconds(rows: Sequence[Row]) -> float | None:
    done = sorted((row.done for row in rows if row.done), key=lambda d: d.finished_at)
    return median(d.seconds for d in done[-RECENT:]) if done else None


def _blocked(rows: Sequence[Row]) -> Mapping[str, str]:
    """Key -> name of what waits for a quarantined task, directly or not; parents come before children."""
    stuck: set[str] = set()
    blocked: dict[str, str] = {}
    for row in rows:
        if row.state == "quarantined":
            stuck.add(row.task.key)
        elif row.state == "pending" and any(parent in stuck for parent in row.task.parents):
            stuck.add(row.task.key)
            blocked[row.task.key] = row.task.name
    return blocked
