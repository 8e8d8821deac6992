"""As many drawn people as one likes, each seen several times: identities for training shadow models.

The datasets of ``world`` hold 24 or 200 people with text about them; here are only faces, no two the same in what
shows of them (skin, face, hair, facial hair, eyes). A person's pictures differ in shirt, wall, glasses, hat and pose.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from random import Random
from typing import Final

import numpy as np
from PIL.Image import Image

from clear_dist.data.mini.people import (
    EYES,
    FACES,
    FACIAL_HAIR,
    HAIR_COLOURS,
    HAIR_STYLES,
    SKINS,
    Identity,
    random_look,
)
from clear_dist.data.mini.world import STREAM, Shot
from clear_dist.types import UserError

CANDIDATES: Final = 120  # of whom the one least like anybody before is taken


def portraits(people: int, pictures: int, seed: int = 0, size: int = 96) -> Iterator[tuple[str, int, Image]]:
    """(name, index, RGB picture of ``size`` x ``size``), person by person. Raises UserError as ``portrait_shots``."""
    for name, shots in portrait_shots(people, pictures, seed).items():
        for index, shot in enumerate(shots):
            yield name, index, shot.draw(size)


def portrait_shots(people: int, pictures: int, seed: int = 0) -> dict[str, list[Shot]]:
    """Name -> the person's pictures, not drawn yet. More people or pictures leave the first ones as they were.

    Raises UserError: fewer than one person or picture, or more people than there are different faces (7,245).
    """
    everybody = _faces()
    if not 1 <= people <= len(everybody):
        raise UserError(f"clear-mini: expected 1 to {len(everybody)} people, all different; got {people}.")
    if pictures < 1:
        raise UserError(f"clear-mini: expected at least 1 picture of each person; got {pictures}.")
    shots: dict[str, list[Shot]] = {}
    for number, face in enumerate(_spread_out(everybody, people, Random(f"{STREAM}/portraits/{seed}"))):
        name = f"person_{number:04d}"
        rng = Random(f"{STREAM}/portraits/{seed}/{number}")
        shots[name] = [Shot(face, random_look(rng, face), name) for _ in range(pictures)]
    return shots


def _faces() -> list[Identity]:
    """Everybody there can be, each once: of bald people without a beard the hair colour does not count."""
    faces = (Identity(*values) for values in product(SKINS, FACES, HAIR_STYLES, HAIR_COLOURS, EYES, FACIAL_HAIR))
    return list({face.code(): face for face in faces}.values())


def _spread_out(faces: list[Identity], count: int, rng: Random) -> list[Identity]:
    """``count`` different faces, each the least like those before of some candidates (``Identity.distance``)."""
    words = {word: number for number, word in enumerate(sorted({w for face in faces for w in face.code()}))}
    codes = np.array([[words[word] for word in face.code()] for face in faces])
    weights = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.5])
    nearest = np.full(len(faces), np.inf)  # to whom is chosen already; 0 for those themselves
    chosen: list[Identity] = []
    for _ in range(count):
        left = np.flatnonzero(nearest > 0)
        some = left[rng.sample(range(len(left)), min(CANDIDATES, len(left)))]
        best = int(some[nearest[some].argmax()])
        chosen.append(faces[best])
        nearest = np.minimum(nearest, (codes != codes[best]) @ weights)
    return chosen
