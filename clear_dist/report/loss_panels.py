"""The losses of several runs, a small panel each: did training settle, and did any run blow up?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clear_dist.report.cells import Row, Table, plain_number, text
from clear_dist.report.draw import Image, Theme, draw, dress, plain

ACROSS = 5
Steps = Sequence[Mapping[str, Any]]


def _figure(runs: Sequence[tuple[str, Steps]], theme: Theme) -> Figure:
    across = min(ACROSS, len(runs))
    down = -(-len(runs) // across)
    figure = Figure(figsize=(9.6, 1.7 * down + 0.4), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes, (name, steps) in zip(grid.flat, runs, strict=False):
        dress(axes, theme)
        axes.plot([s["step"] for s in steps], [s["loss"] for s in steps], color=theme.models[1], linewidth=1.4)
        axes.set_title(plain(name, 24), loc="left", fontsize=8.2, color=theme.ink)
        axes.tick_params(labelsize=7.2)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=True)
        axes.yaxis.get_offset_text().set_color(theme.soft)
        axes.yaxis.get_offset_text().set_fontsize(7)
    for axes in grid.flat[len(runs) :]:
        axes.set_visible(False)
    figure.supxlabel("optimiser step", fontsize=8.5, color=theme.soft)
    return figure


def loss_image(runs: Sequence[tuple[str, Mapping[str, Steps]]]) -> Image | None:
    """Args: runs: (name, stage -> training lines); the run's own stage, or the unlearned one. None without any."""
    shown = [(name, found) for name, steps in runs if (found := steps.get("") or steps.get("unlearned"))]
    if not shown:
        return None
    rows = tuple(
        Row((text(name), plain_number(float(s[0]["loss"]), 3), plain_number(float(s[-1]["loss"]), 3),
             plain_number(float(s[-1]["step"]), 0)))
        for name, s in shown
    )  # fmt: skip
    return draw(
        "losses",
        lambda theme: _figure(shown, theme),
        alt=f"Training loss over steps, a panel for each of {len(shown)} runs. First and last values are below.",
        title="Loss of each run over its steps; scales differ, as methods' losses do",
        numbers=Table("losses", "Loss at the first and the last step", ("Run", "first", "last", "steps"), rows),
    )
