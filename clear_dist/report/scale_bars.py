"""Figures of a scale study beside the lines: peak memory under the limit, what methods cost, measured on predicted."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from clear_dist.report.draw import SERIES, Image, Theme, draw, dress, plain
from clear_dist.report.scale_lines import MARKERS, style, ticks
from clear_dist.report.scale_read import KINDS, NO_FIT, Kind, ScaleData, amount, costs, memory_unit, value


def memory_image(data: ScaleData, name: str, mix: str, models: Sequence[str]) -> Image:
    """Bars by number of GPUs and stage; hatched above the GPU's memory, whose limit is a line where it is near."""
    return draw(
        name,
        lambda theme: _memory(data, mix, models, theme),
        alt=f"Peak memory for {', '.join(models)} by number of {data.devices} and ZeRO stage. The tables have the "
        "numbers.",
        title=f"Peak memory of each of the {data.devices}, {data.compared} scaling",
    )


def _memory(data: ScaleData, mix: str, models: Sequence[str], theme: Theme) -> Figure:
    picked = {m: data.pick(model=m, mix=mix, scaling=data.compared, method=data.baseline) for m in models}
    peaks = [row[kind]["peak_bytes"] for rows in picked.values() for row in rows for kind in KINDS if row[kind]]
    unit, unit_name = memory_unit(peaks)
    limit = data.gpu["memory_bytes"]
    counts = sorted({row["gpus"] for row in data.rows})
    figure = Figure(figsize=(max(6.4, 0.9 + 2.9 * len(models)), 3.7), layout="constrained")
    panels = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    step = 0.82 / len(data.stages)
    near = limit < 4 * max(peaks, default=0)
    for axes, model in zip(panels, models, strict=True):
        dress(axes, theme)
        for number, stage in enumerate(data.stages):
            color, _ = style(data, stage)
            for row in picked[model]:
                if row["stage"] != stage:
                    continue
                place = counts.index(row["gpus"]) - 0.41 + step * (number + 0.5)
                fits = row["predicted"]["fits"]
                axes.bar(
                    place, row["predicted"]["peak_bytes"] / unit, 0.88 * step, color=color if fits else "none",
                    edgecolor=color, linewidth=0 if fits else 0.8, hatch=None if fits else "/////",
                )  # fmt: skip
                if row["measured"]:
                    peak = row["measured"]["peak_bytes"] / unit
                    axes.plot(place, peak, marker="D", markersize=4.5, color=theme.ink, markeredgecolor=theme.card)
        if near:
            axes.axhline(limit / unit, color=theme.ink, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_xticks(range(len(counts)), [str(n) for n in counts])
        axes.set_xlim(-0.6, len(counts) - 0.4)
        axes.set_title(plain(model, 30), loc="left", fontsize=9.5, color=theme.ink)
        axes.set_xlabel(data.devices, fontsize=8.5, color=theme.soft)
    panels[0].set_ylabel(f"peak, {unit_name}", fontsize=8.5, color=theme.soft)
    handles: list[tuple[Patch | Line2D, str]] = [
        (Patch(color=style(data, stage)[0], linewidth=0), plain(stage)) for stage in data.stages
    ]
    if data.measured:
        handles.append((Line2D([], [], marker="D", markersize=4.5, color=theme.ink, linewidth=0), "measured"))
    if any(not row["predicted"]["fits"] for row in data.rows):
        handles.append((Patch(facecolor="none", edgecolor=theme.ink, hatch="/////", linewidth=0.8), NO_FIT))
    if near:
        words = plain(f"{data.gpu['name']}: {amount(limit / unit)} {unit_name}")
        handles.append((Line2D([], [], color=theme.ink, linewidth=1.2, linestyle=(0, (4, 3))), words))
    figure.legend(*zip(*handles, strict=True), loc="outside upper left", ncols=9, frameon=False, fontsize=8.5,
                  labelcolor=theme.ink)  # fmt: skip
    return figure


def methods_image(data: ScaleData) -> Image | None:
    """Step time and peak of every method, the baseline's being 1; None where there is one method."""
    if len(data.methods) < 2:
        return None
    told = [
        f"{m} {amount(found.middle)}"
        for m in data.methods
        if (found := next((c for model in data.models if (c := costs(data, m, model, "predicted", "step_s"))), None))
    ]
    return draw(
        "methods",
        lambda theme: _methods(data, theme),
        alt=f"Step time and peak memory of each method, those of {data.baseline} being 1. Step time predicted: "
        f"{', '.join(told)}.",
        title=f"What a method costs beside {data.baseline}: the middle of all points of a model, and a line from the "
        "least to the most",
    )


def _methods(data: ScaleData, theme: Theme) -> Figure:
    models = data.models[: len(SERIES)]
    kinds: tuple[Kind, ...] = KINDS if data.measured else KINDS[:1]
    high = 1.3 + len(data.methods) * (0.24 + 0.13 * len(models) * len(kinds))
    figure = Figure(figsize=(9.6, high), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    gap = 0.72 / max(1, len(models) * len(kinds))
    for axes, (field, words) in zip(panels, {"step_s": "step time", "peak_bytes": "peak memory"}.items(), strict=True):
        dress(axes, theme)
        axes.grid(axis="x", color=theme.grid, linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.axvline(1, color=theme.soft, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        for place, method in enumerate(data.methods):
            lane = 0
            for number, model in enumerate(models):
                for kind in kinds:
                    at = place - 0.36 + gap * (lane + 0.5)
                    lane += 1
                    found = costs(data, method, model, kind, field)
                    if found is None:
                        continue
                    color = SERIES[number]
                    axes.plot((found.low, found.high), (at, at), color=color, linewidth=1.4, zorder=2)
                    axes.plot(
                        found.middle, at, marker=MARKERS[number], markersize=5, color=color, zorder=3,
                        markerfacecolor=color if kind == "measured" else theme.card,
                    )  # fmt: skip
        axes.set_xlim(0, 1.05 * axes.get_xlim()[1])
        axes.set_xlabel(f"{words}, times {plain(data.baseline)}", fontsize=8.5, color=theme.soft)
    panels[0].set_yticks(range(len(data.methods)), [plain(m, 24) for m in data.methods], color=theme.ink)
    panels[0].set_ylim(len(data.methods) - 0.5, -0.5)
    handles = [
        (Line2D([], [], color=SERIES[i], marker=MARKERS[i], markersize=5, linewidth=0), plain(model, 30))
        for i, model in enumerate(models)
    ]
    if len(kinds) > 1:
        for kind, face in (("measured", theme.ink), ("predicted", theme.card)):
            dot = Line2D([], [], color=theme.ink, marker="o", markersize=5, linewidth=0, markerfacecolor=face)
            handles.append((dot, kind))
    figure.legend(*zip(*handles, strict=True), loc="outside upper left", ncols=6, frameon=False, fontsize=8.5,
                  labelcolor=theme.ink)  # fmt: skip
    return figure


def agreement_image(data: ScaleData) -> Image | None:
    """Measured on predicted, step time and peak, and the line on which both are the same; None without measurements."""
    if not data.measured:
        return None
    return draw(
        "agreement",
        lambda theme: _agreement(data, theme),
        alt=f"{len(data.measured)} measured points against their predictions, step time and peak memory. The tables "
        "have the numbers.",
        title="Measured against predicted: on the dashed line both are the same; above it, it took more",
    )


def _agreement(data: ScaleData, theme: Theme) -> Figure:
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    unit, unit_name = memory_unit(row["measured"]["peak_bytes"] for row in data.measured)
    fields = {"step_s": ("step time, s", 1.0), "peak_bytes": (f"peak, {unit_name}", unit)}
    for axes, (field, (words, scale)) in zip(figure.subplots(1, 2), fields.items(), strict=True):
        dress(axes, theme)
        axes.grid(axis="x", color=theme.grid, linewidth=0.8)
        ends: list[float] = []
        for number, model in enumerate(data.models):
            for stage in data.stages:
                rows = [r for r in data.measured if r["model"] == model and r["stage"] == stage]
                pairs = [(value(r, "predicted", field), value(r, "measured", field)) for r in rows]
                kept = [(x / scale, y / scale) for x, y in pairs if x and y]
                if not kept:
                    continue
                x, y = zip(*kept, strict=True)
                ends += [*x, *y]
                _, marker = style(data, stage)
                color = SERIES[number % len(SERIES)]
                axes.scatter(x, y, marker=marker, s=30, color=color, alpha=0.8, linewidths=0, zorder=3)
        if not ends:
            continue
        low, high = min(ends) / 1.4, max(ends) * 1.4
        axes.plot((low, high), (low, high), color=theme.soft, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        for axis, set_scale, set_limits in (
            (axes.xaxis, axes.set_xscale, axes.set_xlim),
            (axes.yaxis, axes.set_yscale, axes.set_ylim),
        ):
            set_scale("log")
            set_limits(low, high)
            if log10(high / low) < 1.5:  # less than a decade or so would have one tick
                axis.set_ticks(ticks(low, high))
            axis.set_major_formatter(FuncFormatter(lambda v, _: amount(v)))
            axis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"predicted {words}", fontsize=8.5, color=theme.soft)
        axes.set_ylabel(f"measured {words}", fontsize=8.5, color=theme.soft)
    handles = [
        (Line2D([], [], color=SERIES[i % len(SERIES)], marker="o", markersize=5, linewidth=0), plain(m, 30))
        for i, m in enumerate(data.models)
    ]
    for stage in data.stages:
        _, marker = style(data, stage)
        handles.append((Line2D([], [], color=theme.soft, marker=marker, markersize=5, linewidth=0), plain(stage)))
    figure.legend(*zip(*handles, strict=True), loc="outside upper left", ncols=7, frameon=False, fontsize=8.5,
                  labelcolor=theme.ink)  # fmt: skip
    return figure
