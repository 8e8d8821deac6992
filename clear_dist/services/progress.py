"""Progress on rank 0: a live bar on a terminal, a line now and then in a log file; always with an estimate."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from clear_dist.errors import printable


class Terminal(Console):
    """A console on which texts from files drive nothing: of what is printed, tables and bars too, characters that
    control a terminal or turn the direction of writing are shown as escapes. Markup is for who prints to escape."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_visible(segment.text), segment.style)


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(printable(c) if _drives(c) else c for c in text)


def _drives(char: str) -> bool:
    """Unlike ``printable`` it lets through wide spaces, and joiners, which are parts of words and of emoji."""
    return char not in "\n\u200c\u200d" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


# A log file has no width; tables of three models need about 110 columns.
console = Terminal(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)
LOG_SHARE = 0.1  # without a terminal: a line every tenth of the way
LOG_SECONDS = 20.0  # and never more often than this, the first and last line excepted


class Task:
    """One bar. ``update(done)`` with an optional note such as the loss."""

    def __init__(self, title: str, total: int, bar: Progress | None) -> None:
        self.title, self.total, self._bar = title, max(total, 1), bar
        self._began = self._said = time.monotonic()
        self._first = 0
        self._next = LOG_SHARE
        self._id = bar.add_task(title, total=self.total, note="") if bar is not None else None

    def begin_at(self, done: int) -> None:
        """So much was done before: it tells nothing of the speed now."""
        self._first = done
        if self._bar is not None and self._id is not None:
            self._bar.reset(self._id, completed=done)

    def update(self, done: int, note: str = "") -> None:
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, completed=done, note=note)
            return
        now = time.monotonic()
        share = done / self.total
        if done < self.total and (share < self._next or now - self._said < LOG_SECONDS):
            return
        self._said, self._next = now, share + LOG_SHARE
        spent = now - self._began
        left = spent / (done - self._first) * (self.total - done) if done > self._first else 0.0
        estimate = f", {left:.0f} s left" if done < self.total else ""
        console.print(
            f"{self.title}: {done}/{self.total}, {spent:.0f} s{estimate}{'  ' + note if note else ''}", markup=False
        )


@contextmanager
def task(title: str, total: int, show: bool = True) -> Iterator[Task | None]:
    """A task for the time of the block; None where ``show`` is false (other ranks)."""
    if not show:
        yield None
        return
    if not sys.stderr.isatty():
        yield Task(title, total, None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        yield Task(title, total, bar)


def say(text: str, show: bool = True) -> None:
    """A line about what happens next; what it quotes is neither markup nor control sequences."""
    if show:
        console.print(printable(text), soft_wrap=True, markup=False)


def duration(seconds: float) -> str:
    """In words that are short: 8 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
