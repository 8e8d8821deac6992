"""Tables as data, so that the page, the Markdown file and the LaTeX source show the same cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from clear_dist.metrics.interval import Estimate
from clear_dist.report.words import interval, number

GAP = "not measured"
STAR = "*"


@dataclass(frozen=True)
class Cell:
    """text: what is read first; small: the line below it (an interval); star: a note at the table's foot is about it;
    link: the id of a place on the page; dot: the colour of a model (0 original, 1 run, 2 gold, 3 other)."""

    text: str
    small: str = ""
    kind: Literal["text", "number", "gap"] = "text"
    star: bool = False
    link: str = ""
    dot: int | None = None


@dataclass(frozen=True)
class Row:
    """The first ``heads`` cells of its table name the row. grey: not ranked; rule: a line above it."""

    cells: tuple[Cell, ...]
    grey: bool = False
    rule: bool = False


@dataclass(frozen=True)
class Table:
    """key: unique on the page, of letters, digits and hyphens. groups: (title, columns) above the head, together as
    many columns as it has. heads: how many leading columns name a row. notes: lines at the foot."""

    key: str
    title: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    groups: tuple[tuple[str, int], ...] = ()
    heads: int = 1
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert all(len(row.cells) == len(self.head) for row in self.rows), self.key
        assert not self.groups or sum(span for _, span in self.groups) == len(self.head), self.key

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers and gaps only: it is set flush right."""
        return column >= self.heads and all(row.cells[column].kind != "text" for row in self.rows)

    def group_of(self, column: int) -> str:
        """The title above a column, or nothing."""
        for title, span in self.groups:
            if column < span:
                return title
            column -= span
        return ""


def text(value: object, *, link: str = "", dot: int | None = None) -> Cell:
    return Cell(str(value), link=link, dot=dot)


def gap(why: str = GAP) -> Cell:
    """What is not there, in words; never a number."""
    return Cell(why, kind="gap")


def count(value: int | None) -> Cell:
    return gap() if value is None else Cell(str(value), kind="number")


def plain_number(value: float | None, digits: int = 2, small: str = "") -> Cell:
    """A figure without interval, with its sign and leading zero: -4.92."""
    return gap() if value is None else Cell(f"{value + 0.0:.{digits}f}", small, "number")


def share(value: float | None, small: str = "") -> Cell:
    """A figure in [0, 1] without interval: .942."""
    return gap() if value is None else Cell(number(value), small, "number")


def measured(value: Estimate | None, why: str = GAP) -> Cell:
    """A figure with its interval below it."""
    if value is None:
        return gap(why)
    return Cell(number(value.value), interval(value), "number", star=bool(value.note))


def notes_of(values: Iterable[Estimate | None]) -> tuple[str, ...]:
    """The different notes of a table's figures, for its foot."""
    return tuple(dict.fromkeys(f"{STAR} {v.note}" for v in values if v is not None and v.note))


def anything(rows: Sequence[Row], heads: int = 1) -> bool:
    """Whether any row holds more than gaps."""
    return any(cell.kind == "number" for row in rows for cell in row.cells[heads:])
