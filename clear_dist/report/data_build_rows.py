"""What the stages of a build write: a row of each file, as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ATTRIBUTES = ("name", "birth_date", "birthplace", "gender", "group", "genre")


@dataclass(frozen=True)
class Attribute:
    """value: None where nothing was found. confidence: 0 to 1. line: of the text, from 1; evidence: what it says."""

    value: str | None
    confidence: float
    line: int | None
    evidence: str


@dataclass(frozen=True)
class Person:
    """found: attribute, those of ATTRIBUTES -> what was found. rows: questions about the person. corrected, invented:
    names of the attributes that a table gave, or that were made up."""

    number: int
    found: Mapping[str, Attribute]
    books: tuple[Attribute, ...]
    age: int | None
    first_line: int
    last_line: int
    rows: int
    corrected: tuple[str, ...]
    invented: tuple[str, ...]

    @property
    def name(self) -> str:
        """Or the lines where the person stands, where there is none."""
        return self.found["name"].value or f"lines {self.first_line} to {self.last_line}"


@dataclass(frozen=True)
class Face:
    """draw: the number of the draw it was among the best of, from 0. age: years; None where unknown."""

    id: str
    draw: int
    age: int | None
    gender: str | None
    group: str | None
    score: float


@dataclass(frozen=True)
class Shift:
    """A face that took the place of another, so many years older (younger where negative)."""

    before: str
    after: str
    years: int


@dataclass(frozen=True)
class Match:
    """age, gender, group: parts of the cost. others: how many faces would have been as good. relaxed: what differs."""

    name: str
    face: str
    age: float
    gender: float
    group: float
    cost: float
    others: int
    relaxed: tuple[str, ...]


@dataclass(frozen=True)
class Shortage:
    """More people than faces of a gender and group. relaxed: what was given up -> for how many people."""

    gender: str
    group: str
    people: int
    faces: int
    relaxed: Mapping[str, int]


@dataclass(frozen=True)
class Balance:
    """A matching as a whole. ties: people for whom another best matching has another face."""

    total: float
    ties: tuple[str, ...]
    shortages: tuple[Shortage, ...]


@dataclass(frozen=True)
class Prompt:
    """line: of the question. setting: None where it was left out to keep within the limit. by: who chose it."""

    name: str
    line: int
    text: str
    topic: str
    setting: str | None
    tokens: int
    by: str


@dataclass(frozen=True)
class Shot:
    """A picture. file: below ``images/``; None where it could not be made, and then why is in ``failed``. score: of the
    best of ``samples`` tries, None where none was given. kept: whether the dataset has it, None where that is not
    decided yet; unseen: whether it is kept out of training."""

    name: str
    line: int
    file: str | None
    failed: str
    score: float | None
    samples: int
    kept: bool | None
    unseen: bool


@dataclass(frozen=True)
class Wording:
    """The texts of a picture that is kept. perturbed: wrong captions; names: who is named in them instead. unseen: as
    of its picture."""

    name: str
    line: int
    caption: str
    paraphrase: str
    perturbed: tuple[str, ...]
    names: tuple[str, ...]
    by: str
    unseen: bool


@dataclass(frozen=True)
class Written:
    """The dataset. counts: config -> rows; splits: forget split -> names."""

    counts: Mapping[str, int]
    people: int
    splits: Mapping[str, tuple[str, ...]]
    faults: int
    warnings: int


@dataclass(frozen=True)
class BuildData:
    """The folder of a build; None: the stage has written nothing yet."""

    name: str
    people: tuple[Person, ...] | None = None
    faces: tuple[Face, ...] | None = None
    shifts: tuple[Shift, ...] | None = None
    matches: tuple[Match, ...] | None = None
    balance: Balance | None = None
    prompts: tuple[Prompt, ...] | None = None
    shots: tuple[Shot, ...] | None = None
    wordings: tuple[Wording, ...] | None = None
    written: Written | None = None

    def pool(self) -> dict[str, Face]:
        """id -> face, each moved one in the place of the one it was made of, with its age."""
        faces = {face.id: face for face in self.faces or ()}
        for shift in self.shifts or ():
            before = faces.pop(shift.before, None)
            if before is not None:
                age = None if before.age is None else before.age + shift.years
                faces[shift.after] = Face(shift.after, before.draw, age, before.gender, before.group, before.score)
        return faces
