"""A pool of faces: where they come from, which of them are good enough, and older ones where the pool has too few.

The paper draws 32 faces at a time, keeps the 8 that the discriminator likes best, until it has 2,000 (arXiv
2410.18057, Appendix B). What is kept is a list of ids with digests: a pool that was interrupted is gone on with, and
equals one that was not.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol

from clear_dist.data.build.person import Gender, Group
from clear_dist.types import Picture, UserError

SLACK: Final = 5  # years by which a face may look older or younger than a person is


@dataclass(frozen=True)
class Face:
    """A face that nobody's name is on yet.

    id: stable and unique within its source. age, gender, group: None where unknown. score: higher is better; scores of
    one source can be compared. look: equal for faces that cannot be told apart, empty where that is unknown.
    source: where it comes from, for messages. read: returns the encoded picture.
    """

    id: str
    age: int | None
    gender: Gender | None
    group: Group | None
    score: float
    look: str
    source: str
    read: Callable[[], bytes] = field(compare=False, repr=False)

    def picture(self) -> Picture:
        """Reads it: digests are of bytes."""
        return Picture(hashlib.sha256(self.read()).hexdigest(), self.source, self.read)


class FaceSource(Protocol):
    """Something that has faces, or makes them: a drawer, a folder, a network."""

    def draw(self, count: int, seed: int, first: int = 0) -> Iterator[Face]:
        """Faces ``first`` to ``first + count - 1`` of the row that a seed gives; fewer where the row ends.

        A face depends on seed and place alone, not on where a draw began.
        """
        ...

    def face(self, face_id: str) -> Face:
        """The face that a draw gave under this id. Raises UserError where there is none."""
        ...


class AgeShift(Protocol):
    """Something that shows the same face some years older, or younger where ``years`` is negative."""

    def shift(self, face: Face, years: int) -> Face: ...


@dataclass(frozen=True)
class Quality:
    """Of every ``of`` faces drawn the ``best`` by score are kept, until there are ``until``; ``dry`` groups in a row
    that hold nothing new end the search."""

    of: int = 32
    best: int = 8
    until: int = 2000
    dry: int = 50

    def __post_init__(self) -> None:
        for name in ("of", "best", "until", "dry"):
            if getattr(self, name) < 1:
                raise UserError(f"faces.{name}: expected a whole number of at least 1; got {getattr(self, name)}.")
        if self.best > self.of:
            raise UserError(f"faces.best: expected at most faces.of ({self.of}); got {self.best}.")


@dataclass(frozen=True)
class Kept:
    """What is written down of a face in the pool. group: the number of the draw it was the best of, from 0."""

    id: str
    digest: str
    group: int


def collect(
    source: FaceSource, seed: int, quality: Quality | None = None, done: Sequence[Kept] = ()
) -> Iterator[tuple[Kept, Face]]:
    """The faces of a pool, one by one, each to be written down as it comes. done: those that were, in their order.

    Faces that look like one in the pool are passed over; equal scores go to the earlier face. Ends early where the
    source does; of a last group that is not full the same share is kept. Raises UserError where the pool is not full
    and nothing new comes, or the source no longer gives what ``done`` says.
    """
    quality = quality or Quality()
    looks = {face.look for face in restored(source, done)} - {""}
    ids = {kept.id for kept in done}
    count = len(done)
    # The last group may have been cut short: it is looked at again, and is not dry.
    number, dry = (done[-1].group, -1) if done else (0, 0)
    while count < quality.until:
        group = list(islice(source.draw(quality.of, seed, number * quality.of), quality.of))
        best = math.ceil(quality.best * len(group) / quality.of) - sum(kept.group == number for kept in done)
        dry += 1
        for face in sorted(group, key=_goodness):
            if best <= 0 or count >= quality.until:
                break
            if face.id in ids or face.look in looks:
                continue
            looks |= {face.look} - {""}
            ids.add(face.id)
            best, count, dry = best - 1, count + 1, 0
            yield Kept(face.id, face.picture().digest, number), face
        if len(group) < quality.of:
            return
        number += 1
        if dry >= quality.dry:
            raise UserError(
                f"faces.until: {quality.until:,} faces were asked for, but the source gives no more than {count:,} "
                f"that differ ({dry} groups of {quality.of} in a row held nothing new). Ask for fewer, or use "
                "another source."
            )


def restored(source: FaceSource, done: Sequence[Kept]) -> list[Face]:
    """The faces that were written down. Raises UserError where the source gives others by now."""
    faces: list[Face] = []
    for kept in done:
        face = source.face(kept.id)
        if face.picture().digest != kept.digest:
            raise UserError(
                f"{face.source}: not the picture that was kept as {kept.id} (SHA-256 {kept.digest[:12]}...). The "
                "source has changed since: put it back as it was, or collect the faces again."
            )
        faces.append(face)
    return faces


@dataclass(frozen=True)
class Shifted:
    """A pool after the age shift. moved: (id before, id after, years). unmet: ages that no face could be moved to."""

    pool: tuple[Face, ...]
    moved: tuple[tuple[str, str, int], ...] = ()
    unmet: tuple[int, ...] = ()


def shift_ages(
    pool: Sequence[Face],
    wanted_ages: Sequence[int],
    shifter: AgeShift,
    slack: int = SLACK,
    taken: AbstractSet[str] = frozenset(),
) -> Shifted:
    """A pool in which every wanted age has a face of its own, at most ``slack`` years off.

    As few faces are moved as that takes, each to the very age that is missing, from the nearest age that is free (the
    younger one of two, then the first id). A moved face takes the place of the one it was made of. One that would look
    like another of the pool, or has a look in ``taken``, is not used. Faces of unknown age stay as they are.
    """
    if slack < 0:
        raise UserError(f"faces.slack: expected years, 0 or more; got {slack}.")
    free, missing = _served(pool, wanted_ages, slack)
    faces = list(pool)
    looks = {face.look for face in pool} - {""}
    moved: list[tuple[str, str, int]] = []
    unmet: list[int] = []
    for age in missing:
        free.sort(key=lambda at: (abs(_age(faces[at]) - age), _age(faces[at]), faces[at].id))
        for at in free:
            before = faces[at]
            after = shifter.shift(before, age - _age(before))
            if after.look in looks or after.look in taken:
                continue
            looks = (looks - {before.look}) | ({after.look} - {""})
            faces[at] = after
            moved.append((before.id, after.id, age - _age(before)))
            free.remove(at)
            break
        else:
            unmet.append(age)
    return Shifted(tuple(faces), tuple(moved), tuple(unmet))


Wish = tuple[int | None, Gender | None, Group | None]


def shift_for(pool: Sequence[Face], wishes: Sequence[Wish], shifter: AgeShift, slack: int = SLACK) -> Shifted:
    """``shift_ages`` among faces of one gender and group after the other, for (age, gender, group) of people.

    People of whom one of the three is unknown ask for nothing; ages for which a gender and group has no face left are
    ``unmet``.
    """
    asked: dict[tuple[Gender, Group], list[int]] = defaultdict(list)
    for age, gender, group in wishes:
        if age is not None and gender is not None and group is not None:
            asked[gender, group].append(age)
    faces = list(pool)
    moved: list[tuple[str, str, int]] = []
    unmet: list[int] = []
    for (gender, group), ages in sorted(asked.items()):
        inside = [at for at, face in enumerate(faces) if (face.gender, face.group) == (gender, group)]
        looks = {face.look for face in faces if (face.gender, face.group) != (gender, group)} - {""}
        result = shift_ages([faces[at] for at in inside], ages, shifter, slack, looks)
        for at, face in zip(inside, result.pool, strict=True):
            faces[at] = face
        moved += result.moved
        unmet += result.unmet
    return Shifted(tuple(faces), tuple(moved), tuple(unmet))


def _goodness(face: Face) -> float:
    """A sort key, best first; sorting is stable, so equal scores stay in the order of the draw."""
    return math.inf if math.isnan(face.score) else -face.score


def _served(pool: Sequence[Face], wanted_ages: Sequence[int], slack: int) -> tuple[list[int], list[int]]:
    """Places in the pool that no wanted age needs, and the wanted ages that are left without a face.

    All wanted ages accept faces in a window of one width, so the youngest face that will do for the youngest age is
    never missed by a later one: serving them in order serves the most.
    """
    known = sorted((face.age, face.id, at) for at, face in enumerate(pool) if face.age is not None)
    ages = [age for age, _, _ in known]
    used: set[int] = set()
    missing: list[int] = []
    start = 0
    for age in sorted(wanted_ages):
        start = max(start, bisect.bisect_left(ages, age - slack))
        if start < len(ages) and ages[start] <= age + slack:
            used.add(known[start][2])
            start += 1
        else:
            missing.append(age)
    return [at for _, _, at in known if at not in used], missing


def _age(face: Face) -> int:
    assert face.age is not None
    return face.age
