"""The forget-retain front: what each method pays for what it forgets, over several runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from clear_dist.report.draw import LIGHT, MISSING_GLYPH, SERIES, Theme, dress, plain
from clear_dist.types import UserError

ANCHORS = {"original": "s", "gold": "*"}  # models that are no method: drawn in ink, never on the front
Point = tuple[float, float]
# No date inside the file: the same runs give the same bytes.
_METADATA = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def pareto(points: Mapping[str, Point]) -> list[str]:
    """Names of the points no other beats: less remembered of the forget set (x), more of the retain set (y).

    Ordered by x. A point that equals another is kept with it.
    """
    best = [
        name
        for name, (x, y) in points.items()
        if not any(u <= x and v >= y and (u, v) != (x, y) for u, v in points.values())
    ]
    return sorted(best, key=lambda name: points[name])


_PLACES = tuple(product((10, 22, 36), ((1, 0.2), (1, -0.8), (-1, 0.2), (-1, -0.8), (0.1, 1), (0.1, -1.2))))


def _label(axes: Axes, renderer: RendererBase, name: str, at: Point, taken: list[Bbox], color: str) -> None:
    """Writes a name beside its point where it covers no other point or label; to the right if nowhere is free."""
    text = axes.annotate(
        plain(name, LONGEST), at, xytext=(0, 0), textcoords="offset points", va="center", fontsize=9, color=color
    )
    frame = axes.get_window_extent(renderer)
    for shift, (dx, dy) in (*_PLACES, _PLACES[0]):
        text.set_position((shift * dx, shift * dy))
        text.set_horizontalalignment("left" if dx > 0 else "right")
        box = text.get_window_extent(renderer)
        inside = frame.containsx(box.x0) and frame.containsx(box.x1) and frame.containsy(box.y0)
        if inside and not any(box.overlaps(t) for t in taken):
            break
    taken.append(text.get_window_extent(renderer))


def front(rows: Sequence[Mapping[str, Any]], path: Path) -> list[str]:
    """Draws retain against forget accuracy of several runs and returns the methods on the Pareto front.

    Args:
        rows: one per run: "method", "forget" and "retain" in [0, 1], "seed" where there are several, and "family" where
            several points belong to one method (a grid's): they share a colour. Runs of one method are small dots,
            their median a large one. Methods "original" and "gold" are landmarks. With many methods, or
            grids, a key at the side, best retention first, takes the place of names; the front is named in both.
        path: ends in .png, .svg or .pdf.

    Raises UserError if a row lacks a field or a value lies outside [0, 1], or if there is no row.
    """
    if path.suffix not in _METADATA:
        raise UserError(f"front: {path} must end in {', '.join(_METADATA)}")
    figure, best = front_figure(rows, LIGHT)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "clear_dist"}):  # SVG ids are random otherwise
        figure.savefig(path, dpi=180, metadata=_METADATA[path.suffix])
    return best


def front_figure(rows: Sequence[Mapping[str, Any]], theme: Theme) -> tuple[Figure, list[str]]:
    """(the figure, the methods on the front). Raises UserError as :func:`front`."""
    runs, families = _read(rows)
    middle = {m: (median(x for x, _ in p), median(y for _, y in p)) for m, p in runs.items()}
    best = pareto({m: at for m, at in middle.items() if m not in ANCHORS})
    looks = _looks(families, theme)

    keyed = len(middle) > NAMED or len(set(families.values())) < len(families)
    columns = -(-len(middle) // KEY_ROWS) if keyed else 0
    figure = Figure(figsize=(7.2 + KEY_WIDTH * columns, 5.0 if not keyed else 5.6), layout="constrained")
    parts: Any = figure.subplots(1, 1 + columns, width_ratios=[7.2, *[KEY_WIDTH] * columns], squeeze=False)
    axes = parts[0, 0]
    _plot(axes, runs, middle, best, looks, theme)
    for column in range(columns):
        order = sorted(middle, key=lambda m: (m not in ANCHORS, -middle[m][1], middle[m][0]))
        _key(parts[0, 1 + column], order[column * KEY_ROWS : (column + 1) * KEY_ROWS], middle, best, looks, theme)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MISSING_GLYPH)
        figure.draw_without_rendering()  # settles the layout, so that labels can be measured
    dots = [(at, 6) for at in middle.values()] + [(at, 3) for points in runs.values() for at in points]
    taken = []
    for at, radius in dots:
        x, y = axes.transData.transform(at)
        taken.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))
    for method, at in middle.items():
        if not keyed or method in best or method in ANCHORS:
            _label(axes, canvas.get_renderer(), method, at, taken, looks[method][0])
    return figure, best


NAMED = 12  # methods that are named beside their points; with more of them a key takes over
KEY_ROWS, KEY_WIDTH = 34, 3.1  # entries of a column of the key; inches
SHAPES = "o^DvPX"


def _read(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[Point]], dict[str, str]]:
    """(method -> its runs, method -> family), checked."""
    if not rows:
        raise UserError("front: there is no run to draw; expected at least one row")
    runs: dict[str, list[Point]] = {}
    families: dict[str, str] = {}
    for i, row in enumerate(rows):
        try:
            x, y, method = float(row["forget"]), float(row["retain"]), str(row["method"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"front: row {i} needs 'method', and 'forget' and 'retain' as numbers: {error}") from error
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise UserError(f"front: row {i} ({method}): forget and retain must lie in [0, 1], got {x} and {y}")
        runs.setdefault(method, []).append((x, y))
        families[method] = str(row.get("family", method))
    return runs, families


def _looks(families: Mapping[str, str], theme: Theme) -> dict[str, tuple[str, str]]:
    """method -> (colour, marker): one colour within a family; no two alike among 42 methods without grids."""
    colors = {family: i for i, family in enumerate(dict.fromkeys(f for m, f in families.items() if m not in ANCHORS))}
    members: dict[str, int] = {}
    looks = {}
    for method, family in families.items():
        if method in ANCHORS:
            looks[method] = (theme.ink, ANCHORS[method])
            continue
        turn, color = divmod(colors[family], len(SERIES))
        member = members[family] = members.get(family, -1) + 1
        looks[method] = (SERIES[color], SHAPES[(turn + member) % len(SHAPES)])
    return looks


def _plot(
    axes: Axes,
    runs: Mapping[str, Sequence[Point]],
    middle: Mapping[str, Point],
    best: Sequence[str],
    looks: Mapping[str, tuple[str, str]],
    theme: Theme,
) -> None:
    dress(axes, theme)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    axes.set_xlim(-0.05, 1.05)
    axes.set_ylim(-0.05, 1.08)
    axes.set_xlabel("still known of the people to forget  (lower is better)", color=theme.soft, fontsize=9.5)
    axes.set_ylabel("still known of everybody else  (higher is better)", color=theme.soft, fontsize=9.5)
    line = [middle[m] for m in best]
    axes.plot([x for x, _ in line], [y for _, y in line], color=theme.soft, linewidth=1, linestyle=(0, (4, 3)))
    for method, points in runs.items():
        color, shape = looks[method]
        if len(points) > 1:
            axes.scatter(*zip(*points, strict=True), s=14, color=color, alpha=0.45, linewidths=0)
        size = 150 if method == "gold" else 64
        axes.scatter(
            *middle[method], s=size, color=color, marker=shape, zorder=3, linewidths=0.6, edgecolors=theme.card
        )


def _key(
    axes: Axes,
    methods: Sequence[str],
    middle: Mapping[str, Point],
    best: Sequence[str],
    looks: Mapping[str, tuple[str, str]],
    theme: Theme,
) -> None:
    """A line a method: its marker, its name (bold on the front), its medians."""
    axes.set_xlim(0, 1)
    axes.set_ylim(KEY_ROWS, -1)
    axes.axis("off")
    for x, text in ((0.83, "forget"), (1.0, "retain")):
        axes.text(x, -0.6, text, ha="right", va="center", fontsize=7.5, color=theme.soft)
    for i, method in enumerate(methods):
        color, shape = looks[method]
        axes.scatter(0.03, i + 0.4, s=60 if method == "gold" else 30, color=color, marker=shape, linewidths=0)
        weight = "bold" if method in best else "normal"
        axes.text(0.08, i + 0.4, plain(method, LONGEST), va="center", fontsize=7.8, color=theme.ink, fontweight=weight)
        for x, value in zip((0.83, 1.0), middle[method], strict=True):
            axes.text(x, i + 0.4, f"{value:.2f}", ha="right", va="center", fontsize=7.8, color=theme.soft)


LONGEST = 30  # characters of a name in the key
