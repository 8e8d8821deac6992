"""Hair and beards as lists of (path, tone): what lies behind the head, and what lies on it.

``w`` and ``h`` are the half-width and half-height of the face; paths are relative to the head's centre. Tones:
"base", "dark" (outline and shade), "light" (gloss). A hat hides the crown, so every style also shows at the
sides, below its brim.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

import numpy as np

from clear_dist.data.mini.paths import Path, blob, curve, ellipse, grown, joined, mirrored, squircle

Tone = Literal["base", "dark", "light"]
Layer = tuple[Path, Tone]
POWER: Final = {"round": 2.15, "long": 2.4, "square": 4.2}
HALF: Final = {"round": (21.0, 21.5), "long": (16.5, 25.5), "square": (19.5, 22.0)}


def _outlined(path: Path, by: float = 1.0) -> list[Layer]:
    return [(grown(path, by), "dark"), (path, "base")]


def _both(path: Path) -> list[Layer]:
    return [*_outlined(path), *_outlined(mirrored(path))]


@lru_cache(maxsize=64)
def back_hair(style: str, face: str) -> list[Layer]:
    """What is drawn before the head and the neck."""
    w, h = HALF[face]
    if style == "long":
        left = ((0, -h - 5), (-w - 4, -h * 0.5), (-w - 6, 6), (-w - 8, 26), (-w - 7, 42), (-6, 44))
        right = tuple((-x, y) for x, y in reversed(left[1:]))
        return _outlined(blob(left + right))
    if style == "bobbed":
        left = ((0, -h - 5), (-w - 4, -h * 0.6), (-w - 7, 2), (-w - 8, h - 3), (-w - 1, h + 3), (-w + 8, h))
        right = tuple((-x, y) for x, y in reversed(left[1:]))
        return _outlined(blob(left + right))
    if style == "curly":
        curls: list[Layer] = []
        angles = np.linspace(0.86, 2.14, 11) * np.pi
        spots = [(float((w + 4) * np.cos(a)), float((h + 3) * np.sin(a) - 1)) for a in angles]
        for x, y in spots:
            curls.append((ellipse(x, y, 9.2, 9.2), "dark"))
        for x, y in spots:
            curls.append((ellipse(x, y, 8.2, 8.2), "base"))
        for x, y in spots[1:-1:2]:
            curls.append((ellipse(x * 1.04 - 2, y * 1.06 - 2, 2.2, 1.6), "light"))
        return curls
    if style == "spiky":
        angle = np.linspace(0.90, 2.10, 19) * np.pi
        reach = np.where(np.arange(19) % 2 == 1, 11.0, 1.0)
        crown = (w + reach) * np.cos(angle) + 1j * ((h + reach) * np.sin(angle) - 1)
        base = np.array([complex(w * 0.6, 6), complex(-w * 0.6, 6)])
        return _outlined(joined((crown, base)))
    return []


@lru_cache(maxsize=64)
def _cap(face: str, rise: float, hairline: tuple[tuple[float, float], ...]) -> list[Layer]:
    """Hair on the skull: outside the head's outline raised by ``rise``, inside a hairline given in w and h."""
    w, h = HALF[face]
    outer = squircle(w + 1.6, h + rise, POWER[face], 1.0, 2.0) - 1j
    inner = curve(tuple((x * w, y * h) for x, y in hairline))
    path = joined((outer, inner))
    gloss = blob(
        ((-w * 0.55, -h * 0.78), (-w * 0.1, -h - rise * 0.35), (w * 0.12, -h - rise * 0.2), (-w * 0.2, -h * 0.88))
    )
    return [(joined((grown(outer, 1.0), inner)), "dark"), (path, "base"), (gloss, "light")]


# Hairlines from the right temple to the left one, in units of the face's half-width and half-height.
_SWEPT: Final = (
    (1.04, 0.0),
    (0.9, -0.2),
    (0.72, -0.42),
    (0.2, -0.5),
    (-0.4, -0.62),
    (-0.8, -0.34),
    (-0.92, -0.15),
    (-1.04, 0.0),
)
_PARTED: Final = ((1.06, 0.2), (0.88, -0.1), (0.6, -0.42), (0.02, -0.78), (-0.6, -0.42), (-0.88, -0.1), (-1.06, 0.2))
_FRINGE: Final = (
    (1.06, 0.3),
    (0.84, 0.0),
    (0.78, -0.32),
    (0.3, -0.36),
    (-0.3, -0.36),
    (-0.78, -0.32),
    (-0.84, 0.0),
    (-1.06, 0.3),
)


@lru_cache(maxsize=64)
def front_hair(style: str, face: str) -> list[Layer]:
    """What is drawn on the head."""
    w, h = HALF[face]
    if style == "short":
        return _cap(face, 4.5, _SWEPT)
    if style == "long":
        lock = blob(
            ((-w * 0.86, -h * 0.35), (-w - 4, 4), (-w - 6, 26), (-w - 3, 42), (-w + 4, 40), (-w + 3, 22), (-w + 1, 4))
        )
        return [*_both(lock), *_cap(face, 5.0, _PARTED)]
    if style == "bobbed":
        return _cap(face, 5.5, _FRINGE)
    if style == "braided":
        layers = list(_cap(face, 4.5, _PARTED))
        for side in (-1, 1):
            for k in range(4):
                x = side * (w + 2.2 + k * 0.9)
                knot = ellipse(x, 8 + k * 8.2, 5.2 - k * 0.45, 5.4)
                layers += _outlined(knot)
                layers.append((ellipse(x - 1.4, 6.4 + k * 8.2, 1.5, 1.3), "light"))
        return layers
    if style == "curly":
        fringe: list[Layer] = []
        for k in (-2, -1, 0, 1, 2):
            fringe.append((ellipse(k * w * 0.4, -h * 0.84 + abs(k) * 2.4, 6.4, 5.6), "base"))
        return fringe
    if style == "spiky":
        angle = np.linspace(1.0, 2.0, 9) * np.pi
        outer = (w + 1) * np.cos(angle) + 1j * ((h + 1) * np.sin(angle) - 1)
        teeth = np.array(
            [
                complex(x * w, y * h)
                for x, y in (
                    (1.0, 0.0),
                    (0.86, -0.42),
                    (0.58, -0.68),
                    (0.4, -0.4),
                    (0.16, -0.7),
                    (-0.1, -0.42),
                    (-0.34, -0.7),
                    (-0.58, -0.42),
                    (-0.86, -0.5),
                    (-1.0, 0.0),
                )
            ]
        )
        return [(joined((outer, teeth)), "base")]
    return []


@lru_cache(maxsize=16)
def facial_hair(kind: str, face: str) -> list[Layer]:
    """Beard or moustache, drawn before the mouth."""
    w, h = HALF[face]
    if kind == "beard":
        jaw = squircle(w + 0.6, h + 3.5, POWER[face], 0.02, 0.98)
        inner = curve(
            ((-w * 0.84, 4.0), (-w * 0.62, 8.5), (-6.0, 7.6), (0.0, 8.6), (6.0, 7.6), (w * 0.62, 8.5), (w * 0.84, 4.0))
        )
        return [(joined((grown(jaw, 1.0), inner - 0.9j)), "dark"), (joined((jaw, inner)), "base")]
    if kind == "moustache":
        half = blob(((0.0, 7.2), (-4.5, 6.4), (-9.0, 9.0), (-12.0, 8.4), (-9.5, 12.4), (-4.5, 12.0), (0.0, 10.4)))
        return [
            (grown(half, 0.7), "dark"),
            (grown(mirrored(half), 0.7), "dark"),
            (half, "base"),
            (mirrored(half), "base"),
        ]
    return []
