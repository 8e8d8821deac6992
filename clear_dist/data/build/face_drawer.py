"""The built-in faces: CLEAR-mini's drawings with an age, a gender and a group.

Age shows (grey hair from some age on, lines about the eyes), gender in hair and beards, group in ranges of skin and
hair colours, all with much overlap: flat drawings that stand for invented people. A face is drawn again with another
age by the same id, which is the age shift.
"""

from __future__ import annotations

import cmath
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Final, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from clear_dist.data.build.faces import Face
from clear_dist.data.build.person import GENDERS, GROUPS, OLD, Gender, Group
from clear_dist.data.mini.draw import SIZE, SKIN, SUPERSAMPLE, Pen, darker, draw, encode
from clear_dist.data.mini.hair import HALF
from clear_dist.data.mini.paths import Path
from clear_dist.data.mini.people import CLASSES, EYES, FACES, HAIR_STYLES, Identity, Look, random_look
from clear_dist.types import UserError

Key = TypeVar("Key")
STREAM: Final = "clear-faces/1"  # part of every seed; raised when drawing or sampling change
LONGEST: Final = 100_000  # faces of a row
RANKED: Final = 64  # faces of a gender that a score is a rank among
CANDIDATES: Final = 6  # of as many drawn, the one least like all before it becomes the next face
# (youngest, oldest, how many of 100): adults, as in photographs of faces the older ones are few.
AGES: Final = ((18, 29, 34), (30, 44, 36), (45, 59, 20), (60, 90, 10))
_BLACK: Final = {"black": 8, "brown": 4, "red": 1, "blond": 1}
_HAIR: Final[Mapping[Group, Mapping[str, int]]] = {
    "european": {"black": 3, "brown": 6, "red": 3, "blond": 5},
    "latin_american": {"black": 6, "brown": 6, "red": 1, "blond": 2},
}
_SKIN: Final[Mapping[Group, Mapping[str, int]]] = {
    "african": {"tan": 1, "brown": 5, "dark": 8},
    "east_asian": {"pale": 4, "light": 7, "tan": 3},
    "european": {"pale": 7, "light": 6, "tan": 1},
    "latin_american": {"light": 4, "tan": 6, "brown": 3},
    "middle_eastern": {"light": 4, "tan": 7, "brown": 2},
    "pacific": {"tan": 4, "brown": 7, "dark": 3},
    "south_asian": {"tan": 4, "brown": 7, "dark": 3},
    "southeast_asian": {"light": 4, "tan": 6, "brown": 4},
}
_DYED: Final = {"blue": 1, "green": 1, "pink": 1}
# In the order of HAIR_STYLES: short long curly spiky bobbed braided bald; then none, beard, moustache.
_STYLES: Final[Mapping[Gender, Sequence[int]]] = {
    "female": (3, 8, 6, 2, 7, 6, 0),
    "male": (9, 3, 6, 6, 2, 2, 3),
    "nonbinary": (5, 5, 5, 5, 5, 5, 1),
}
_BEARDS: Final[Mapping[Gender, Sequence[int]]] = {"female": (1, 0, 0), "male": (4, 4, 3), "nonbinary": (6, 1, 1)}


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a face is drawn from. young: as it was before ``grey_from``; look: of the face's own picture."""

    young: Identity
    grey_from: int
    age: int
    gender: Gender
    group: Group
    look: Look

    @property
    def identity(self) -> Identity:
        return replace(self.young, hair_colour="grey") if self.age >= self.grey_from else self.young

    @property
    def lines(self) -> int:
        """0 to 4 about each eye: one more every decade from 40 on."""
        return min(4, max(0, self.age // 10 - 3))

    def picture(self, look: Look | None = None, size: int = SIZE) -> Image.Image:
        """[size, size] RGB: the face, or the same face in another look."""
        look = look or self.look
        image = draw(self.identity, look, size)
        if self.lines:
            marks = Image.new("RGB", (SUPERSAMPLE * size, SUPERSAMPLE * size))
            centre, turn = complex(48 + look.dx, 43 + look.dy), cmath.rect(look.scale, look.tilt)
            pen = Pen(ImageDraw.Draw(marks), SUPERSAMPLE * size / SIZE, centre, turn)
            for path in _lines(HALF[self.young.face][0])[: 2 * self.lines]:
                pen.stroke(path, (255, 255, 255), 1.3)
            image.paste(darker(SKIN[self.young.skin], 0.5), mask=marks.convert("L").reduce(SUPERSAMPLE))
        return image


def _lines(w: float) -> list[Path]:
    """Below the eyes, and beside them; above every beard. w: the face's half-width."""
    x = np.linspace(-1, 1, 9)
    out: list[Path] = []
    for side in (-1, 1):
        out.append(side * 8.6 + 4.6 * x + 1j * (5.6 - 1.2 * x**2))
    for rise in (-2.6, 1.6):
        for side in (-1, 1):
            out.append(np.array([complex(side * (w - 2.4), -1.6 + rise / 3), complex(side * (w - 0.2), -1.6 + rise)]))
    for side in (-1, 1):
        out.append(side * 8.8 + 3.6 * x + 1j * (7.6 - 1.0 * x**2))
    return out


class DrawnFaces:
    """A source of drawn faces, and their age shift.

    ages: (youngest, oldest, weight) bands; genders, groups: weights. score: how unlike all before it in the row a face
    is (``Identity.distance`` to the nearest), as its rank among the last ones of its gender, 0 to 1: plain distances
    would prefer beards.
    """

    def __init__(
        self,
        ages: Sequence[tuple[int, int, float]] = AGES,
        genders: Mapping[Gender, float] | None = None,
        groups: Mapping[Group, float] | None = None,
        size: int = SIZE,
    ) -> None:
        if any(low < 0 or high < low for low, high, _ in ages):
            raise UserError(f"faces.ages: expected (youngest, oldest, weight), 0 <= youngest <= oldest; got {ages}.")
        _shares("ages", {(low, high): weight for low, high, weight in ages})
        self.ages = tuple(ages)
        self.genders = _shares("genders", genders or {"female": 48, "male": 48, "nonbinary": 4}, GENDERS)
        self.groups = _shares("groups", groups or dict.fromkeys(GROUPS, 1), GROUPS)
        self.size = size
        self._rows: dict[int, _Run] = {}

    def draw(self, count: int, seed: int, first: int = 0) -> Iterator[Face]:
        for number in range(first, min(first + count, LONGEST)):
            yield self.face(f"drawn/{seed}/{number}")

    def face(self, face_id: str) -> Face:
        drawn, score = self._drawn(face_id)
        look = " ".join(drawn.identity.code())
        source = f"drawn face {face_id}"
        return Face(face_id, drawn.age, drawn.gender, drawn.group, score, look, source, partial(_png, drawn, self.size))

    def drawn(self, face_id: str) -> Drawn:
        """What the face with this id is drawn from, for more pictures of it."""
        return self._drawn(face_id)[0]

    def shift(self, face: Face, years: int) -> Face:
        """The same face, so many years older: hair and lines follow."""
        return self.face(f"{face.id.partition('@')[0]}@{self.drawn(face.id).age + years}")

    def _drawn(self, face_id: str) -> tuple[Drawn, float]:
        match = re.fullmatch(r"drawn/(-?[0-9]{1,18})/([0-9]{1,6})(?:@([0-9]{1,3}))?", face_id)
        if match is None or int(match[2]) >= LONGEST:
            raise UserError(f"{face_id}: not a drawn face; expected an id such as drawn/0/12 or drawn/0/12@70.")
        seed = int(match[1])
        if seed not in self._rows:
            self._rows[seed] = _Run(self, seed)
        drawn, score = self._rows[seed].at(int(match[2]))
        return (drawn if match[3] is None else replace(drawn, age=int(match[3]))), score


class _Run:
    """The row of faces that a seed gives, made as far as it is asked for."""

    def __init__(self, source: DrawnFaces, seed: int) -> None:
        self.source, self.seed = source, seed
        self.made: list[tuple[Drawn, float]] = []
        self.seen: set[tuple[int, ...]] = set()
        self.codes = np.empty((0, 6), np.int8)  # of distinct identities, room for more included
        self.last: dict[Gender, deque[float]] = {gender: deque(maxlen=RANKED) for gender in GENDERS}

    def at(self, number: int) -> tuple[Drawn, float]:
        while len(self.made) <= number:
            self.made.append(self._next(Random(f"{STREAM}/{self.seed}/{len(self.made)}")))
        return self.made[number]

    def _next(self, rng: Random) -> tuple[Drawn, float]:
        low, high, _ = rng.choices(self.source.ages, [weight for _, _, weight in self.source.ages])[0]
        gender = _one(rng, self.source.genders)
        group = _one(rng, self.source.groups)
        age = rng.randint(low, high)
        drawn = [_random(rng, age, gender, group) for _ in range(CANDIDATES)]
        codes = np.array([_numbers(one.identity) for one in drawn], np.int8)
        differ = codes[:, None] != self.codes[None, : len(self.seen)]
        nearest = (differ @ _WEIGHTS).min(axis=1, initial=float(_WEIGHTS.sum()))
        best = int(nearest.argmax())
        self._add(codes[best])
        last = self.last[gender]
        last.append(float(nearest[best]))
        return drawn[best], sum((other < last[-1]) + (other == last[-1]) / 2 for other in last) / len(last)

    def _add(self, code: np.ndarray) -> None:
        key = tuple(code.tolist())
        if key not in self.seen:
            if len(self.seen) == len(self.codes):
                self.codes = np.concatenate([self.codes, np.zeros((max(64, len(self.codes)), 6), np.int8)])
            self.codes[len(self.seen)] = code
            self.seen.add(key)


_WEIGHTS: Final = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.5])  # as ``people.distances`` weighs ``Identity.code``
_CODE: Final = ("skin", "face", "hair_style", "hair_colour", "facial_hair", "eyes")


def _numbers(identity: Identity) -> list[int]:
    """``Identity.code`` as numbers."""
    return [CLASSES[name].index(word) for name, word in zip(_CODE, identity.code(), strict=True)]


def _random(rng: Random, age: int, gender: Gender, group: Group) -> Drawn:
    hair = _DYED if rng.random() < (0.2 if age < 40 else 0.05) else _HAIR.get(group, _BLACK)
    young = Identity(
        skin=_one(rng, _SKIN[group]),
        face=rng.choice(FACES),
        hair_style=rng.choices(HAIR_STYLES, _STYLES[gender])[0],
        hair_colour=_one(rng, hair),
        eyes=rng.choice(EYES),
        facial_hair=rng.choices(CLASSES["facial_hair"], _BEARDS[gender])[0],
    )
    drawn = Drawn(young, rng.randint(45, OLD), age, gender, group, random_look(rng, young))
    look = replace(drawn.look, glasses=False, hat=False)
    # Hair of every age stands out from the wall.
    return replace(drawn, look=replace(look, wall="teal") if look.wall == "grey" else look)


def _shares(name: str, weights: Mapping[Key, float], known: Sequence[Key] = ()) -> dict[Key, float]:
    """The weights, those of all that is known in its order. Raises UserError where nothing can be drawn by them."""
    strange = [key for key in weights if known and key not in known]
    if strange:
        raise UserError(f"faces.{name}: {strange[0]!r} is none of {', '.join(map(str, known))}.")
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise UserError(f"faces.{name}: expected weights of 0 or more, not all 0; got {dict(weights)}.")
    return {key: weights.get(key, 0.0) for key in known or weights}


def _one(rng: Random, weights: Mapping[Key, float]) -> Key:
    return rng.choices(list(weights), list(weights.values()))[0]


def _png(drawn: Drawn, size: int) -> bytes:
    return encode(drawn.picture(size=size))
