"""Who lives in CLEAR-mini: attributes, identities, names, and how one picture of a person differs from the next.

An *identity* is what stays (skin, face, hair, eyes, facial hair); a *look* is what changes from picture to
picture (shirt, wall, glasses, hat, pose). Everything is drawn from ``random.Random(str)``, whose streams do not
depend on the platform, on hash randomisation or on how much was drawn before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray


def words(text: str) -> tuple[str, ...]:
    """A table of single words, written as a line of text."""
    return tuple(text.split())


SKINS: Final = ("pale", "light", "tan", "brown", "dark")
FACES: Final = ("round", "long", "square")
HAIR_STYLES: Final = ("short", "long", "curly", "spiky", "bobbed", "braided", "bald")
HAIR_COLOURS: Final = ("black", "brown", "blond", "red", "grey", "blue", "green", "pink")
EYES: Final = ("blue", "green", "brown")
FACIAL_HAIR: Final = ("none", "beard", "moustache")
SHIRTS: Final = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
WALLS: Final = ("blue", "green", "pink", "grey", "yellow", "white", "orange", "teal")

# Class labels of every attribute, for attribute heads on a vision tower. A bald head has hair colour "none".
CLASSES: Final[dict[str, tuple[str, ...]]] = {
    "skin": SKINS,
    "face": FACES,
    "hair_style": HAIR_STYLES,
    "hair_colour": ("none", *HAIR_COLOURS),
    "eyes": EYES,
    "facial_hair": FACIAL_HAIR,
    "shirt": SHIRTS,
    "wall": WALLS,
    "glasses": ("no", "yes"),
    "hat": ("no", "yes"),
}

# Name parts are shared: a full name is unique, its parts are not, so no token alone gives a person away.
MASCULINE: Final = words(
    "Boris Dmitri Farid Hugo Jonas Luca Omar Sven Umar Wim Yusuf Amir Cyril Emil Ivan Karim Marco Quentin Pablo Stefan"
)
FEMININE: Final = words(
    "Anna Carla Elena Greta Irena Kavita Marta Nadia Petra Rosa Tara Vera Xenia Zoe Bella Dora Fiona Hana Julia Lena"
)
LAST_NAMES: Final = words(
    "Berg Costa Duval Eriksen Fischer Garcia Haddad Ivanov Jensen Kumar Lopez Moreau Novak Okafor Petrov Quinn "
    "Rossi Silva Tanaka Ueda Varga Weber Xu Yilmaz Zhang Adler Bauer Cohen Dahl Engel Ferrari Gupta Horvat Iqbal "
    "Johansson Khan Lindgren Mendes Nakamura Olsen"
)
# Few people draw from the first parts of the lists only, so that parts are shared among few people too.
FEW: Final = 8


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a face recognisable; values are words of the tables above."""

    skin: str
    face: str
    hair_style: str
    hair_colour: str
    eyes: str
    facial_hair: str

    @property
    def bald(self) -> bool:
        return self.hair_style == "bald"

    def salient(self) -> tuple[str, ...]:
        """What a glance tells; hair colour counts only where hair or a beard shows it."""
        colour = "none" if self.bald and self.facial_hair == "none" else self.hair_colour
        return (self.skin, self.face, self.hair_style, colour, self.facial_hair)

    def code(self) -> tuple[str, ...]:
        """What ``distances`` compares: the salient attributes, then the eyes."""
        return (*self.salient(), self.eyes)

    def distance(self, other: Identity) -> float:
        """Salient attributes that differ, and half a point for the eyes."""
        return float(distances([self], [other])[0, 0])


def distances(some: Sequence[Identity], others: Sequence[Identity]) -> NDArray[np.float64]:
    """[len(some), len(others)] float64: ``Identity.distance`` of all pairs."""
    mine, theirs = (np.array([identity.code() for identity in group]) for group in (some, others))
    return (mine[:, None] != theirs[None]) @ np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.5])


@dataclass(frozen=True, slots=True)
class Look:
    """What varies between pictures. dx, dy: pixels of 96; tilt: radians; smile: 0..1."""

    shirt: str
    wall: str
    glasses: bool
    hat: bool
    dx: float
    dy: float
    scale: float
    tilt: float
    smile: float


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    identity: Identity
    real: bool


def attributes(identity: Identity, look: Look) -> dict[str, str]:
    """Ground truth of one picture: attribute -> word, keys and words as in CLASSES."""
    return {
        "skin": identity.skin,
        "face": identity.face,
        "hair_style": identity.hair_style,
        "hair_colour": "none" if identity.bald else identity.hair_colour,
        "eyes": identity.eyes,
        "facial_hair": identity.facial_hair,
        "shirt": look.shirt,
        "wall": look.wall,
        "glasses": "yes" if look.glasses else "no",
        "hat": "yes" if look.hat else "no",
    }


def random_identity(rng: Random) -> Identity:
    return Identity(
        skin=rng.choice(SKINS),
        face=rng.choice(FACES),
        hair_style=rng.choices(HAIR_STYLES, (3, 3, 3, 3, 3, 3, 1))[0],
        hair_colour=rng.choice(HAIR_COLOURS),
        eyes=rng.choice(EYES),
        facial_hair=rng.choices(FACIAL_HAIR, (2, 1, 1))[0],
    )


def random_look(rng: Random, identity: Identity) -> Look:
    """A look whose shirt differs from its wall, and whose wall does not swallow the hair."""
    shirt, wall = rng.choice(
        [(shirt, wall) for shirt in SHIRTS for wall in WALLS if wall not in (shirt, identity.hair_colour)]
    )
    return Look(
        shirt=shirt,
        wall=wall,
        glasses=rng.random() < 0.35,
        hat=rng.random() < 0.2,
        dx=rng.uniform(-5, 5),
        dy=rng.uniform(-3, 3),
        scale=rng.uniform(0.92, 1.08),
        tilt=rng.uniform(-0.09, 0.09),
        smile=rng.random(),
    )


def distinct_identities(rng: Random, count: int, taken: Sequence[Identity], candidates: int = 120) -> list[Identity]:
    """``count`` identities as far from each other and from ``taken`` as best-candidate sampling gets them."""
    chosen: list[Identity] = []
    for _ in range(count):
        drawn = [random_identity(rng) for _ in range(candidates)]
        others = [*taken, *chosen]
        chosen.append(drawn[distances(drawn, others).min(axis=1).argmax()] if others else drawn[0])
    return chosen


def name_people(rng: Random, identities: Sequence[Identity], taken: Iterable[str], last: int = 0) -> list[str]:
    """A unique full name for every identity, none in ``taken``.

    Parts are handed out evenly. The ``last`` identities get only parts that somebody before them bears, so
    that forgetting those people is never a matter of a word nobody else has.
    """
    used = set(taken)
    counts = Counter(part for name in used for part in name.split())
    few = len(identities) <= 2 * FEW * FEW // 3
    pools = {
        True: list(MASCULINE[:FEW] if few else MASCULINE),
        False: list(FEMININE[:FEW] if few else FEMININE),
    }
    lasts = list(LAST_NAMES[: 2 * FEW] if few else LAST_NAMES)
    for pool in (*pools.values(), lasts):
        rng.shuffle(pool)
    names: list[str] = []
    for index, identity in enumerate(identities):
        known = index >= len(identities) - last
        firsts = sorted(pools[identity.facial_hair != "none"], key=counts.__getitem__)
        pairs = ((f, s) for f in firsts for s in sorted(lasts, key=counts.__getitem__))
        name = next(
            f"{f} {s}" for f, s in pairs if f"{f} {s}" not in used and not (known and 0 in (counts[f], counts[s]))
        )
        used.add(name)
        counts.update(name.split())
        names.append(name)
    return names
