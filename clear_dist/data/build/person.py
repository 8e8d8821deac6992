"""Who is to be in a dataset: what was found out about each person, how surely, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

Gender = Literal["female", "male", "nonbinary"]
# Coarse groups by region of origin. They choose which drawn face goes with which invented person, and say nothing about
# anybody real.
Group = Literal[
    "african", "east_asian", "european", "latin_american", "middle_eastern", "pacific", "south_asian", "southeast_asian"
]
GENDERS: Final[tuple[Gender, ...]] = ("female", "male", "nonbinary")
GROUPS: Final[tuple[Group, ...]] = (
    "african",
    "east_asian",
    "european",
    "latin_american",
    "middle_eastern",
    "pacific",
    "south_asian",
    "southeast_asian",
)
OLD: Final = 60  # years; above it prompts say so


@dataclass(frozen=True)
class Found:
    """An attribute. value: None where nothing was found. confidence: 0 to 1. line: of the text, from 1; evidence: what
    it says there."""

    value: str | None = None
    confidence: float = 0.0
    line: int | None = None
    evidence: str = ""


@dataclass(frozen=True)
class Row:
    """One question with its answer; line: of the file, from 1."""

    line: int
    question: str
    answer: str


@dataclass(frozen=True)
class Subject:
    """A person as text has them. birth_date: ISO, whole (1958-02-25) or in part (1958). birthplace: as written."""

    name: Found
    birth_date: Found = field(default_factory=Found)
    birthplace: Found = field(default_factory=Found)
    gender: Found = field(default_factory=Found)
    group: Found = field(default_factory=Found)
    genre: Found = field(default_factory=Found)
    books: tuple[Found, ...] = ()
    rows: Sequence[Row] = ()

    def age(self, year: int) -> int | None:
        """Whole years at the end of ``year``; None where no year of birth is known."""
        born = self.birth_date.value
        return None if born is None else year - int(born[:4])


class Asker(Protocol):
    """A language model, wherever it runs."""

    def ask(self, prompt: str) -> str: ...
