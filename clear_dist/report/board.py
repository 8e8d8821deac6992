"""The leaderboard: who keeps the rest, and of those, who forgets most.

The paper's rule (CLEAR, figure 2): methods that fail the retain set are grey and not ranked, the rest are ranked by the
Forget metric, lower first (vision: by U-LIRA). It gives no threshold; ours is 80% of the original's Retain metric.
Ranks are of figures as they are printed, with three decimals: equal ones share a rank, and the next rank skips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from clear_dist.metrics.interval import Estimate
from clear_dist.report.attack_file import Share, Vision
from clear_dist.report.cells import Cell, Row, Table, gap, measured, notes_of, plain_number, share, text
from clear_dist.report.runs import Entry
from clear_dist.report.subject import Subject, at
from clear_dist.report.verdict import judge
from clear_dist.report.words import number

KEPT_SHARE = 0.8
OTHER_DATA = "records of different data"
RULE = (
    "Ranked by the paper's rule: a method whose Retain metric is below 80% of the original's is grey and not ranked "
    "(the paper names no threshold; this one is ours); the others by the Forget metric, lower first. Figures are "
    "compared as printed, with three decimals; equal ones share a rank and the next rank is skipped."
)
CAREFUL = (
    "Careful: the Forget metric mixes ROUGE and probability, where low means forgotten, with a truth ratio where high "
    "does; the paper's own original scores only .39. Read name and fact accuracy and the distance to gold first."
)
SEEDS = "Where a method has several seeds: the median, and the lowest and highest below it."
_VERDICT = {"met": "yes", "partly": "partly", "missed": "no", "unknown": "not measured"}


@dataclass(frozen=True)
class Standing:
    """kept: the retain metric as a share of the original's. rank: None where it is not ranked, and why."""

    entry: Entry
    subject: Subject
    retain: Estimate | None
    forget: Estimate | None
    kept: float | None
    rank: int | None
    why: str = ""


def metric_of(block: Mapping[str, Any] | None, set_name: str) -> float | None:
    found = Estimate.of(at(block, "sets", set_name, "all", "metric"))
    return None if found is None else found.value


def kept_share(entry: Entry) -> float | None:
    """Retain metric over the original's, run by run; the median. None where one is absent, or the original's is 0."""
    shares = []
    for run, anchors in zip(entry.runs, entry.anchors, strict=True):
        ours, whole = metric_of(run.candidate, "retain"), metric_of(anchors.get("original"), "retain")
        if ours is None or not whole:
            return None
        shares.append(ours / whole)
    return median(shares)


def gold_distance(entry: Entry) -> float | None:
    """Mean of |accuracy - gold's| over names and facts of the forget set (those that were measured); the median."""
    found = []
    for run, anchors in zip(entry.runs, entry.anchors, strict=True):
        gaps = []
        for metric in ("name_accuracy", "fact_accuracy"):
            ours = Estimate.of(at(run.candidate, "sets", "forget", "all", metric))
            theirs = Estimate.of(at(anchors.get("gold"), "sets", "forget", "all", metric))
            if ours is not None and theirs is not None:
                gaps.append(abs(ours.value - theirs.value))
        if gaps:
            found.append(fmean(gaps))
    return median(found) if found else None


def competition(values: Sequence[float]) -> list[int]:
    """Ranks of values in ascending order: 1, 2, 2, 4."""
    return [1 + sum(other < value for other in values) for value in values]


def standings(entries: Sequence[Entry]) -> list[Standing]:
    """Ranked first, then what is not ranked: entries of other data, and those that lack a figure or lose retain."""
    ranked: list[tuple[float, Standing]] = []
    rest: list[Standing] = []
    for entry in entries:
        subject = entry.subject
        retain, forget = (subject.estimate("sets", s, "all", "metric") for s in ("retain", "forget"))
        kept = kept_share(entry)
        why = ""
        if entry.other:
            why = OTHER_DATA
        elif forget is None or retain is None:
            why = "Forget or Retain metric not measured"
        elif kept is None:
            why = "no original to judge Retain by"
        elif kept < KEPT_SHARE - 1e-9:
            why = f"keeps {100 * kept:.0f}% of Retain"
        standing = Standing(entry, subject, retain, forget, kept, None, why)
        if why or forget is None:
            rest.append(standing)
        else:
            ranked.append((round(forget.value, 3), standing))
    ranked.sort(key=lambda pair: (pair[0], pair[1].entry.name))
    ranks = competition([value for value, _ in ranked])
    first = [
        Standing(s.entry, s.subject, s.retain, s.forget, s.kept, rank)
        for rank, (_, s) in zip(ranks, ranked, strict=True)
    ]
    return first + rest


def _anchor_row(subject: Subject) -> Row:
    known = [subject.estimate("sets", "forget", "all", m) for m in ("name_accuracy", "fact_accuracy")]
    both = [subject.estimate("sets", s, "all", "metric") for s in ("retain", "forget")]
    none = gap("–")
    cells = (text(subject.name, dot=subject.dot), none, none, none, *map(measured, known), none)
    after = (measured(both[0]), none, measured(both[1]), quality(subject), measured(leaked(subject)))
    return Row((*cells, *after))


def quality(subject: Subject) -> Cell:
    """ln p of forget quality, and on how many rows."""
    if subject.role == "gold":
        return gap("itself")
    n = subject.number("forget_quality", "n")
    return plain_number(subject.number("forget_quality", "ln_p"), 2, "" if n is None else f"n = {n:.0f}")


def leaked(subject: Subject) -> Estimate | None:
    """Share of answers about the people to forget that give them away: by label, or where there are none, named."""
    label = subject.estimate("aftermath", "labels", "leaked")
    return label if label is not None else subject.estimate("aftermath", "named")


def board_table(found: Sequence[Standing], anchors: Sequence[Subject], title: str, key: str) -> Table:
    rows = []
    for i, s in enumerate(found):
        verdict = judge(s.entry.summary(), "unlearned")
        known = [s.subject.estimate("sets", "forget", "all", m) for m in ("name_accuracy", "fact_accuracy")]
        rows.append(
            Row(
                (
                    Cell(s.entry.name, s.why, link=s.entry.anchor, dot=s.subject.dot),
                    gap("not ranked") if s.rank is None else Cell(str(s.rank), kind="number"),
                    text(_VERDICT[verdict.forgotten]),
                    text(_VERDICT[verdict.kept]),
                    *map(measured, known),
                    share(gold_distance(s.entry)),
                    measured(s.retain),
                    gap() if s.kept is None else Cell(f"{100 * s.kept:.0f}%", kind="number"),
                    measured(s.forget),
                    quality(s.subject),
                    measured(leaked(s.subject)),
                ),
                grey=s.rank is None,
                rule=i > 0 and s.rank is None and found[i - 1].rank is not None,
            )
        )
    rows += [Row(r.cells, rule=i == 0) for i, r in enumerate(map(_anchor_row, anchors))]
    notes = (RULE,)
    if any(len(s.entry.runs) > 1 for s in found):
        notes = (*notes, SEEDS)
    if any(s.why == OTHER_DATA for s in found):
        notes = (*notes, "Runs of different data are shown with their own figures and stand in no ranking.")
    head = (
        "Run", "rank", "Forgotten?", "Rest kept?", "names", "facts", "distance to gold", "metric",
        "of original's", "metric", "ln p", "leaked",
    )  # fmt: skip
    groups = (("", 2), ("Verdict", 2), ("Still known of forget", 3), ("Retain", 2), ("Forget", 1))
    groups = (*groups, ("Forget quality", 1), ("Answers", 1))
    figures = [v for s in found for v in (s.retain, s.forget)]
    return Table(key, title, head, tuple(rows), groups, notes=(*notes, *notes_of(figures)))


def vision_ranks(rows: Mapping[str, Vision]) -> dict[str, tuple[int | None, str]]:
    """Method -> (rank, or why there is none): by how near U-LIRA comes to chance, among those that keep retain."""
    original = next((r for name, r in rows.items() if name.lower() == "original"), None)
    whole = original.retain_acc.value if original is not None and original.retain_acc is not None else None
    out: dict[str, tuple[int | None, str]] = {}
    ranked: list[tuple[str, float]] = []
    for name, row in rows.items():
        if name.lower() in ("original", "gold"):
            continue
        if row.u_lira is None or row.retain_acc is None:
            out[name] = (None, "U-LIRA or retain accuracy not measured")
        elif not whole:
            out[name] = (None, "no original to judge retain by")
        elif row.retain_acc.value < KEPT_SHARE * whole - 1e-9:
            out[name] = (None, f"keeps {100 * row.retain_acc.value / whole:.0f}% of retain")
        else:
            ranked.append((name, round(abs(row.u_lira.value - 0.5), 3)))
    ranks = competition([d for _, d in ranked])
    return out | {name: (rank, "") for (name, _), rank in zip(ranked, ranks, strict=True)}


def vision_table(rows: Mapping[str, Vision], title: str, key: str) -> Table:
    """The leaderboard of attack.json."""
    ranks = vision_ranks(rows)
    order = sorted(ranks, key=lambda n: (ranks[n][0] is None, ranks[n][0] or 0, n))
    anchors = [name for name in rows if name not in ranks]
    body = []
    for name in (*order, *anchors):
        row, (rank, why) = rows[name], ranks.get(name, (None, ""))
        first = Cell(str(rank), kind="number") if rank else gap("not ranked" if why else "–")
        cells = [vision_cell(v) for v in (row.u_lira, row.u_mia, row.forget_acc, row.holdout_acc, row.retain_acc)]
        body.append(Row((Cell(name, why), first, *cells), grey=bool(why), rule=bool(anchors) and name == anchors[0]))
    note = (
        "Ranked by how near the accuracy of U-LIRA comes to .5, which is chance; methods below 80% of the original's "
        "retain accuracy are grey and not ranked. Equal figures (three decimals) share a rank."
    )
    return Table(
        key,
        title,
        ("Method", "rank", "U-LIRA", "U-MIA", "forget", "holdout", "retain"),
        tuple(body),
        groups=(("", 2), ("Attack accuracy", 2), ("Identification accuracy", 3)),
        notes=(note,),
    )


def vision_cell(value: Share | None) -> Cell:
    """A share of attack.json with its interval."""
    if value is None:
        return gap()
    small = "" if value.low is None or value.high is None else f"{number(value.low)} to {number(value.high)}"
    return Cell(number(value.value), small, "number")
