"""How figures are drawn and kept: two themes for the page, PNG and SVG as files, and the numbers behind each.

Figures are made without pyplot, so nothing is shared between reports and no window system is looked for.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clear_dist.report.cells import Table
from clear_dist.report.words import clean

SERIES = ("#2f6fdd", "#d9622b", "#2a9d78", "#a05bc4", "#c9a227", "#5b6b80", "#c2477f")
MISSING_GLYPH = "Glyph .* missing from"  # names in scripts that the font lacks
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


@dataclass(frozen=True)
class Theme:
    name: str
    card: str
    ink: str
    soft: str
    grid: str
    models: tuple[str, ...]  # original, unlearned, gold, then others


LIGHT = Theme(
    "light", "#ffffff", "#18212c", "#5a6675", "#e3e7ec", ("#7b8798", "#1f5fd0", "#c18a12", "#7a4fb0", "#3c8c6e")
)
DARK = Theme(
    "dark", "#171e27", "#e6ebf2", "#97a3b3", "#2b3542", ("#8f9cae", "#6ea0ff", "#e0b04a", "#b592e0", "#6cc3a2")
)


@dataclass(frozen=True)
class Image:
    """A figure: PNG for both themes, SVG, its description, and the numbers behind it where no table has them.

    name: stem of its files. light, svg: on white, as they are also written to figures/.
    """

    name: str
    light: bytes
    dark: bytes
    svg: bytes
    alt: str
    title: str
    numbers: Table | None = None

    @property
    def light_uri(self) -> str:
        return _uri(self.light)

    @property
    def dark_uri(self) -> str:
        return _uri(self.dark)

    def write(self, folder: Path) -> None:
        """Writes NAME.png and NAME.svg."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.png").write_bytes(self.light)
        (folder / f"{self.name}.svg").write_bytes(self.svg)


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def plain(text: str, longest: int | None = None) -> str:
    """Text for matplotlib, which reads $...$ as mathematics; cut to ``longest`` characters."""
    text = clean(text)
    if longest is not None and len(text) > longest:
        text = text[: longest - 1] + "…"
    return text.replace("$", r"\$")


def dress(axes: Axes, theme: Theme) -> None:
    """The look of all our figures: no box, a light grid, soft ticks."""
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.grid)
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.soft, labelsize=8.5, length=0)


def _settle(figure: Figure) -> None:
    """Makes the figure's layout once and keeps it: it is half of the work, and every file would make it again.

    Places are rounded: the solver's last digits differ from call to call, and files shall not.
    """
    engine = figure.get_layout_engine()
    if engine is None:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MISSING_GLYPH)
        engine.execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position([round(v, 4) for v in axes.get_position().bounds])  # pyright: ignore[reportArgumentType]
    for words in figure.texts:
        x, y = words.get_position()
        words.set_position((round(float(x), 4), round(float(y), 4)))


def _settle_as(figure: Figure, other: Figure) -> None:
    """Gives a figure the layout of its twin in other colours."""
    figure.set_layout_engine("none")
    for mine, theirs in zip(figure.axes, other.axes, strict=True):
        mine.set_position(theirs.get_position())
    for mine, theirs in zip(figure.texts, other.texts, strict=True):
        mine.set_position(theirs.get_position())


def encode(figure: Figure, kind: str, color: str) -> bytes:
    """The figure's file, on a background of one colour. The same figure gives the same bytes: no date, no version."""
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None}
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "clear_dist"}):
        warnings.filterwarnings("ignore", message=MISSING_GLYPH)
        figure.savefig(buffer, format=kind, dpi=144, facecolor=color, metadata=metadata)
    return buffer.getvalue()


def draw(name: str, make: Callable[[Theme], Figure], *, alt: str, title: str, numbers: Table | None = None) -> Image:
    """Draws a figure once for each theme."""
    light, dark = make(LIGHT), make(DARK)
    _settle(light)
    _settle_as(dark, light)
    return Image(
        name,
        encode(light, "png", LIGHT.card),
        encode(dark, "png", DARK.card),
        encode(light, "svg", LIGHT.card),
        clean(alt),
        title,
        numbers,
    )
