"""Closed paths of complex numbers: the shapes pictures are made of (x + iy, y down, units of a 96-pixel picture)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Path = NDArray[np.complex128]

_ANGLE: Final = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_COS: Final = np.cos(_ANGLE)
_SIN: Final = np.sin(_ANGLE)


@lru_cache(maxsize=4096)
def ellipse(x: float, y: float, rx: float, ry: float) -> Path:
    """[40] the ellipse around (x, y)."""
    return (x + rx * _COS) + 1j * (y + ry * _SIN)


@lru_cache(maxsize=256)
def squircle(rx: float, ry: float, power: float, start: float = 0.0, stop: float = 2.0, steps: int = 48) -> Path:
    """[steps] |x/rx|^power + |y/ry|^power = 1 from angle ``start`` to ``stop`` (units of pi, clockwise from +x)."""
    angle = np.linspace(start * np.pi, stop * np.pi, steps)
    cos, sin = np.cos(angle), np.sin(angle)
    return rx * np.sign(cos) * np.abs(cos) ** (2 / power) + 1j * ry * np.sign(sin) * np.abs(sin) ** (2 / power)


@lru_cache(maxsize=1024)
def blob(points: tuple[tuple[float, float], ...], steps: int = 6) -> Path:
    """[steps * len(points)] the closed Catmull-Rom curve through ``points``."""
    p1 = np.array([complex(x, y) for x, y in points], dtype=np.complex128)[:, None]
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[None]
    closed = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return (closed / 2).reshape(-1)


def curve(points: tuple[tuple[float, float], ...], steps: int = 6) -> Path:
    """[steps * (len(points) - 1) + 1] a smooth line through ``points``, ends included."""
    return np.append(blob(points, steps)[: steps * (len(points) - 1)], complex(*points[-1]))


def mirrored(path: Path) -> Path:
    """The same path on the other side of the head."""
    return -path.real + 1j * path.imag


def grown(path: Path, by: float) -> Path:
    """The path pushed outwards from its centre by ``by`` units: a soft outline once drawn darker underneath."""
    centre = path.mean()
    spoke = path - centre
    return path + by * spoke / np.maximum(np.abs(spoke), 1e-9)


def joined(paths: Iterable[Path]) -> Path:
    """Paths one after the other as a single outline."""
    return np.concatenate(list(paths))
