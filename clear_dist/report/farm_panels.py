"""Figures with a small panel for each row: logits (the paper's figure 6) and what happens epoch by epoch (figure 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clear_dist.report.board import vision_cell
from clear_dist.report.cells import Cell, Row, Table, plain_number, text
from clear_dist.report.draw import SERIES, Image, Theme, draw, dress, plain
from clear_dist.report.farm_figures import reading_order
from clear_dist.report.farm_read import Densities, FarmData
from clear_dist.report.farm_verdict import short, spoken

ACROSS = 4
FORGET, RETAIN, HOLDOUT, ATTACK = SERIES[1], SERIES[0], SERIES[2], SERIES[3]
SIDES = {
    "forget": "pictures of people to forget",
    "holdout": "of people held out",
    "never": "to forget, but never seen",
}
LINES = {
    "forget_acc": ("forget identified", FORGET, "-"),
    "holdout_acc": ("holdout identified", HOLDOUT, "-"),
    "retain_acc": ("retain identified", RETAIN, "-"),
    "u_lira": ("U-LIRA", ATTACK, (0, (4, 1.5))),
}


def _grid(names: Sequence[str], panel: Callable[[Axes, str], None], *, sharex: bool, height: float) -> Figure:
    """One panel a name, at most ACROSS in a row, with a legend above."""
    across = min(ACROSS, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(9.6, height * down + 0.75), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=sharex, sharey=not sharex)
    for axes, name in zip(grid.flat, names, strict=False):
        panel(axes, name)
        axes.tick_params(labelsize=7.5, labelbottom=True)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    return figure


def _legend(figure: Figure, theme: Theme) -> None:
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }  # fmt: skip
    figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=5, frameon=False, fontsize=8.5,
                  labelcolor=theme.ink)  # fmt: skip


def _range(found: Sequence[Densities]) -> tuple[float, float]:
    """The bins in which any row has at least a thousandth of its highest density."""
    lows, highs = [], []
    for one in found:
        for values in one.sides.values():
            there = [i for i, v in enumerate(values) if v > 1e-3 * max(values)]
            if there:
                lows.append(one.edges[there[0]])
                highs.append(one.edges[there[-1] + 1])
    return (min(lows), max(highs)) if lows else (found[0].edges[0], found[0].edges[-1])


def _title(data: FarmData, name: str) -> str:
    row = data.rows.get(name)
    found = "" if row is None or row.u_lira is None else f"   U-LIRA {short(row.u_lira.value)}"
    return plain(name, 20) + found


def _logits(data: FarmData, names: Sequence[str], theme: Theme) -> Figure:
    left, right = _range([data.densities[n] for n in names])

    def panel(axes: Axes, name: str) -> None:
        dress(axes, theme)
        axes.grid(axis="y", visible=False)
        one = data.densities[name]
        for side, color in (("forget", FORGET), ("holdout", HOLDOUT)):
            if values := one.sides.get(side):
                axes.stairs(values, one.edges, fill=True, color=color, alpha=0.32, linewidth=0)
                axes.stairs(values, one.edges, color=color, linewidth=1.2, label=SIDES[side])
        if values := one.sides.get("never"):
            axes.stairs(
                values, one.edges, color=theme.ink, linewidth=1.1, linestyle=(0, (2, 1.5)), label=SIDES["never"]
            )
        axes.set_title(_title(data, name), loc="left", fontsize=8.4, color=theme.ink)
        axes.set_xlim(left, right)
        axes.set_ylim(bottom=0)
        axes.set_yticks(())
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))

    figure = _grid(names, panel, sharex=True, height=1.6)
    figure.supxlabel("logit of a picture's similarity to its person's enrolment vector", fontsize=8.5, color=theme.soft)
    _legend(figure, theme)
    return figure


def _moments(one: Densities, side: str) -> tuple[Cell, Cell]:
    """Mean and standard deviation of a histogram, each bin's mass at its middle."""
    bins = list(zip(one.sides.get(side, ()), pairwise(one.edges), strict=False))
    mass = sum(v * (b - a) for v, (a, b) in bins)
    if not mass:
        return plain_number(None), plain_number(None)
    mean = sum(v * (b - a) * (a + b) / 2 for v, (a, b) in bins) / mass
    variance = sum(v * (b - a) * ((a + b) / 2 - mean) ** 2 for v, (a, b) in bins) / mass
    return plain_number(mean), plain_number(variance**0.5)


def logits_image(data: FarmData) -> Image | None:
    """Figure 6: logits of forget and holdout pictures, row by row on one axis; None without distributions."""
    names = [n for n in reading_order(list(data.densities)) if any(map(any, data.densities[n].sides.values()))]
    if not names:
        return None
    rows = tuple(Row((text(n), *(cell for side in SIDES for cell in _moments(data.densities[n], side)))) for n in names)
    groups = (("", 1), *((words, 2) for words in SIDES.values()))
    return draw(
        "logits",
        lambda theme: _logits(data, names, theme),
        alt=f"Distributions of logits of forget and holdout pictures, a panel for each of {', '.join(names)}. Means "
        "and spreads are in the table below.",
        title="Logits of forget and holdout pictures. Where forgetting is perfect the filled shape of the people to "
        "forget lies on the dotted line; one that lies elsewhere is recognised by it",
        numbers=Table("logits", "Mean and standard deviation of the logits (from the histograms)",
                      ("Method", *("mean", "sd") * 3), rows, groups),
    )  # fmt: skip


def _epochs(data: FarmData, names: Sequence[str], theme: Theme) -> Figure:
    def panel(axes: Axes, name: str) -> None:
        dress(axes, theme)
        axes.axhline(0.5, color=theme.soft, linewidth=0.9, linestyle=(0, (3, 3)), label="chance of U-LIRA")
        for key, (label, color, dash) in LINES.items():
            found = [(m.epoch, share) for m in data.epochs[name] if (share := m.figures.get(key)) is not None]
            if not found:
                continue
            x = [epoch for epoch, _ in found]
            axes.plot(x, [s.value for _, s in found], color=color, linestyle=dash, linewidth=1.7, label=label,
                      marker="o" if len(x) < 12 else None, markersize=2.8)  # fmt: skip
            low = [s.value if s.low is None else s.low for _, s in found]
            high = [s.value if s.high is None else s.high for _, s in found]
            axes.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0)
        axes.set_title(plain(name, 26), loc="left", fontsize=8.4, color=theme.ink)
        axes.set_ylim(-0.03, 1.05)
        axes.set_yticks((0, 0.5, 1))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))

    figure = _grid(names, panel, sharex=False, height=1.8)
    figure.supxlabel("epochs of unlearning", fontsize=8.5, color=theme.soft)
    _legend(figure, theme)
    return figure


def epochs_image(data: FarmData) -> Image | None:
    """Figure 5: accuracies and U-LIRA over epochs with their intervals, a panel a method; None without traces."""
    names = reading_order(list(data.epochs))
    if not names:
        return None
    rows = tuple(
        Row((text(n), Cell(f"{m.epoch:g}", kind="number"), *(vision_cell(m.figures.get(k)) for k in LINES)),
            rule=i == 0)
        for n in names for i, m in enumerate(data.epochs[n])
    )  # fmt: skip
    ends = [
        f"{n} {spoken(share)}" for n in names if (share := data.epochs[n][-1].figures.get("u_lira")) is not None
    ]  # fmt: skip
    return draw(
        "epochs",
        lambda theme: _epochs(data, names, theme),
        alt=f"Identification of forget, holdout and retain pictures and accuracy of U-LIRA over epochs, a panel for "
        f"each of {', '.join(names)}. U-LIRA at the last epoch: {'; '.join(ends) or 'not measured'}.",
        title="While it is unlearned: identification and U-LIRA after each epoch, with 95% bands over models",
        numbers=Table("epochs", "After each epoch", ("Method", "epoch", *(label for label, _, _ in LINES.values())),
                      rows, heads=2),
    )  # fmt: skip
