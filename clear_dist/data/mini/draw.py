"""Drawing a person: flat, friendly, four times supersampled. A picture takes one or two milliseconds.

Head paths are relative to the head's centre, so that scaling, tilting and moving a head is one complex
multiplication and one addition per shape.
"""

from __future__ import annotations

import cmath
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from clear_dist.data.mini.hair import HALF, POWER, Tone, back_hair, facial_hair, front_hair
from clear_dist.data.mini.paths import Path, blob, ellipse, grown, joined, squircle
from clear_dist.data.mini.people import Identity, Look

Colour = tuple[int, int, int]

SIZE: Final = 96
SUPERSAMPLE: Final = 4
SKIN: Final[dict[str, Colour]] = {
    "pale": (254, 231, 216),
    "light": (238, 190, 152),
    "tan": (208, 148, 98),
    "brown": (156, 98, 60),
    "dark": (92, 56, 42),
}
HAIR: Final[dict[str, Colour]] = {
    "black": (28, 26, 36),
    "brown": (98, 54, 24),
    "blond": (242, 208, 104),
    "red": (200, 70, 26),
    "grey": (160, 162, 170),
    "blue": (48, 100, 216),
    "green": (60, 160, 84),
    "pink": (238, 116, 176),
}
EYE: Final[dict[str, Colour]] = {"blue": (40, 116, 224), "green": (36, 152, 80), "brown": (108, 60, 24)}
CLOTH: Final[dict[str, Colour]] = {
    "red": (214, 46, 46),
    "green": (46, 156, 72),
    "blue": (46, 86, 206),
    "yellow": (248, 206, 52),
    "purple": (134, 64, 180),
    "orange": (246, 130, 36),
    "white": (245, 245, 243),
    "black": (42, 42, 48),
    "pink": (249, 170, 200),
    "grey": (152, 154, 160),
    "teal": (38, 160, 160),
}
HAT: Final[Colour] = (74, 40, 70)
BAND: Final[Colour] = (236, 196, 92)
FRAME: Final[Colour] = (28, 26, 32)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """``a`` with a share of ``b``."""
    r, g, bl = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return r, g, bl


def darker(colour: Colour, share: float = 0.22) -> Colour:
    return mix(colour, (26, 16, 34), share)


def lighter(colour: Colour, share: float = 0.3) -> Colour:
    return mix(colour, (255, 255, 255), share)


class Pen:
    """Fills and strokes paths on a supersampled canvas under z -> (z * turn + origin) * zoom."""

    def __init__(self, canvas: ImageDraw.ImageDraw, zoom: float, origin: complex, turn: complex) -> None:
        self.canvas, self.offset, self.turn, self.unit = canvas, origin * zoom, turn * zoom, abs(turn) * zoom

    def _place(self, path: Path) -> list[float]:
        return (path * self.turn + self.offset).view(np.float64).tolist()

    def fill(self, path: Path, colour: Colour) -> None:
        self.canvas.polygon(self._place(path), fill=colour)

    def stroke(self, path: Path, colour: Colour, width: float) -> None:
        self.canvas.line(self._place(path), fill=colour, width=round(width * self.unit), joint="curve")

    def ring(self, centre: complex, radius: float, colour: Colour, width: float) -> None:
        z, r = centre * self.turn + self.offset, radius * self.unit
        box = (z.real - r, z.imag - r, z.real + r, z.imag + r)
        self.canvas.ellipse(box, outline=colour, width=round(width * self.unit))

    def layers(self, layers: Sequence[tuple[Path, Tone]], colour: Colour) -> None:
        tones = {"base": colour, "dark": darker(colour, 0.32), "light": lighter(colour)}
        for path, tone in layers:
            self.fill(path, tones[tone])


@lru_cache(maxsize=8)
def _face_paths(face: str) -> tuple[Path, Path]:
    """The face, and the shaded rim on its right side (a crescent between two outlines)."""
    w, h = HALF[face]
    outline = squircle(w, h, POWER[face])
    rim = squircle(w, h, POWER[face], -0.42, 0.5, 30)
    inside = squircle(w - 4.2, h - 1.2, POWER[face], -0.42, 0.5, 30)[::-1]
    return outline, joined((rim, inside))


@lru_cache(maxsize=16)
def _smile(amount: float) -> tuple[Path, Path]:
    """Upper lip line (a stroke) and open mouth (a fill), at one of a few openings."""
    x = np.linspace(-1, 1, 13)
    top = 6.2 * x + 1j * (12.6 - 1.6 * x**2)
    bottom = 6.2 * x[::-1] + 1j * (13.0 + (1.2 + 3.6 * amount) * (1 - x[::-1] ** 2) - 1.6 * x[::-1] ** 2)
    return top, joined((top, bottom))


def _body(pen: Pen, shirt: Colour) -> None:
    """Shoulders and chest; origin at the middle of the shoulder line."""
    torso = blob(
        ((0, -3), (-9, -2), (-22, 3), (-32, 10), (-36, 24), (-36, 60), (36, 60), (36, 24), (32, 10), (22, 3), (9, -2))
    )
    pen.fill(grown(torso, 1.0), darker(shirt, 0.35))
    pen.fill(torso, shirt)
    for side in (-1, 1):
        arm = blob(((side * 21, 24), (side * 23.5, 18), (side * 24.5, 60), (side * 21, 60)))
        pen.fill(arm, darker(shirt, 0.2))
    pen.fill(ellipse(0, -2.5, 12.5, 8.5), darker(shirt, 0.28))
    pen.fill(ellipse(0, -4.0, 10.5, 7.5), darker(shirt, 0.12))


def _head(pen: Pen, identity: Identity, look: Look) -> None:
    w, h = HALF[identity.face]
    skin, hair = SKIN[identity.skin], HAIR[identity.hair_colour]
    edge, shade = darker(skin, 0.34), darker(skin, 0.13)
    outline, rim = _face_paths(identity.face)
    for side in (-1, 1):
        pen.fill(ellipse(side * (w + 1.0), 1.0, 4.6, 5.8), edge)
        pen.fill(ellipse(side * (w + 0.8), 1.0, 3.7, 4.9), skin)
        pen.fill(ellipse(side * (w + 1.2), 1.4, 1.9, 3.0), shade)
    pen.fill(grown(outline, 0.9), edge)
    pen.fill(outline, skin)
    pen.fill(rim, shade)
    if identity.bald:
        pen.fill(
            blob(((-w * 0.5, -h * 0.62), (-w * 0.2, -h * 0.82), (w * 0.15, -h * 0.86), (-w * 0.15, -h * 0.68))),
            lighter(skin, 0.4),
        )
    for side in (-1, 1):
        pen.fill(ellipse(side * w * 0.62, 8.0, 3.8, 2.5), mix(skin, (232, 84, 84), 0.26))
    pen.layers(facial_hair(identity.facial_hair, identity.face), darker(hair, 0.1))
    for side in (-1, 1):
        x = side * 8.6
        if look.glasses:
            pen.fill(ellipse(x, -1.6, 7.0, 7.0), mix(skin, (226, 240, 250), 0.45))
        pen.fill(ellipse(x, -1.6, 5.6, 4.9), edge)
        pen.fill(ellipse(x, -1.4, 5.1, 4.4), (252, 252, 252))
        pen.fill(ellipse(x, -1.4, 3.7, 3.9), EYE[identity.eyes])
        pen.fill(ellipse(x, -1.4, 1.7, 1.9), (20, 16, 22))
        pen.fill(ellipse(x - 1.3, -2.9, 1.1, 1.1), (255, 255, 255))
        brow = x + side * np.linspace(-4.8, 5.2, 7) + 1j * (-9.6 + 0.09 * np.linspace(-4.0, 4.6, 7) ** 2)
        pen.stroke(brow, darker(hair, 0.25), 2.0)
    pen.fill(blob(((0.4, 1.0), (3.0, 6.0), (0.2, 7.4), (-2.4, 6.4))), darker(skin, 0.2))
    pen.fill(ellipse(-0.5, 5.2, 1.3, 1.3), lighter(skin, 0.25))
    top, opening = _smile(round(look.smile * 4) / 4)
    pen.fill(opening, (132, 34, 44))
    pen.stroke(top, mix(skin, (120, 20, 34), 0.75), 1.5)
    if look.smile > 0.4:
        pen.fill(joined((top[2:-2], top[-3:1:-1] + 1.7j)), (250, 248, 244))


def _glasses(pen: Pen, w: float) -> None:
    for side in (-1, 1):
        pen.ring(complex(side * 8.6, -1.6), 7.9, FRAME, 1.9)
        pen.stroke(np.array([complex(side * 15.6, -3.0), complex(side * (w + 1.5), -3.8)]), FRAME, 1.8)
    pen.stroke(np.array([-1.6 - 2.6j, 1.6 - 2.6j]), FRAME, 1.8)


def _hat(pen: Pen, w: float, h: float) -> None:
    brim = -h * 0.56
    crown = (
        (-w * 0.94, brim),
        (-w * 0.9, -h - 8),
        (-w * 0.66, -h - 13),
        (0, -h - 12),
        (w * 0.66, -h - 13),
        (w * 0.9, -h - 8),
        (w * 0.94, brim),
    )
    pen.fill(grown(blob(crown), 0.9), darker(HAT, 0.5))
    pen.fill(blob(crown), HAT)
    pen.fill(blob(((w * 0.4, -h - 11), (w * 0.8, -h - 7), (w * 0.84, brim), (w * 0.5, brim))), darker(HAT, 0.25))
    pen.fill(
        np.array(
            [
                complex(-w * 0.97, brim - 6.5),
                complex(w * 0.97, brim - 6.5),
                complex(w * 0.97, brim),
                complex(-w * 0.97, brim),
            ]
        ),
        BAND,
    )
    pen.fill(ellipse(0, brim, w + 10, 3.9), darker(HAT, 0.5))
    pen.fill(ellipse(0, brim - 0.7, w + 9.2, 3.0), lighter(HAT, 0.1))


def draw(identity: Identity, look: Look, size: int = SIZE) -> Image.Image:
    """One picture, RGB, ``size`` x ``size`` pixels."""
    zoom = SUPERSAMPLE * size / SIZE
    wall = CLOTH[look.wall]
    image = Image.new("RGB", (SUPERSAMPLE * size, SUPERSAMPLE * size), wall)
    canvas = ImageDraw.Draw(image)
    w, h = HALF[identity.face]
    centre = complex(48 + look.dx, 43 + look.dy)
    turn = cmath.rect(look.scale, look.tilt)
    shoulders = complex(48 + 0.7 * look.dx, 43 + look.dy + look.scale * (h + 9))
    skin, hair = SKIN[identity.skin], HAIR[identity.hair_colour]
    room, body, head = (
        Pen(canvas, zoom, origin, spin)
        for origin, spin in ((48 + 48j, 1 + 0j), (shoulders, complex(look.scale)), (centre, turn))
    )
    room.fill(ellipse(0, -2, 43, 43), lighter(wall, 0.16))
    head.layers(back_hair(identity.hair_style, identity.face), darker(hair, 0.12))
    _body(body, CLOTH[look.shirt])
    neck = blob(((-6.6, h - 8), (-6.4, h + 3), (-8.4, h + 9), (0, h + 13), (8.4, h + 9), (6.4, h + 3), (6.6, h - 8)))
    head.fill(grown(neck, 0.6), darker(skin, 0.34))
    head.fill(neck, darker(skin, 0.1))
    head.fill(blob(((-7, h - 4), (7, h - 4), (5.5, h + 3.5), (0, h + 5), (-5.5, h + 3.5))), darker(skin, 0.24))
    _head(head, identity, look)
    head.layers(front_hair(identity.hair_style, identity.face), hair)
    if look.glasses:
        _glasses(head, w)
    if look.hat:
        _hat(head, w, h)
    return image.reduce(SUPERSAMPLE)


def encode(image: Image.Image) -> bytes:
    """PNG bytes; the same picture always gives the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def contact_sheet(rows: Sequence[Sequence[Image.Image]], path: FilePath, margin: int = 6) -> None:
    """Pictures in a grid on white, saved as PNG."""
    width, height = rows[0][0].size
    columns = max(map(len, rows))
    page = Image.new("RGB", (columns * (width + margin) + margin, len(rows) * (height + margin) + margin), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            page.paste(picture, (margin + x * (width + margin), margin + y * (height + margin)))
    page.save(path)
