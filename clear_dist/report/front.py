"""The forget-retain front: what each method pays for what it forgets, over several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from clear_dist.report.figures import LIGHT, SERIES, dress, plain
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
        plain(name), at, xytext=(0, 0), textcoords="offset points", va="center", fontsize=9, color=color
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
        rows: one per run: "method", "forget" and "retain" in [0, 1], and "seed" where there are several. Runs of one
            method are small dots, their mean a large one. Methods "original" and "gold" are landmarks.
        path: ends in .png, .svg or .pdf.

    Raises UserError if a row lacks a field or a value lies outside [0, 1], or if there is no row.
    """
    if not rows:
        raise UserError("front: there is no run to draw; expected at least one row")
    if path.suffix not in _METADATA:
        raise UserError(f"front: {path} must end in {', '.join(_METADATA)}")
    runs: dict[str, list[Point]] = {}
    for i, row in enumerate(rows):
        try:
            x, y, method = float(row["forget"]), float(row["retain"]), str(row["method"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"front: row {i} needs 'method', and 'forget' and 'retain' as numbers: {error}") from error
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise UserError(f"front: row {i} ({method}): forget and retain must lie in [0, 1], got {x} and {y}")
        runs.setdefault(method, []).append((x, y))
    means = {m: (sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for m, p in runs.items()}
    best = pareto({m: at for m, at in means.items() if m not in ANCHORS})

    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.subplots()
    dress(axes, LIGHT)
    axes.grid(axis="x", color=LIGHT.grid, linewidth=0.8)
    axes.set_xlim(-0.05, 1.05)
    axes.set_ylim(-0.05, 1.08)
    axes.set_xlabel("still known of the people to forget  (lower is better)", color=LIGHT.soft, fontsize=9.5)
    axes.set_ylabel("still known of everybody else  (higher is better)", color=LIGHT.soft, fontsize=9.5)
    axes.plot(
        [means[m][0] for m in best], [means[m][1] for m in best], color=LIGHT.soft, linewidth=1, linestyle=(0, (4, 3))
    )
    colors = {m: SERIES[i % len(SERIES)] for i, m in enumerate(m for m in means if m not in ANCHORS)}
    for method, points in runs.items():
        color = colors.get(method, LIGHT.ink)
        if len(points) > 1:
            axes.scatter(*zip(*points, strict=True), s=14, color=color, alpha=0.45, linewidths=0)
        size = 150 if method == "gold" else 64
        axes.scatter(*means[method], s=size, color=color, marker=ANCHORS.get(method, "o"), zorder=3, linewidths=0)
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # settles the layout, so that labels can be measured
    dots = [(at, 6) for at in means.values()] + [(at, 3) for points in runs.values() for at in points]
    taken = []
    for at, radius in dots:
        x, y = axes.transData.transform(at)
        taken.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))
    for method, at in means.items():
        _label(axes, canvas.get_renderer(), method, at, taken, colors.get(method, LIGHT.ink))
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "clear_dist"}):  # SVG ids are random otherwise
        figure.savefig(path, dpi=180, metadata=_METADATA[path.suffix])
    return best
