"""Truth ratios on the forget set as distribution functions, with the distance that forget quality tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from clear_dist.metrics.truth_ratio import Mean
from clear_dist.report.cells import Row, Table, count, gap, plain_number, share, text
from clear_dist.report.draw import Image, Theme, draw, dress, plain
from clear_dist.report.subject import Subject, with_role
from clear_dist.report.words import number

ACROSS = 4
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Gap:
    """Where two distribution functions are furthest apart: at x, between ``low`` and ``high``."""

    x: float
    low: float
    high: float

    @property
    def distance(self) -> float:
        return self.high - self.low


def largest_gap(a: Sequence[float], b: Sequence[float]) -> Gap:
    """The Kolmogorov-Smirnov distance of two samples [n], [m] and where it is reached first."""
    one, two = np.sort(np.asarray(a)), np.sort(np.asarray(b))
    points = np.unique(np.concatenate([one, two]))
    below = [np.searchsorted(sample, points, side="right") / sample.size for sample in (one, two)]
    i = int(np.argmax(np.abs(below[0] - below[1])))
    low, high = sorted((float(below[0][i]), float(below[1][i])))
    return Gap(float(points[i]), low, high)


def _mean_of(subject: Subject, gold: Subject) -> tuple[Mean, Gap] | None:
    """The mean over wrong answers whose distance is the one in the summary (the geometric one if neither is)."""
    wanted = subject.number("forget_quality", "ks")
    found: list[tuple[Mean, Gap]] = []
    means: tuple[Mean, Mean] = ("geometric", "arithmetic")
    for mean in means:
        one, two = subject.ratios.get(mean) or {}, gold.ratios.get(mean) or {}
        if one and one.keys() == two.keys():
            found.append((mean, largest_gap(list(one.values()), list(two.values()))))
    for mean, there in found:
        if wanted is not None and abs(there.distance - wanted) < 1e-6:
            return mean, there
    return found[0] if found else None


def _steps(values: Mapping[str, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = np.sort(np.fromiter(values.values(), dtype=np.float64))
    return np.concatenate([x[:1], x]), np.arange(len(x) + 1) / len(x)


def _p(subject: Subject) -> str:
    p = subject.number("forget_quality", "p")
    if p is None or len(subject.blocks) > 1:
        return ""
    return f", p = {p:.2g}" if p > 0 else ", p < 1e-300"


def _panel(axes: Axes, shown: Sequence[Subject], subject: Subject, gold: Subject | None, theme: Theme) -> None:
    dress(axes, theme)
    chosen = None if gold is None else _mean_of(subject, gold)
    mean: Mean = "geometric" if chosen is None else chosen[0]
    for one in shown:
        if values := one.ratios.get(mean):
            width = 2.0 if one is subject else 1.5
            axes.plot(
                *_steps(values), drawstyle="steps-post", color=theme.models[one.dot], linewidth=width,
                label=plain(one.name, 28),
            )  # fmt: skip
    if chosen is not None:
        there = chosen[1]
        label = f"distance to gold {number(there.distance)}{_p(subject)}"
        axes.plot([there.x] * 2, [there.low, there.high], color=theme.ink, linewidth=2.2, label=label)
        for y in (there.low, there.high):
            axes.plot(there.x, y, marker="_", color=theme.ink, markersize=8, markeredgewidth=2.2)
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks((0, 0.5, 1))
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _figure(subjects: Sequence[Subject], theme: Theme) -> Figure:
    original, gold = with_role(subjects, "original"), with_role(subjects, "gold")
    runs = [s for s in subjects if s.role == "run" and s.ratios.get("geometric")]
    anchors = [s for s in (original, gold) if s is not None]
    if len(runs) <= 1:
        figure = Figure(figsize=(9.6, 3.6), layout="constrained")
        axes = figure.subplots()
        first = runs[0] if runs else anchors[0]
        _panel(axes, [*anchors, *runs] if runs else anchors, first, gold if first is not gold else None, theme)
        axes.set_xlabel("ln of the truth ratio (low: knows the answer)", fontsize=8.5, color=theme.soft)
        axes.set_ylabel("share of rows below", fontsize=8.5, color=theme.soft)
        axes.legend(frameon=False, fontsize=8.5, labelcolor=theme.ink, loc="best")
        return figure
    across = min(ACROSS, len(runs))
    down = -(-len(runs) // across)
    figure = Figure(figsize=(9.6, 2.1 * down + 0.6), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for axes, run in zip(grid.flat, runs, strict=False):
        _panel(axes, [*anchors, run], run, gold, theme)
        chosen = None if gold is None else _mean_of(run, gold)
        under = "" if chosen is None else f"\nKS {number(chosen[1].distance)}{_p(run)}"
        axes.set_title(plain(run.name, 26) + under, loc="left", fontsize=8.2, color=theme.ink)
        axes.tick_params(labelsize=7.5, labelbottom=True)
    for axes in grid.flat[len(runs) :]:
        axes.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    words = [*[plain(a.name) for a in anchors if a.ratios.get("geometric")], "the run", "largest distance to gold"]
    figure.legend(
        handles[: len(words)], words[: len(labels)], loc="outside upper left", ncols=4, frameon=False, fontsize=8.5,
        labelcolor=theme.ink,
    )  # fmt: skip
    figure.supxlabel("ln of the truth ratio (low: knows the answer)", fontsize=8.5, color=theme.soft)
    figure.supylabel("share of rows below", fontsize=8.5, color=theme.soft)
    return figure


def _numbers(subjects: Sequence[Subject], key: str) -> Table:
    """Quantiles of ln R, and the distance to gold with its place."""
    gold = with_role(subjects, "gold")
    rows = []
    for subject in subjects:
        values = subject.ratios.get("geometric") or {}
        chosen = _mean_of(subject, gold) if gold is not None and subject is not gold else None
        if values:
            spread = np.quantile(list(values.values()), QUANTILES)
            cells = [text(subject.name, dot=subject.dot), count(len(values)), *(plain_number(float(v)) for v in spread)]
        else:
            cells = [text(subject.name, dot=subject.dot), *(gap() for _ in range(len(QUANTILES) + 1))]
        none = gap("itself") if subject is gold else gap()
        cells.append(none if chosen is None else share(chosen[1].distance))
        cells.append(none if chosen is None else plain_number(chosen[1].x))
        rows.append(Row(tuple(cells)))
    head = ("Model", "rows", *(f"{round(100 * q)}%" for q in QUANTILES), "largest distance", "at")
    return Table(key, "ln of the truth ratio on the forget set: quantiles, and the distance to gold", head, tuple(rows))


def truth_ratio_image(subjects: Sequence[Subject], key: str = "truth-ratios") -> Image | None:
    """Empirical distribution functions of ln R on the forget set; None where no record has truth ratios."""
    if not any(s.ratios.get("geometric") for s in subjects if s.role != "other"):
        return None
    subjects = [s for s in subjects if s.role != "other"]
    names = ", ".join(s.name for s in subjects if s.ratios.get("geometric"))
    alt = (
        f"Distribution functions of the logarithm of the truth ratio on the forget set for {names}; a vertical bar "
        "marks the largest distance to gold, which forget quality tests. The table below has quantiles and distances."
    )
    return draw(
        key.replace("-", "_"),
        lambda theme: _figure(subjects, theme),
        alt=alt,
        title="Truth ratios on the people to forget: forgetting is complete where a run's curve lies on gold's",
        numbers=_numbers(subjects, key),
    )
