"""Figures of a scale study along the number of GPUs: speed, MFU, strong and weak scaling with ideal lines.

A panel a model, a colour and a marker a ZeRO stage. Measured points are filled, predicted ones hollow; what does not
fit is a cross at the panel's foot and has no speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from clear_dist.report.draw import SERIES, Image, Theme, draw, dress, plain
from clear_dist.report.scale_read import KINDS, NO_FIT, ScaleData, amount, line, scaled

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
ACROSS = 4  # panels side by side
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Quantity:
    """field: of a row. words: at the axis. factor: from the field's unit to the axis's. how: tokens/s as scaling."""

    field: str
    words: str
    factor: float = 1.0
    logarithmic: bool = True
    how: Literal["strong", "weak"] | None = None

    def points(self, rows: Sequence[Mapping[str, Any]], kind: Any) -> Points:
        found = line(rows, kind, self.field)
        return scaled(found, self.how) if self.how else [(n, self.factor * v) for n, v in found]


def style(data: ScaleData, stage: str) -> tuple[str, str]:
    """(colour, marker) of a stage: the same in all figures."""
    number = data.stages.index(stage)
    return SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]


def line_image(
    data: ScaleData,
    name: str,
    mix: str,
    models: Sequence[str],
    scaling: str,
    quantities: Sequence[Quantity],
    title: str,
) -> Image | None:
    """Rows of panels, one for each quantity; None where no row has a figure. Of the method others are compared with."""
    quantities = [q for q in quantities if _any(data, mix, models, scaling, q)]
    if not quantities:
        return None
    told = f"{', '.join(q.words for q in quantities)} on {_counts(data)} {data.devices}, for {', '.join(models)}"
    return draw(
        name,
        lambda theme: _panels(data, mix, models, scaling, quantities, theme),
        alt=f"{told}, by ZeRO stage ({', '.join(data.stages)}). The tables have the numbers.",
        title=title,
    )


def _any(data: ScaleData, mix: str, models: Sequence[str], scaling: str, quantity: Quantity) -> bool:
    rows = [r for m in models for r in data.pick(model=m, mix=mix, scaling=scaling, method=data.baseline)]
    return any(v for kind in KINDS for _, v in line(rows, kind, quantity.field))


def _counts(data: ScaleData) -> str:
    found = sorted({row["gpus"] for row in data.rows})
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _panels(
    data: ScaleData, mix: str, models: Sequence[str], scaling: str, quantities: Sequence[Quantity], theme: Theme
) -> Figure:
    wide = max(6.4, 0.9 + 2.75 * len(models))
    figure = Figure(figsize=(wide, 1.0 + 2.5 * len(quantities)), layout="constrained")
    grid = figure.subplots(len(quantities), len(models), squeeze=False, sharey="row", sharex=True)
    for row, quantity in enumerate(quantities):
        found = [data.pick(model=m, mix=mix, scaling=scaling, method=data.baseline) for m in models]
        for axes, model, rows in zip(grid[row], models, found, strict=True):
            dress(axes, theme)
            _draw_panel(axes, data, rows, quantity, theme)
            if row == 0:
                axes.set_title(plain(model, 30), loc="left", fontsize=9.5, color=theme.ink)
            if row == len(quantities) - 1:
                axes.set_xlabel(data.devices, fontsize=8.5, color=theme.soft)
        apart = [[r for r in rows if r["stage"] == stage] for rows in found for stage in data.stages]
        values = [y for rows in apart for kind in KINDS for _, y in quantity.points(rows, kind)]
        crossed = any(not r["predicted"]["fits"] for rows in found for r in rows)
        _limit(grid[row][0], quantity, values, len(data.stages) if crossed else 0)
        grid[row][0].set_ylabel(quantity.words, fontsize=8.5, color=theme.soft)
    legend(figure, data, theme, ideal=any(q.how for q in quantities))
    return figure


def _draw_panel(
    axes: Axes, data: ScaleData, rows: Sequence[Mapping[str, Any]], quantity: Quantity, theme: Theme
) -> None:
    counts = sorted({row["gpus"] for row in data.rows})
    if quantity.how == "strong":
        axes.plot(counts, counts, color=theme.soft, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
    elif quantity.how == "weak":
        axes.axhline(100, color=theme.soft, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
    for number, stage in enumerate(data.stages):
        color, marker = style(data, stage)
        mine = [row for row in rows if row["stage"] == stage]
        for kind in KINDS:
            points = quantity.points(mine, kind)
            if not points:
                continue
            x, y = zip(*points, strict=True)
            filled = kind == "measured"
            under = len(data.stages) - 1 - number  # where lines coincide, those below show at the edges
            axes.plot(
                x, y, color=color, marker=marker, markersize=5.5 + 1.6 * under,
                linewidth=1.8 + 0.7 * under if filled else 1.3,
                linestyle="-" if filled else (0, (5, 2)), markerfacecolor=color if filled else theme.card,
                markeredgewidth=1.2, zorder=3 + filled,
            )  # fmt: skip
        crosses = [row["gpus"] for row in mine if not row["predicted"]["fits"]]
        foot = 0.035 + 0.055 * number
        axes.scatter(
            crosses,
            [foot] * len(crosses),
            transform=axes.get_xaxis_transform(),
            marker="x",
            s=26,
            color=color,
            zorder=5,
        )
    axes.set_xscale("log", base=2)
    axes.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
    axes.set_xticks(counts, [f"{n}" for n in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    if quantity.logarithmic:
        axes.set_yscale("log", base=2 if quantity.how == "strong" else 10)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: amount(v)))


def _limit(axes: Axes, quantity: Quantity, values: Sequence[float], crosses: int) -> None:
    """Of a row, whose panels share them: from zero where that means something, never without two ticks, and with room
    at the foot for so many lines of crosses."""
    if not quantity.logarithmic:
        axes.set_ylim(0, 1.12 * max(*values, 100.0 if quantity.how == "weak" else 0.0))
        return
    low, high = axes.get_ylim()
    few = quantity.how is None and max(values) < 50 * min(values)
    if few:
        low, high = min(values) / 1.6, 1.3 * max(values)
    axes.set_ylim(low / (high / low) ** (0.06 * crosses), high)
    if few:
        axes.set_yticks(ticks(low, high))


def ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 of every power of ten between two ends."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def legend(figure: Figure, data: ScaleData, theme: Theme, *, ideal: bool = False, crosses: bool = True) -> None:
    """Above the panels: stages, then what filled, hollow, crosses and the dashed line mean; only what is there."""
    entry: Callable[..., Line2D] = lambda **how: Line2D([], [], linewidth=how.pop("linewidth", 0), **how)  # noqa: E731
    handles: list[tuple[Line2D, str]] = []
    for stage in data.stages:
        color, marker = style(data, stage)
        handles.append((entry(color=color, marker=marker, markersize=5.5), plain(stage)))
    if data.measured:
        handles.append((entry(color=theme.ink, marker="o", markersize=5.5, linewidth=1.8), "measured"))
    hollow = {"marker": "o", "markersize": 5.5, "markerfacecolor": theme.card, "linewidth": 1.3}
    handles.append((entry(color=theme.ink, linestyle=(0, (5, 2)), **hollow), "predicted"))
    if crosses and any(not row["predicted"]["fits"] for row in data.rows):
        handles.append((entry(color=theme.ink, marker="x", markersize=5), NO_FIT))
    if ideal:
        handles.append((entry(color=theme.soft, linestyle=(0, (3, 3)), linewidth=1), "ideal"))
    figure.legend(
        [handle for handle, _ in handles], [words for _, words in handles], loc="outside upper left",
        ncols=min(len(handles), 9), frameon=False, fontsize=8.5, labelcolor=theme.ink,
    )  # fmt: skip
