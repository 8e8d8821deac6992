"""How far a farm is: live while it runs, and for whoever asks."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Group as Stack
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clear_dist.config import FarmStatusConfig
from clear_dist.services.progress import LOG_SECONDS, console, duration
from clear_dist.shadow.status import Status, read_status

FAILURES = 5  # shown of those that failed for good


def run(config: FarmStatusConfig) -> int:
    """``clear-dist farm status``: exit status 1 where tasks have failed for good, 0 otherwise."""
    status = read_status(config.farm)
    show_status(status, plain_stdout=True)
    return 1 if status.quarantined else 0


class Watch:
    """What a running farm reports to, about once a second: a table on a terminal, a line now and then in a log."""

    def __init__(self, show: bool = True) -> None:
        self._live = (
            Live(console=console, refresh_per_second=2, transient=True) if show and sys.stderr.isatty() else None
        )
        self._show, self._said, self._done = show, float("-inf"), -1

    def __enter__(self) -> Watch:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, status: Status) -> None:
        if self._live is not None:
            self._live.update(table_of(status))
            return
        now = time.monotonic()
        if self._show and status.done != self._done and (status.finished or now - self._said >= LOG_SECONDS):
            self._said, self._done = now, status.done
            console.print(summary_of(status))


def show_status(status: Status, plain_stdout: bool = False) -> None:
    """The table, what failed and why, what was put right."""
    target = type(console)(highlight=False, width=None if sys.stdout.isatty() else 120) if plain_stdout else console
    target.print(table_of(status))
    for failed in status.quarantined[:FAILURES]:
        last = failed.error.strip().splitlines()[-1] if failed.error.strip() else "no word"
        target.print(Text(f"{failed.name} failed {failed.attempts} times: {last}"))
    if len(status.quarantined) > FAILURES:
        target.print(f"... and {len(status.quarantined) - FAILURES} more; logs/ has what workers said")
    for note in status.notes[-FAILURES:]:
        target.print(Text(f"note: {note}"))


def table_of(status: Status) -> Stack:
    """Tasks by group, and a line about speed and what is left."""
    table = Table(box=None, pad_edge=False)
    table.add_column("tasks")
    for name in ("done", "running", "failed", "waiting", "each"):
        table.add_column(name, justify="right")
    table.add_column("")
    for group in status.groups:
        waiting = group.total - group.done - group.running - group.failed
        counts = [f"{group.done}/{group.total}", *(str(n or "") for n in (group.running, group.failed, waiting))]
        seconds = "" if group.seconds is None else duration(group.seconds)
        bar = ProgressBar(total=max(group.total, 1), completed=group.done, width=24)
        table.add_row(Text(group.name), *counts, seconds, bar)
    return Stack(table, Text(summary_of(status)))


def summary_of(status: Status) -> str:
    """``41/136 tasks, 212 models an hour, 12 min left``"""
    parts = [f"{status.done}/{status.total} tasks"]
    if status.models_per_hour is not None and not status.finished:
        parts.append(f"{status.models_per_hour:.0f} models an hour")
    if status.eta is not None and not status.finished:
        parts.append(f"about {duration(status.eta)} left")
    if status.quarantined:
        parts.append(f"{len(status.quarantined)} failed for good, {len(status.blocked)} wait for them")
    parts.append(f"{status.size / 1e6:.0f} MB")
    return ", ".join(parts)
