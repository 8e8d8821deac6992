"""Forgetting and retaining while it happens: a small panel for each point of a sweep, all on the same scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from clear_dist.report.draw import LIGHT, SERIES, dress, plain

Curve = Sequence[Mapping[str, float]]
SETS = {"exact/forget": ("people to forget", SERIES[1]), "exact/retain": ("everybody else", SERIES[0])}
ACROSS = 5


def medians(curves: Sequence[Curve], name: str) -> tuple[list[float], list[float]]:
    """(steps, median over the curves that have a figure of this name at the step)."""
    at: dict[float, list[float]] = {}
    for curve in curves:
        for line in curve:
            if line.get(name) is not None:
                at.setdefault(line["step"], []).append(line[name])
    steps = sorted(at)
    return steps, [median(at[step]) for step in steps]


def draw_curves(points: Mapping[str, Sequence[tuple[Curve, int | None]]], path: Path) -> None:
    """One panel a point: share of answers found word for word over steps, on forget and on retain.

    Args:
        points: name -> for each seed its curve (a list of {"step", figure: value}) and the step whose weights it kept,
            if it chose (a tick on the axis). Thin lines are seeds, the thick one their median.
        path: of the PNG.
    """
    across = min(ACROSS, len(points))
    down = -(-len(points) // across)
    figure = Figure(figsize=(max(2.3 * across, 4.6), 1.75 * down + 0.75), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes, (name, runs) in zip(grid.flat, points.items(), strict=False):
        _panel(axes, name, runs)
    for axes in grid.flat[len(points) :]:
        axes.set_visible(False)
    handles = [Line2D([], [], color=color, linewidth=2, label=title) for title, color in SETS.values()]
    if any(kept is not None for runs in points.values() for _, kept in runs):
        handles.append(Line2D([], [], color=LIGHT.ink, marker="^", linestyle="", markersize=5, label="kept"))
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, fontsize=8.5, labelcolor=LIGHT.ink)
    figure.supxlabel("optimiser step", fontsize=8.5, color=LIGHT.soft)
    figure.supylabel("answers found word for word", fontsize=8.5, color=LIGHT.soft)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _panel(axes: Axes, name: str, runs: Sequence[tuple[Curve, int | None]]) -> None:
    dress(axes, LIGHT)
    for figure_name, (_, color) in SETS.items():
        for curve, _ in runs if len(runs) > 1 else ():
            axes.plot(*medians([curve], figure_name), color=color, linewidth=0.7, alpha=0.4)
        axes.plot(*medians([curve for curve, _ in runs], figure_name), color=color, linewidth=1.8)
    for _, kept in runs:
        if kept is not None:
            axes.plot(kept, 0, color=LIGHT.ink, marker="^", markersize=5, clip_on=False, zorder=4)
    axes.set_title("\n".join(wrap(plain(name), 28)[:3]), loc="left", fontsize=8, color=LIGHT.ink)
    axes.set_ylim(-0.04, 1.06)
    axes.set_yticks((0, 0.5, 1))
    axes.tick_params(labelsize=7.5)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
