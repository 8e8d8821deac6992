"""Figures of a dataset: how much there is of everybody, how old and who people are, and the faces against them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from clear_dist.report.cells import Cell, Row, Table, gap, text
from clear_dist.report.data_pieces import several
from clear_dist.report.draw import SERIES, Image, Theme, draw, dress, plain

UNKNOWN = "unknown"
OLDEST = 100  # years; from here on everybody is in one bin
CATEGORIES = 12  # of a trait that are drawn
LISTED = 20  # people in the table behind the balance


@dataclass(frozen=True)
class Trait:
    """What a person or a face is like; None where unknown. age: years."""

    age: int | None
    gender: str | None
    group: str | None


Part = Literal["age", "gender", "group"]
PARTS: tuple[Part, ...] = ("age", "gender", "group")


@dataclass(frozen=True)
class Spread:
    """How people and faces are spread over the values of one part. counts: a number a value."""

    part: Part
    values: tuple[str, ...]
    people: tuple[int, ...]
    faces: tuple[int, ...]

    @property
    def apart(self) -> float | None:
        """Share, 0 to 1, of one side that would have to change for both to be alike; None where a side is empty."""
        if not sum(self.people) or not sum(self.faces):
            return None
        return sum(abs(p - f) for p, f in zip(_shares(self.people), _shares(self.faces), strict=True)) / 200


def _shares(counts: Sequence[int]) -> list[float]:
    """In percent."""
    whole = sum(counts) or 1
    return [100 * count / whole for count in counts]


def decade(age: int | None) -> str:
    """``20-29``, with a dash between; ``100 and more``; ``unknown``."""
    if age is None:
        return UNKNOWN
    first = 10 * (age // 10)
    return f"{OLDEST} and more" if first >= OLDEST else f"{first}–{first + 9}"


def _short(bin_name: str) -> str:
    """``20s``, below a bar; what is longer on a line of its own."""
    first, dash, _ = bin_name.partition("–")
    return f"{first}s" if dash else f"\n{UNKNOWN}" if bin_name == UNKNOWN else f"{OLDEST}+"


def spread(part: Part, people: Sequence[Trait], faces: Sequence[Trait]) -> Spread:
    """Bins of ten years without holes between them; other values by name. What is unknown comes last."""

    def values(traits: Sequence[Trait]) -> list[str]:
        return [decade(t.age) if part == "age" else str(getattr(t, part) or UNKNOWN).replace("_", " ") for t in traits]

    mine, theirs = Counter(values(people)), Counter(values(faces))
    if part == "age":
        ages = [min(t.age, OLDEST) // 10 for t in (*people, *faces) if t.age is not None]
        names = [decade(10 * tens) for tens in range(min(ages), max(ages) + 1)] if ages else []
    else:
        names = sorted({*mine, *theirs} - {UNKNOWN})
    names += [UNKNOWN] if mine[UNKNOWN] or theirs[UNKNOWN] else []
    return Spread(part, tuple(names), tuple(mine[n] for n in names), tuple(theirs[n] for n in names))


def against_image(name: str, title: str, people: Sequence[Trait], faces: Sequence[Trait], which: str) -> Image | None:
    """Figure 4 of the paper: faces beside people by age, gender and group; None where either is missing.

    which: what the faces are called, e.g. "faces matched".
    """
    if not people or not faces:
        return None
    spreads = [spread(part, people, faces) for part in PARTS]

    def make(theme: Theme) -> Figure:
        figure = Figure(figsize=(9.6, 3.5), layout="constrained")
        panels = figure.subplots(1, 3, gridspec_kw={"width_ratios": (1.5, 0.8, 1)})
        colors = (theme.models[1], theme.models[2])
        for axes, found in zip(panels, spreads, strict=True):
            series = [_shares(found.people), _shares(found.faces)]
            _bars(axes, found, series, colors, theme, f"   {100 * (found.apart or 0):.0f}% apart")
        names = (several(len(people), "person", "people"), which)
        keys = [Patch(color=color, label=label) for label, color in zip(names, colors, strict=True)]
        figure.legend(
            handles=keys, loc="outside upper left", ncols=2, frameon=False, fontsize=8.5, labelcolor=theme.ink
        )
        return figure

    told = ", ".join(f"{found.part} {100 * (found.apart or 0):.0f}% apart" for found in spreads)
    alt = f"Bars of {len(people):,} people beside {which}, in percent, by age, gender and group: {told}."
    return draw(name, make, alt=alt, title=title, numbers=_numbers(name, title, spreads, which))


def people_image(people: Sequence[Trait]) -> Image | None:
    """People alone, counted by age and by gender; None where there are none."""
    if not people:
        return None
    spreads = [spread(part, people, ()) for part in PARTS[:2]]

    def make(theme: Theme) -> Figure:
        figure = Figure(figsize=(9.6, 3.1), layout="constrained")
        panels = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1.7, 1)})
        for axes, found in zip(panels, spreads, strict=True):
            _bars(axes, found, [found.people], (theme.models[1],), theme, "")
        return figure

    told = "; ".join(
        f"{found.part}: " + ", ".join(f"{v} {n}" for v, n in zip(found.values, found.people, strict=True))
        for found in spreads
    )
    title = "People by age, in bins of ten years, and by gender"
    return draw("people", make, alt=f"{title}. {told}.", title=title, numbers=_numbers("people", title, spreads, None))


def _bars(
    axes: Axes, found: Spread, series: Sequence[Sequence[float]], colors: Sequence[str], theme: Theme, more: str
) -> None:
    """Ages stand, as a histogram; names lie, since they are long."""
    dress(axes, theme)
    shown = min(len(found.values), CATEGORIES)
    width = 0.84 / len(series)
    for turn, (values, color) in enumerate(zip(series, colors, strict=True)):
        places = [at + (turn - (len(series) - 1) / 2) * width for at in range(shown)]
        if found.part == "age":
            axes.bar(places, values[:shown], width, color=color)
        else:
            axes.barh(places, values[:shown], width, color=color)
    whole = MaxNLocator(4, integer=len(series) == 1)
    if found.part == "age":
        labels = [_short(value) for value in found.values[:shown]]
        axes.set_xticks(range(shown), labels, fontsize=7.5)
        axes.yaxis.set_major_locator(whole)
    else:
        axes.set_yticks(range(shown), [plain(value, 16) for value in found.values[:shown]], color=theme.ink)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color=theme.grid, linewidth=0.8)
        axes.xaxis.set_major_locator(whole)
    unit = "%" if len(series) > 1 else "people"
    axes.set_title(f"{found.part.capitalize()}, {unit}{more}", loc="left", fontsize=9, color=theme.ink)


def _numbers(key: str, title: str, spreads: Sequence[Spread], which: str | None) -> Table:
    head = ("Part", "Value", "People", "%") + (() if which is None else ("Faces", "%"))
    rows = []
    for found in spreads:
        sides = (found.people,) if which is None else (found.people, found.faces)
        shares = [_shares(side) for side in sides]
        for at, value in enumerate(found.values):
            cells = [
                Cell(number, kind="number")
                for side, share in zip(sides, shares, strict=True)
                for number in (f"{side[at]:,}", f"{share[at]:.1f}")
            ]
            rows.append(Row((text(found.part), text(value), *cells), rule=bool(rows) and at == 0))
    left_out = [f.part for f in spreads if len(f.values) > CATEGORIES]
    notes = (f"The figure has the first {CATEGORIES} values of {', '.join(left_out)}.",) if left_out else ()
    return Table(f"numbers-{key}", title, head, tuple(rows), heads=2, notes=notes)


def balance_image(people: Mapping[str, Sequence[int]]) -> Image | None:
    """Pictures and questions of each person, from the fewest to the most; None where there is nobody.

    people: name -> (pictures, questions).
    """
    series = {
        what: sorted(counts[at] for counts in people.values()) for at, what in enumerate(("pictures", "questions"))
    }
    series = {what: counts for what, counts in series.items() if any(counts)}
    if not series:
        return None

    def make(theme: Theme) -> Figure:
        figure = Figure(figsize=(9.6, 3.0), layout="constrained")
        for axes, (what, counts) in zip(figure.subplots(1, len(series), squeeze=False)[0], series.items(), strict=True):
            dress(axes, theme)
            usual = statistics.median(counts)
            few = sum(count < usual / 2 for count in counts)
            edges = range(len(counts) + 1)
            axes.stairs(counts[few:], edges[few:], fill=True, color=theme.models[1], alpha=0.75)
            if few:
                axes.stairs(counts[:few], edges[: few + 1], fill=True, color=SERIES[1])
            axes.axhline(usual, color=theme.soft, linewidth=1, linestyle=(0, (3, 3)))
            axes.set_xlim(0, len(counts))
            axes.set_ylim(0, max(counts) * 1.05)
            axes.set_title(f"{what.capitalize()} a person", loc="left", fontsize=9, color=theme.ink)
            axes.set_xlabel("people, from the fewest to the most", fontsize=8.5, color=theme.soft)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(5, integer=True))
        dashes = Line2D([], [], color=theme.soft, linewidth=1, linestyle=(0, (3, 3)), label="median")
        keys = [dashes, Patch(color=SERIES[1], label="less than half of the median")]
        figure.legend(
            handles=keys, loc="outside upper left", ncols=2, frameon=False, fontsize=8.5, labelcolor=theme.ink
        )
        return figure

    told = "; ".join(
        f"{what} a person: {counts[0]:,} to {counts[-1]:,}, median {statistics.median(counts):g}"
        for what, counts in series.items()
    )
    title = "Pictures and questions of each person"
    return draw("balance", make, alt=f"{title}. {told}.", title=title, numbers=_fewest(title, people))


def _fewest(title: str, people: Mapping[str, Sequence[int]]) -> Table:
    order = sorted(people, key=lambda name: (sum(people[name]), name))
    rows = [
        Row((text(name), *(Cell(f"{count:,}", kind="number") if count else gap("none") for count in people[name])))
        for name in order[:LISTED]
    ]
    rest = len(order) - len(rows)
    notes = (f"Those with the fewest; {rest:,} more have as many or more together.",) if rest else ()
    return Table("numbers-balance", title, ("Person", "Pictures", "Questions"), tuple(rows), notes=notes)
