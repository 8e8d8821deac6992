"""Tables of an attack on a farm: estimators, rates, and who is most and who least exposed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from clear_dist.report.attack_file import ATTACKS
from clear_dist.report.board import vision_cell
from clear_dist.report.cells import Cell, Row, Table, anything, count, gap, share, text
from clear_dist.report.farm_figures import NAMES, reading_order
from clear_dist.report.farm_read import ESTIMATORS, Example, FarmData
from clear_dist.report.farm_verdict import ANCHORS

RATES = ("0.001", "0.01", "0.05")
EXTREMES = 10


def estimators_table(data: FarmData) -> Table | None:
    """Accuracy of U-LIRA by how it estimates variances; the headline's estimator is named at the foot."""
    rows = []
    for name in reading_order(list(data.rows)):
        detail = data.details.get(name, {}).get("u_lira")
        found = {} if detail is None else detail.estimators
        rows.append(Row((text(name), *(vision_cell(found.get(e)) for e in ESTIMATORS))))
    if not anything(rows):
        return None
    used = {d["u_lira"].variance for d in data.details.values() if "u_lira" in d} - {None}
    notes = (
        "mad: median and MAD / .6745, as published. std: mean and standard deviation. pooled: one variance for both "
        "sides. global: one variance a side over all pictures.",
        *((f"The other tables and figures use {', '.join(sorted(map(str, used)))}.",) if used else ()),
    )
    return Table("estimators", "Accuracy of U-LIRA by its estimate of variances", ("Method", *ESTIMATORS), tuple(rows),
                 notes=notes)  # fmt: skip


def rates_table(data: FarmData) -> Table | None:
    """AUC, and true positives at few false positives, of both attacks."""
    rows = []
    for name in reading_order(list(data.rows)):
        cells: list[Cell] = []
        for attack in ATTACKS:
            detail = data.details.get(name, {}).get(attack)
            if detail is None:
                cells += [gap()] * (1 + len(RATES))
                continue
            by_rate = {float(rate): found for rate, found in detail.tpr.items()}
            cells.append(vision_cell(detail.auc))
            for rate in RATES:
                found = by_rate.get(float(rate))
                cells.append(gap("too few") if found is None and float(rate) in by_rate else vision_cell(found))
        rows.append(Row((text(name), *cells)))
    if not anything(rows):
        return None
    head = ("AUC", *(f"at {rate.removeprefix('0')}" for rate in RATES))
    return Table(
        "rates",
        "AUC, and forgotten people recognised at a false positive rate of .001, .01 and .05",
        ("Method", *head * len(ATTACKS)),
        tuple(rows),
        (("", 1), *((NAMES[attack], len(head)) for attack in ATTACKS)),
        notes=("Too few: a rate of x needs at least 1/x cases of a picture never seen, over all pictures and models.",),
    )


def _extremes(
    data: FarmData, key: Callable[[Example], str], basis: Sequence[str]
) -> list[tuple[str, str, list[Example]]]:
    """("most" or "least", key, its examples of all rows) by the mean of U-LIRA over the rows of ``basis``, which each
    of them has."""
    groups: dict[str, list[Example]] = {}
    for one in data.examples:
        if one.u_lira is not None:
            groups.setdefault(key(one), []).append(one)
    means = {k: m for k, found in groups.items() if (m := _mean(found, basis)) is not None}
    order = sorted(means, key=lambda k: (-means[k], k))
    most = min(EXTREMES, -(-len(order) // 2))
    least = min(EXTREMES, len(order) - most)
    chosen = [("most", k) for k in order[:most]] + [("least", k) for k in order[len(order) - least :]]
    return [(which, k, groups[k]) for which, k in chosen]


def _mean(found: Sequence[Example], methods: Sequence[str], attack: str = "u_lira") -> float | None:
    values = [v for e in found if e.method in methods and (v := getattr(e, attack)) is not None]
    return fmean(values) if values else None


def _row(found: Sequence[Example], methods: Mapping[str, list[str]]) -> list[Cell]:
    by_method = {m: v for m in methods["basis"] if (v := _mean(found, [m])) is not None}
    lowest, highest = (pick(by_method, key=lambda m: by_method[m]) for pick in (min, max))
    return [
        share(_mean(found, methods["basis"])),
        share(by_method[lowest], lowest),
        share(by_method[highest], highest),
        share(_mean(found, methods["original"])),
        share(_mean(found, methods["gold"])),
        share(_mean(found, methods["basis"], "u_mia")),
    ]


def exposed_tables(data: FarmData) -> tuple[Table, ...]:
    """The most and the least exposed pictures, and people; none without examples.csv."""
    names = reading_order(list(dict.fromkeys(e.method for e in data.examples)))
    methods = {a: [n for n in names if n.lower() == a] for a in ANCHORS}
    methods["basis"] = [n for n in names if n.lower() not in ANCHORS] or methods["original"]
    who = "all methods" if methods["basis"] != methods["original"] else "original"
    head = (f"mean of {who}", "lowest", "highest", "original", "gold", "U-MIA, mean")
    person = {e.id: e.identity for e in data.examples}
    pictures = [
        Row((text(which), text(k), text(person[k]), *_row(found, methods)))
        for which, k, found in _extremes(data, lambda e: e.id, methods["basis"])
    ]
    people = [
        Row((text(which), text(k), count(len({e.id for e in found})), *_row(found, methods)))
        for which, k, found in _extremes(data, lambda e: e.identity, methods["basis"])
    ]
    out = []
    for key, title, first, rows in (
        ("exposed-people", "People: how often U-LIRA is right about them", ("Person", "pictures"), people),
        ("exposed-pictures", "Pictures: how often U-LIRA is right about them", ("Picture", "person"), pictures),
    ):
        ruled = [Row(r.cells, rule=i > 0 and r.cells[0] != rows[i - 1].cells[0]) for i, r in enumerate(rows)]
        if ruled:
            out.append(Table(key, title, ("Exposed", *first, *head), tuple(ruled), heads=2))
    return tuple(out)
