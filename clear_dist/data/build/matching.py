"""Who gets which face: people to faces one to one, at the least cost, and what that cost.

cost of a pair = age x |difference in years| / 10 + gender x (they differ) + group x (they differ); where one side is
unknown, half of the weight. Costs are whole millionths, so sums, and whether two assignments are equally good, are
exact. Of several best assignments the one is taken in which the first person by name has the first possible face by
id, then the second, and so on: it depends neither on the order of people or faces nor on the solver.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clear_dist.data.build.faces import Face
from clear_dist.data.build.person import GENDERS, GROUPS, Gender, Group, Subject
from clear_dist.types import UserError

UNIT: Final = 1_000_000  # costs are whole multiples of 1 / UNIT
MOST: Final = 1000.0  # a larger weight would leave the whole numbers that floats hold exactly
Cell = tuple[Gender, Group]


@dataclass(frozen=True)
class Wanted:
    """What is known of a person who gets a face; None where unknown. Names are unique."""

    name: str
    age: int | None = None
    gender: Gender | None = None
    group: Group | None = None


def wanted(subject: Subject, year: int) -> Wanted:
    """Raises UserError for a person without a name, or with a gender or group that there is none of."""
    name = subject.name.value
    if not name:
        at = f"line {subject.rows[0].line}" if subject.rows else "no rows"
        raise UserError(f"a person without a name ({at}) cannot get a face. Give the name in the list of people.")
    genders: dict[str | None, Gender] = {known: known for known in GENDERS}
    groups: dict[str | None, Group] = {known: known for known in GROUPS}
    gender, group = genders.get(subject.gender.value), groups.get(subject.group.value)
    for what, found, known, all_known in (
        ("gender", subject.gender.value, gender, GENDERS),
        ("group", subject.group.value, group, GROUPS),
    ):
        if found is not None and known is None:
            raise UserError(f"{name}: {what}: expected one of {', '.join(all_known)}, or nothing; got {found!r}.")
    return Wanted(name, subject.age(year), gender, group)


@dataclass(frozen=True)
class Weights:
    """What a difference costs: ten years, another gender, another group. A wrong age is seen least."""

    age: float = 1.0
    gender: float = 6.0
    group: float = 4.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and 0 <= value <= MOST):
                raise UserError(f"matching.{name}: expected a weight from 0 to {MOST:g}; got {value}.")


@dataclass(frozen=True)
class Pair:
    """A person and a face, with their cost by part. others: how many other faces the person has in assignments that
    are as good as a whole. relaxed: what differs or is unknown, of gender and group."""

    name: str
    face: str
    age: float
    gender: float
    group: float
    others: int = 0
    relaxed: tuple[str, ...] = ()

    @property
    def cost(self) -> float:
        return self.age + self.gender + self.group


@dataclass(frozen=True)
class Shortage:
    """A gender and group with more people than faces. relaxed: what was given up for its people, and for how many."""

    gender: Gender
    group: Group
    people: int
    faces: int
    relaxed: dict[str, int] = field(default_factory=dict)

    @property
    def short(self) -> int:
        return self.people - self.faces


@dataclass(frozen=True)
class Matching:
    """pairs: in the order of the people. total: the sum of their costs."""

    pairs: tuple[Pair, ...]
    total: float
    shortages: tuple[Shortage, ...]

    @property
    def ties(self) -> tuple[str, ...]:
        """People for whom another best assignment has another face."""
        return tuple(pair.name for pair in self.pairs if pair.others)


def match(people: Sequence[Wanted], faces: Sequence[Face], weights: Weights | None = None) -> Matching:
    """The best assignment. Raises UserError where faces are fewer than people, or a name or an id occurs twice."""
    weights = weights or Weights()
    _unique("person", (person.name for person in people))
    _unique("face", (face.id for face in faces))
    if len(faces) < len(people):
        short = [f"{s.gender} {s.group} by {s.short}" for s in _shortages(people, faces, {})]
        where = f" Short: {', '.join(short)}." if short else ""
        raise UserError(
            f"faces: {len(faces):,} for {len(people):,} people; everybody needs a face of their own.{where} "
            "Collect more faces, or build fewer people."
        )
    mine = sorted(people, key=lambda person: person.name)
    theirs = sorted(faces, key=lambda face: face.id)
    parts = _costs(mine, theirs, weights)
    best = _Best(parts.sum(axis=0))
    best.first()
    pairs: dict[str, Pair] = {}
    for i, (person, j) in enumerate(zip(mine, best.of, strict=True)):
        age, gender, group = (int(part) / UNIT for part in parts[:, i, j])
        relaxed = tuple(
            what for what in ("gender", "group") if getattr(person, what) not in {getattr(theirs[j], what)} - {None}
        )
        pairs[person.name] = Pair(person.name, theirs[j].id, age, gender, group, int(best.others(i).sum()), relaxed)
    total = int(sum(best.cost[i, j] for i, j in enumerate(best.of))) / UNIT
    return Matching(tuple(pairs[person.name] for person in people), total, _shortages(people, faces, pairs))


def _unique(what: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{what} {twice[0]!r} occurs more than once; names and ids must be unique.")


def _costs(people: Sequence[Wanted], faces: Sequence[Face], weights: Weights) -> NDArray[np.int64]:
    """[3, people, faces] int64 millionths: age, gender, group."""
    out = np.empty((3, len(people), len(faces)))
    mine, theirs = (np.array([np.nan if one.age is None else one.age for one in both]) for both in (people, faces))
    years = np.abs(mine[:, None] - theirs[None]) / 10
    out[0] = weights.age * np.where(np.isnan(years), 0.5, years)
    for part, name, known in ((1, "gender", GENDERS), (2, "group", GROUPS)):
        numbers: dict[str | None, int] = {value: i for i, value in enumerate(known)}
        mine, theirs = (np.array([numbers.get(getattr(one, name), -1) for one in both]) for both in (people, faces))
        unknown = (mine[:, None] < 0) | (theirs[None] < 0)
        out[part] = getattr(weights, name) * np.where(unknown, 0.5, mine[:, None] != theirs[None])
    return np.rint(out * UNIT).astype(np.int64)


def _shortages(people: Sequence[Wanted], faces: Sequence[Face], pairs: dict[str, Pair]) -> tuple[Shortage, ...]:
    def cells(both: Sequence[Wanted] | Sequence[Face]) -> Counter[Cell]:
        return Counter((one.gender, one.group) for one in both if one.gender is not None and one.group is not None)

    there = cells(faces)
    out: list[Shortage] = []
    for (gender, group), count in sorted(cells(people).items()):
        if count > there[gender, group]:
            inside = [p.name for p in people if (p.gender, p.group) == (gender, group)]
            relaxed = Counter(what for name in inside if name in pairs for what in pairs[name].relaxed)
            out.append(Shortage(gender, group, count, there[gender, group], dict(sorted(relaxed.items()))))
    return tuple(out)


class _Best:
    """All best assignments of a cost matrix, [people, faces] whole numbers, people at most faces.

    By complementary slackness they are the assignments that use only pairs whose reduced cost is 0 (``may``) and leave
    no face out whose dual is below 0. Faces left out are held by nobody, the agent behind the last person, who may take
    a face whose dual is 0. Then one best assignment becomes another when faces go round in a circle of agents.
    """

    def __init__(self, cost: NDArray[np.int64]) -> None:
        from scipy.optimize import linear_sum_assignment

        self.cost = cost
        people, faces = cost.shape
        self.nobody: Final = people
        rows, columns = linear_sum_assignment(cost.astype(np.float64))
        assert list(rows) == list(range(people))
        self.of: list[int] = [int(j) for j in columns]  # person -> face
        self.holder: NDArray[np.int64] = np.full(faces, people)
        self.holder[columns] = rows
        # Duals of the faces in use: shortest paths from nobody over what it changes to take another's (Bellman-Ford).
        held = cost[rows, columns]
        change = cost[:, columns] - held[:, None]
        duals = np.zeros(people, np.int64)
        for _ in range(people + 1):
            lower = np.minimum(duals, (duals[:, None] + change).min(axis=0, initial=0))
            if (lower == duals).all():
                break
            duals = lower
        face_duals = np.zeros(faces, np.int64)
        face_duals[columns] = duals
        reduced = cost - (held - duals)[:, None] - face_duals[None]
        assert reduced.min(initial=0) >= 0, "the assignment is not the best one"
        self.may = np.vstack([reduced == 0, face_duals == 0])
        self.frozen = np.zeros(people + 1, bool)

    def first(self) -> None:
        """Moves on to the assignment in which the first person has the first possible face, then the second ..."""
        for person in range(self.nobody):
            others = np.flatnonzero(self.others(person))
            if len(others) and others[0] < self.of[person]:
                self._take(person, int(others[0]))
            self.frozen[person] = True
        self.frozen[:] = False

    def others(self, person: int) -> NDArray[np.bool_]:
        """[faces] bool: those that the person has in another best assignment, what is frozen staying as it is."""
        out = self.may[person] & (self._ways(person) >= 0)[self.holder]
        out[self.of[person]] = False
        return out

    def _ways(self, person: int) -> NDArray[np.int64]:
        """[agents] int: the face that each takes next so that in the end somebody takes this person's; -1: no way."""
        way = np.full(self.nobody + 1, -1)
        closed = self.frozen.copy()
        closed[person] = True
        targets = [np.array([self.of[person]])]
        while targets:
            faces = targets.pop()
            if not len(faces):  # nobody holds nothing where there are as many people as faces
                continue
            can = self.may[:, faces]
            agents = np.flatnonzero(can.any(axis=1) & ~closed)
            way[agents] = faces[can[agents].argmax(axis=1)]
            closed[agents] = True
            targets += [
                np.flatnonzero(self.holder == agent) if agent == self.nobody else np.array([self.of[agent]])
                for agent in agents
            ]
        return way

    def _take(self, person: int, face: int) -> None:
        """The person takes the face, whoever had it takes the next one, until what the person had is taken."""
        way, before, taker = self._ways(person), self.of[person], person
        while True:
            loser = int(self.holder[face])
            self.holder[face] = taker
            if taker != self.nobody:
                self.of[taker] = face
            if face == before:
                return
            taker, face = loser, int(way[loser])
