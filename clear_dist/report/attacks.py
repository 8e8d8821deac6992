"""Does it come back, and does it show? Robustness attacks, relearning curves, membership attacks, the control."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from clear_dist.metrics.interval import Estimate
from clear_dist.report.cells import (
    Cell,
    Row,
    Table,
    anything,
    count,
    gap,
    measured,
    notes_of,
    plain_number,
    share,
    text,
)
from clear_dist.report.draw import DASHES, SERIES, Image, Theme, draw, dress, plain
from clear_dist.report.subject import Subject, with_role
from clear_dist.report.words import MEMBERSHIP, attack_words

KNOWN = {"name_accuracy": "names", "fact_accuracy": "facts", "rouge_l": "ROUGE-L"}
TITLES = {"name_accuracy": "Names", "fact_accuracy": "Facts", "rouge_l": "ROUGE-L recall of answers"}
NONE = "none"
SMALLEST_GAP = 0.05  # between original and gold, below which no share of it is taken
_STEP = re.compile(r"^(.+)@(\d+)$")


def attack_order(subjects: Sequence[Subject]) -> list[str]:
    """All attacks that were tried, steps of one attack in their order."""
    names = dict.fromkeys(key for s in subjects for key in s.keys("robustness"))
    parts = {name: _STEP.match(name) for name in names}
    first = {}
    for i, name in enumerate(names):
        family = m[1] if (m := parts[name]) else name
        first.setdefault(family, i)
    return sorted(names, key=lambda n: (first[m[1]], int(m[2])) if (m := parts[n]) else (first[n], 0))


def under(subject: Subject, attack: str, metric: str, set_name: str = "forget") -> Estimate | None:
    """A figure under an attack, or without one."""
    if attack == NONE:
        return subject.estimate("sets", set_name, "all", metric)
    return subject.estimate("robustness", attack, set_name, "all", metric)


def robustness_table(subjects: Sequence[Subject], key: str = "robustness") -> Table | None:
    """Attacks by models, on the people to forget: for the page of one run."""
    attacks, shown = attack_order(subjects), [s for s in subjects if s.role != "other"]
    if not attacks:
        return None
    rows, values = [], []
    for attack in (NONE, *attacks):
        figures = [under(s, attack, metric) for s in shown for metric in KNOWN]
        values += figures
        rows.append(Row((text(attack_words(attack)), *map(measured, figures))))
    return Table(
        key,
        "What is known of the people to forget under attack",
        ("Attack", *(words for _ in shown for words in KNOWN.values())),
        tuple(rows),
        groups=(("", 1), *((s.name, len(KNOWN)) for s in shown)),
        notes=notes_of(values),
    )


def robustness_matrix(subjects: Sequence[Subject], metric: str, key: str) -> Table | None:
    """Models by attacks, of one metric on the people to forget: for a page of several runs."""
    attacks = attack_order(subjects)
    rows, values = [], []
    for subject in subjects:
        figures = [under(subject, attack, metric) for attack in (NONE, *attacks)]
        values += figures
        rows.append(Row((text(subject.name, link=subject.anchor, dot=subject.dot), *map(measured, figures))))
    if not attacks or not anything([Row((r.cells[0], *r.cells[2:])) for r in rows]):
        return None
    title = f"{TITLES[metric]} of the people to forget, by attack"
    return Table(key, title, ("Model", NONE, *map(attack_words, attacks)), tuple(rows), notes=notes_of(values))


def _curves(subjects: Sequence[Subject]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """attack -> subject -> (step, accuracy), step 0 as it was before; only with figures at two steps and more.

    Accuracy is the mean of name and fact accuracy on the forget set, of those that every point of the attack has.
    """
    families: dict[str, list[tuple[int, str]]] = {}
    for attack in attack_order(subjects):
        if m := _STEP.match(attack):
            families.setdefault(m[1], []).append((int(m[2]), attack))
    out: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for family, steps in families.items():
        for subject in subjects:
            there = [(s, a) for s, a in steps if any(under(subject, a, m) for m in ("name_accuracy", "fact_accuracy"))]
            points = [*([] if any(s == 0 for s, _ in there) else [(0, NONE)]), *there]
            used = [m for m in ("name_accuracy", "fact_accuracy") if all(under(subject, a, m) for _, a in points)]
            if there and used:
                out.setdefault(family, {})[subject.name] = [
                    (s, fmean(v.value for m in used if (v := under(subject, a, m)) is not None)) for s, a in points
                ]
    return out


Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]


def _relearning(curves: Curves, subjects: Sequence[Subject], theme: Theme) -> Figure:
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    grid = figure.subplots(1, len(curves), squeeze=False, sharey=True)
    runs = [s.name for s in subjects if s.role == "run"]
    handles: dict[str, Line2D] = {}
    for axes, (family, lines) in zip(grid.flat, curves.items(), strict=True):
        dress(axes, theme)
        for subject in subjects:
            if subject.name not in lines:
                continue
            color, dash = theme.models[subject.dot], DASHES[0]
            if subject.role == "run" and len(runs) > 1:
                i = runs.index(subject.name)
                color, dash = SERIES[i % len(SERIES)], DASHES[i // len(SERIES) % len(DASHES)]
            (handles[plain(subject.name, 28)],) = axes.plot(
                *zip(*lines[subject.name], strict=True), color=color, linestyle=dash, marker="o", markersize=3.5,
                linewidth=2.2 if subject.role == "gold" else 1.6,
            )  # fmt: skip
        axes.set_title(plain(attack_words(family), 34), loc="left", fontsize=9.5, color=theme.ink)
        axes.set_xlabel("steps of training after unlearning", fontsize=8.5, color=theme.soft)
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks((0, 0.5, 1))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    grid[0, 0].set_ylabel("accuracy on the people to forget", fontsize=8.5, color=theme.soft)
    look: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": theme.ink}
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", **look)
    return figure


def relearning_image(subjects: Sequence[Subject], key: str = "relearning") -> Image | None:
    """How fast it comes back, against gold: what gold reaches is learning, not remembering."""
    curves = _curves(subjects)
    if not curves:
        return None
    rows = [
        Row((text(attack_words(family)), text(name), Cell(", ".join(f"{step}: {value:.2f}" for step, value in points))))
        for family, lines in curves.items()
        for name, points in lines.items()
    ]
    head = ("Attack", "Model", "step: accuracy")
    numbers = Table(key, "Accuracy on the people to forget, by steps of relearning", head, tuple(rows), heads=2)
    alt = (
        f"Accuracy on the people to forget over steps of relearning ({', '.join(map(attack_words, curves))}): "
        "unlearned models against gold. Every point is in the table below."
    )
    title = "Relearning: what comes back faster than gold learns it was not forgotten, only hidden"
    return draw(key, lambda theme: _relearning(curves, subjects, theme), alt=alt, title=title, numbers=numbers)


def recovery_table(subjects: Sequence[Subject], key: str = "recovery") -> Table | None:
    """(attacked - gold attacked) / (original - gold): the share of what unlearning took away that an attack gives back
    beyond what it teaches gold."""
    original, gold = with_role(subjects, "original"), with_role(subjects, "gold")
    attacks = attack_order(subjects)
    if original is None or gold is None or not attacks:
        return None
    runs = [s for s in subjects if s.role == "run"]
    shares = {
        (s.name, m): [_recovered(original, gold, s, a, m) for a in attacks]
        for s in runs
        for m in ("name_accuracy", "fact_accuracy")
    }
    if all(cell.kind == "gap" for cells in shares.values() for cell in cells):
        return None
    if len(runs) == 1:
        head = ("Attack", *(KNOWN[metric] for _, metric in shares))
        rows = [Row((text(attack_words(a)), *cells)) for a, *cells in zip(attacks, *shares.values(), strict=True)]
    else:
        head = ("Model", "of", *map(attack_words, attacks))
        by_name = {s.name: s for s in runs}
        rows = [
            Row((text(name, link=by_name[name].anchor, dot=by_name[name].dot), text(KNOWN[metric]), *cells))
            for (name, metric), cells in shares.items()
        ]
    return Table(
        key,
        "Recovery under attack: 0 as gold under the same attack, 1 as if nothing had been unlearned",
        head,
        tuple(rows),
        heads=1 if len(runs) == 1 else 2,
        notes=("Not measured too where original and gold differ by less than .05: there is nothing to recover.",),
    )


def _recovered(original: Subject, gold: Subject, subject: Subject, attack: str, metric: str) -> Cell:
    top, zero = under(original, NONE, metric), under(gold, NONE, metric)
    ours, theirs = under(subject, attack, metric), under(gold, attack, metric)
    if top is None or zero is None or ours is None or theirs is None or top.value - zero.value < SMALLEST_GAP:
        return gap()
    return share((ours.value - theirs.value) / (top.value - zero.value))


def membership_table(subjects: Sequence[Subject], key: str = "membership") -> Table | None:
    rows, values = [], []
    for subject in subjects:
        cells = []
        for attack in MEMBERSHIP:
            auc = subject.estimate("membership", attack, "auc")
            values.append(auc)
            leak = subject.number("membership", attack, "privleak")
            cells += [measured(auc), gap("itself") if subject.role == "gold" else plain_number(leak, 1)]
        n = next((v.n for v in values[-len(MEMBERSHIP) :] if v is not None), None)
        rows.append(Row((text(subject.name, link=subject.anchor, dot=subject.dot), *cells, count(n))))
    if not anything(rows):
        return None
    return Table(
        key,
        "Membership: can the people to forget be told from people never trained on?",
        ("Model", *("AUC", "PrivLeak") * len(MEMBERSHIP), "n"),
        tuple(rows),
        groups=(("", 1), *((words, 2) for words in MEMBERSHIP.values()), ("", 1)),
        notes=notes_of(values),
    )


def control_table(subjects: Sequence[Subject], key: str = "control") -> Table | None:
    """Name accuracy on the right and on other people's pictures."""
    rows, values = [], []
    for subject in subjects:
        if not subject.controls:
            continue
        figures = []
        for set_name in ("forget", "retain"):
            at = ("sets", set_name, "visual", "name_accuracy")
            figures += [subject.estimate(*at), subject.control(*at)]
        values += figures
        rows.append(Row((text(subject.name, link=subject.anchor, dot=subject.dot), *map(measured, figures))))
    if not anything(rows):
        return None
    return Table(
        key,
        "Control: name accuracy on the right pictures and on other people's",
        ("Model", "right pictures", "other people's", "right pictures", "other people's"),
        tuple(rows),
        groups=(("", 1), ("To be forgotten", 2), ("To be kept", 2)),
        notes=notes_of(values),
    )
