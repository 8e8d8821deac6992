"""Figures of a report: training curves and bars, each drawn for a light and a dark page.

Figures are made without pyplot, so nothing is shared between reports and no window system is looked for.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clear_dist.report.run import RunData
from clear_dist.report.words import SETS

SERIES = ("#2f6fdd", "#d9622b", "#2a9d78", "#a05bc4", "#c9a227", "#5b6b80", "#c2477f")
BAR_METRICS = {
    "name_accuracy": "name",
    "fact_accuracy": "fact",
    "attribute_accuracy": "visible",
    "rouge_l": "ROUGE-L",
    "probability": "prob.",
    "truth_ratio": "truth r.",
}


@dataclass(frozen=True)
class Theme:
    ink: str
    soft: str
    grid: str
    models: tuple[str, ...]  # original, unlearned, gold, then others


LIGHT = Theme("#18212c", "#5a6675", "#e3e7ec", ("#7b8798", "#1f5fd0", "#c18a12", "#7a4fb0", "#3c8c6e"))
DARK = Theme("#e6ebf2", "#97a3b3", "#2b3542", ("#8f9cae", "#6ea0ff", "#e0b04a", "#b592e0", "#6cc3a2"))


@dataclass(frozen=True)
class Image:
    """A figure for both themes, as data URIs, with its description."""

    light: str
    dark: str
    alt: str
    title: str


def plain(text: str) -> str:
    """Text for matplotlib, which reads $...$ as mathematics."""
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


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    # No date and no version inside the file: the same run gives the same bytes.
    figure.savefig(buffer, format="png", dpi=160, transparent=True, metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _series(rows: Sequence[Mapping[str, Any]], key: str, inner: str | None = None) -> tuple[list[float], list[float]]:
    """Steps and values of a field (or of an entry of an object field), where they are finite numbers."""
    steps, values = [], []
    for row in rows:
        value = row.get(key)
        if inner is not None:
            value = value.get(inner) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            steps.append(float(row["step"]))
            values.append(float(value))
    return steps, values


def _line(axes: Axes, xy: tuple[list[float], list[float]], color: str, label: str | None, width: float) -> None:
    axes.plot(*xy, color=color, linewidth=width, label=label, marker="o" if len(xy[0]) < 3 else None, markersize=3)


def _curves(rows: Sequence[Mapping[str, Any]], theme: Theme) -> Figure:
    names = list(dict.fromkeys(n for r in rows if isinstance(r.get("parts"), Mapping) for n in r["parts"]))
    if len(names) == 1:
        names = []  # the only part is the loss itself
    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)  # type: ignore[union-attr]
    axes: Sequence[Axes] = figure.subplots(1, 3, width_ratios=(1.7, 1, 1))
    _line(axes[0], _series(rows, "loss"), theme.ink, "loss", 1.8)
    for i, name in enumerate(names):
        _line(axes[0], _series(rows, "parts", name), SERIES[i % len(SERIES)], plain(name), 1.2)
    _line(axes[1], _series(rows, "lr"), theme.models[1], None, 1.5)
    _line(axes[2], _series(rows, "grad_norm"), theme.models[1], None, 1.5)
    for ax, title in zip(axes, ("loss and its parts", "learning rate", "gradient norm"), strict=True):
        dress(ax, theme)
        ax.set_title(
            "loss" if title.startswith("loss") and not names else title, loc="left", fontsize=9.5, color=theme.ink
        )
        ax.set_xlabel("step", fontsize=8.5, color=theme.soft)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=True)
        ax.yaxis.get_offset_text().set_color(theme.soft)
        ax.yaxis.get_offset_text().set_fontsize(8)
    if names:
        axes[0].legend(frameon=False, fontsize=8, labelcolor=theme.ink, ncols=2)
    return figure


def curves(steps: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Image]:
    """Training curves per stage: loss with its named parts, learning rate, gradient norm."""
    images = []
    for stage, rows in steps.items():
        title = f"Training of the {stage} model" if stage else "Training"
        first, last = rows[0], rows[-1]
        alt = (
            f"{title}: loss from {first['loss']:.3g} at step {first['step']} to {last['loss']:.3g} at step "
            f"{last['step']}, with its parts, the learning rate and the gradient norm."
        )
        images.append(Image(_uri(_curves(rows, LIGHT)), _uri(_curves(rows, DARK)), alt, title))
    return images


def _bars(run: RunData, sets: Iterable[str], theme: Theme) -> Figure:
    sets = list(sets)
    figure = Figure(figsize=(9.6, 2.5 * ((len(sets) + 1) // 2) + 0.3), layout="constrained")
    grid = figure.subplots((len(sets) + 1) // 2, min(2, len(sets)), squeeze=False)
    models = run.models[:5]
    width = 0.8 / max(len(models), 1)
    for ax in grid.flat[len(sets) :]:
        ax.set_visible(False)
    for ax, set_name in zip(grid.flat, sets, strict=False):
        shown = [m for m in BAR_METRICS if any(run.estimate(model, set_name, "all", m) for model in models)]
        for i, model in enumerate(models):
            for x, metric in enumerate(shown):
                value = run.estimate(model, set_name, "all", metric)
                if value is None:
                    continue
                at = x + (i - (len(models) - 1) / 2) * width
                ax.bar(at, value.value, width * 0.86, color=theme.models[i], label=plain(model) if x == 0 else None)
                ax.plot([at, at], [value.low, value.high], color=theme.ink, linewidth=1, alpha=0.75)
        dress(ax, theme)
        ax.set_title(SETS.get(set_name, set_name), loc="left", fontsize=9.5, color=theme.ink)
        ax.set_xticks(range(len(shown)), [BAR_METRICS[m] for m in shown])
        ax.set_xlim(-0.6, len(shown) - 0.4)
        ax.set_ylim(0, 1.02)
        ax.set_yticks((0, 0.5, 1))
    handles = {label: handle for ax in grid.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper right",
        ncols=len(models),
        frameon=False,
        fontsize=8.5,
        labelcolor=theme.ink,
    )
    return figure


def bars(run: RunData) -> Image | None:
    """All models side by side on every set that was measured; None if nothing was."""
    sets = [s for s in SETS if any(run.estimate(m, s, "all", k) for m in run.models for k in BAR_METRICS)]
    if not sets:
        return None
    alt = (
        f"Bars of {', '.join(run.models)} on {', '.join(SETS[s].lower() for s in sets)}; every figure is in the table."
    )
    return Image(_uri(_bars(run, sets, LIGHT)), _uri(_bars(run, sets, DARK)), alt, "All models side by side")
