"""Figures over all rows of an attack on a farm at once: accuracy with intervals, and ROC curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from clear_dist.report.attack_file import Share
from clear_dist.report.cells import Cell, Row, Table, share, text
from clear_dist.report.draw import DASHES, SERIES, Image, Theme, draw, dress, plain
from clear_dist.report.farm_read import FarmData, Points
from clear_dist.report.farm_verdict import ANCHORS, spoken

NAMES = {"u_lira": "U-LIRA", "u_mia": "U-MIA"}
LEAST_FPR = 1e-3
LEFT = 0.44  # of the axis of accuracies, where nothing lies lower


def reading_order(names: Sequence[str]) -> list[str]:
    """Original first, gold last, the methods between in their own order."""
    first = [n for n in names if n.lower() == "original"]
    last = [n for n in names if n.lower() == "gold"]
    return [*first, *(n for n in names if n.lower() not in ANCHORS), *last]


def color_of(name: str, names: Sequence[str], theme: Theme) -> tuple[str, str | tuple[int, tuple[float, ...]]]:
    """(colour, dash) of a row: the anchors' own, and for 28 methods no two alike."""
    if name.lower() in ANCHORS:
        return (theme.models[0], "-") if name.lower() == "original" else (theme.models[2], "-")
    turn, color = divmod([n for n in names if n.lower() not in ANCHORS].index(name), len(SERIES))
    return SERIES[color], DASHES[turn % len(DASHES)]


def _mark(axes: Axes, found: Share, y: float, color: str, theme: Theme, *, filled: bool) -> None:
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [y, y], color=color, linewidth=2.2 if filled else 1.4, alpha=0.6)
    axes.plot(found.value, y, marker="o" if filled else "D", markersize=6.5 if filled else 5, color=color,
              markerfacecolor=color if filled else theme.card, linestyle="", zorder=3)  # fmt: skip


def _accuracies(data: FarmData, names: Sequence[str], theme: Theme) -> Figure:
    figure = Figure(figsize=(9.6, 0.44 * len(names) + 1.25), layout="constrained")
    axes = figure.subplots()
    dress(axes, theme)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    gold = data.row("gold")
    low = LEFT
    if gold is not None and gold.u_lira is not None and gold.u_lira.low is not None and gold.u_lira.high is not None:
        axes.axvspan(gold.u_lira.low, gold.u_lira.high, color=theme.models[2], alpha=0.14, linewidth=0,
                     label="gold's interval (U-LIRA)")  # fmt: skip
    axes.axvline(0.5, color=theme.soft, linewidth=1, linestyle=(0, (3, 3)), label="chance")
    for y, name in enumerate(names):
        row = data.rows[name]
        attacks = ((row.u_lira, -0.13, theme.models[1], True), (row.u_mia, 0.2, theme.models[3], False))
        for found, dy, color, filled in attacks:
            if found is not None:
                _mark(axes, found, y + dy, color, theme, filled=filled)
                low = min(low, found.value if found.low is None else found.low)
    for label, marker, color, face in (
        ("U-LIRA", "o", theme.models[1], theme.models[1]),
        ("U-MIA", "D", theme.models[3], theme.card),
    ):
        axes.plot([], [], marker=marker, color=color, markerfacecolor=face, linewidth=1.8, markersize=6, label=label)
    axes.set_yticks(range(len(names)), [plain(n, 28) for n in names], color=theme.ink)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(max(0.0, low - 0.02), 1.01)
    axes.set_xlabel("accuracy of the attack (balanced; 95% interval over models)", fontsize=8.5, color=theme.soft)
    figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8.5, labelcolor=theme.ink)
    return figure


def accuracy_image(data: FarmData) -> Image | None:
    """Both attacks' accuracy of every row beside gold's interval and chance; None where nothing was measured."""
    exposed = {n: max((s.value for s in (row.u_lira or row.u_mia,) if s), default=0) for n, row in data.rows.items()}
    order = reading_order(sorted(data.rows, key=lambda n: -exposed[n]))
    names = [n for n in order if data.rows[n].u_lira or data.rows[n].u_mia]
    if not names:
        return None
    told = [f"{n} {spoken(found)}" for n in names if (found := data.rows[n].u_lira) is not None]
    return draw(
        "attack_accuracy",
        lambda theme: _accuracies(data, names, theme),
        alt=f"Accuracy of U-LIRA and U-MIA on {len(names)} rows, chance being .5. U-LIRA: {'; '.join(told)}.",
        title="How often the attacks are right. Towards the dashed line is better; inside gold's band a row cannot be "
        "told from gold",
    )


def _from_edge(points: Points) -> Points:
    """A curve for a logarithmic axis: cut at its left edge, between the points on both sides of it."""
    rest = tuple((x, y) for x, y in points if x > LEAST_FPR)
    x, y = max((p for p in points if p[0] <= LEAST_FPR), default=(LEAST_FPR, rest[0][1] if rest else 0.0))
    if rest:
        y += (rest[0][1] - y) * (LEAST_FPR - x) / (rest[0][0] - x)
    return ((LEAST_FPR, y), *rest)


def _roc(curves: Mapping[str, Mapping[str, Points]], names: Sequence[str], theme: Theme) -> Figure:
    figure = Figure(figsize=(9.6, 4.1), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    grid = [LEAST_FPR * 10 ** (i / 40) for i in range(121)]
    for axes, (attack, title) in zip(panels, NAMES.items(), strict=True):
        dress(axes, theme)
        axes.grid(axis="x", color=theme.grid, linewidth=0.8)
        axes.plot(grid, grid, color=theme.soft, linewidth=1, linestyle=(0, (3, 3)), label="chance")
        for name in names:
            if points := curves[name].get(attack):
                color, dash = color_of(name, names, theme)
                wide = 2.2 if name.lower() in ANCHORS else 1.5
                x, y = zip(*_from_edge(points), strict=True)
                axes.plot(x, y, color=color, linestyle=dash, linewidth=wide, label=plain(name, 24))
        axes.set_xscale("log")
        axes.set_xlim(LEAST_FPR, 1)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xticks((1e-3, 1e-2, 1e-1, 1), (".001", ".01", ".1", "1"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
        axes.set_title(title, loc="left", fontsize=9.5, color=theme.ink)
        axes.set_xlabel("never seen, taken for forgotten (false positives)", fontsize=8.5, color=theme.soft)
    panels[0].set_ylabel("forgotten, recognised (true positives)", fontsize=8.5, color=theme.soft)
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }  # fmt: skip
    figure.legend(list(handles.values()), list(handles), loc="outside lower left", ncols=6, frameon=False, fontsize=8,
                  labelcolor=theme.ink)  # fmt: skip
    return figure


def _at(points: Points, rate: float) -> Cell:
    """The true positive rate at a false positive rate: the best of the curve's points at or left of it."""
    return share(max((y for x, y in points if x <= rate + 1e-12), default=None))


def roc_image(data: FarmData) -> Image | None:
    """ROC of both attacks with a logarithmic axis; None without curves."""
    names = [n for n in reading_order(list(data.roc)) if data.roc[n]]
    if not names:
        return None
    rates = (0.001, 0.01, 0.05, 0.1, 0.5)
    rows = tuple(
        Row((text(name), text(NAMES[attack]), *(_at(points, r) for r in rates)))
        for name in names for attack, points in data.roc[name].items()
    )  # fmt: skip
    return draw(
        "roc",
        lambda theme: _roc(data.roc, names, theme),
        alt=f"Receiver operating curves of U-LIRA and U-MIA for {', '.join(names)}, the false positive rate from .001 "
        "to 1 on a logarithmic axis. The rates are in the table below.",
        title="Few false alarms are what an attacker needs: the left edge matters most. The dashed line is chance",
        numbers=Table("roc", "True positive rate at a false positive rate, read off the curves",
                      ("Method", "attack", *(f"at {r:g}" for r in rates)), rows, heads=2),
    )  # fmt: skip
