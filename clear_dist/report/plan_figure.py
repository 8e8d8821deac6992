"""The picture of a plan: memory of a GPU by part, a bar for every ZeRO stage, and what the GPU has as a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from clear_dist.report.draw import LIGHT, SERIES, Theme, dress, encode, plain

# Drawn from the bottom: what a job keeps first, what comes and goes above it.
PARTS = {
    "weights": "weights",
    "optimizer": "optimiser",
    "gradients": "gradients",
    "reference": "reference",
    "activations": "activations",
    "workspace": "head and loss",
    "communication": "communication buffers",
    "fragmentation": "fragmentation",
}
COLORS = (*SERIES, "#b3bdc9")
GB = 1e9
CUT = 3  # times the memory of a GPU: higher bars are cut


def plan_figure(plan: Mapping[str, Any]) -> bytes:
    """A PNG of ``stages`` and ``gpu`` of a plan.json."""
    return encode(figure(plan, LIGHT), "png", LIGHT.card)


def figure(plan: Mapping[str, Any], theme: Theme) -> Figure:
    """Stages side by side; the one in force is written in bold. Bars that are much too high are cut, and say so."""
    stages: Mapping[str, Mapping[str, Any]] = plan["stages"]
    limit = plan["gpu"]["memory"] / GB
    drawn = Figure(figsize=(1.6 + 1.05 * len(stages), 4.6), layout="constrained", facecolor=theme.card)
    axes = drawn.subplots()
    dress(axes, theme)
    places = range(len(stages))
    base = [0.0] * len(stages)
    # What does not fit by far would flatten what does.
    highest = min(max(sum(stage[part] for part in PARTS) / GB for stage in stages.values()), CUT * limit)
    for (part, title), color in zip(PARTS.items(), COLORS, strict=True):
        heights = [stage[part] / GB for stage in stages.values()]
        if not any(heights):
            continue
        tops = [min(b + h, highest) for b, h in zip(base, heights, strict=True)]
        bottoms = [min(b, highest) for b in base]
        shown = [top - bottom for top, bottom in zip(tops, bottoms, strict=True)]
        axes.bar(places, shown, 0.62, bottom=bottoms, color=color, label=title, linewidth=0)
        base = [b + h for b, h in zip(base, heights, strict=True)]
    axes.axhline(limit, color=theme.ink, linewidth=1.2, linestyle=(0, (4, 3)))
    label = plain(f"{plan['gpu']['name']}: {limit:.0f} GB")
    axes.text(
        1,
        limit,
        f"{label}\n",
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="center",
        fontsize=8.5,
        color=theme.ink,
    )
    for place, top in zip(places, base, strict=True):
        said = f"{top:.3g}" if top < 1000 else f"{top:,.0f}"
        label = f"{said}\n" if top <= highest else f"{said} (cut)\n"
        axes.text(place, min(top, highest), label, ha="center", va="center", fontsize=8, color=theme.soft)
    axes.set_xticks(list(places), list(stages))
    for tick, name in zip(axes.get_xticklabels(), stages, strict=True):
        tick.set_fontweight("bold" if name == plan["ds"] else "normal")
    axes.set_ylim(0, 1.12 * max(highest, limit))
    axes.set_ylabel("GB on each GPU", color=theme.soft, fontsize=9)
    job, model = plan["job"], plan["model"]
    axes.set_title(
        plain(f"{model['name']} on {job['gpus']} x {plan['gpu']['name']}, {plan['method']}", 90),
        loc="left",
        fontsize=10,
        color=theme.ink,
    )
    drawn.legend(loc="outside right upper", frameon=False, fontsize=8.5, labelcolor=theme.ink, reverse=True)
    return drawn
