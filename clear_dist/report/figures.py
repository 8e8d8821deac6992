"""Figures of one run: training curves, and bars of all models side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clear_dist.report.draw import SERIES, Image, Theme, draw, dress, plain
from clear_dist.report.run import RunData
from clear_dist.report.words import SETS

BAR_METRICS = {
    "name_accuracy": "name",
    "fact_accuracy": "fact",
    "attribute_accuracy": "visible",
    "rouge_l": "ROUGE-L",
    "probability": "prob.",
    "truth_ratio": "truth r.",
}


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
        _line(axes[0], _series(rows, "parts", name), SERIES[i % len(SERIES)], plain(name, 60), 1.2)
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
    for stage, rows in ((stage, rows) for stage, rows in steps.items() if rows):
        title = f"Training of the {stage} model" if stage else "Training"
        first, last = rows[0], rows[-1]
        alt = (
            f"{title}: loss from {first['loss']:.3g} at step {first['step']} to {last['loss']:.3g} at step "
            f"{last['step']}, with its parts, the learning rate and the gradient norm."
        )
        name = f"training_{stage}" if stage else "training"
        images.append(draw(name, lambda theme, rows=rows: _curves(rows, theme), alt=alt, title=title))
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
                ax.bar(at, value.value, width * 0.86, color=theme.models[i], label=plain(model, 30) if x == 0 else None)
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
    return draw("models", lambda theme: _bars(run, sets, theme), alt=alt, title="All models side by side")
