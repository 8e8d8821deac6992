"""What a report says, gathered once, so that the HTML page and the Markdown file cannot disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clear_dist.metrics.interval import Estimate
from clear_dist.report.blocks import Block, evidence, limits, truth_ratio_block
from clear_dist.report.cells import Cell, Row, Table, measured, notes_of, text
from clear_dist.report.draw import Image
from clear_dist.report.figures import bars, curves
from clear_dist.report.run import RunData
from clear_dist.report.samples import Group, sample_groups
from clear_dist.report.subject import subjects_of
from clear_dist.report.verdict import Verdict, cautions, judge
from clear_dist.report.words import GROUPS, METRICS, SETS, quality_caution, quality_line, quality_power


@dataclass(frozen=True)
class Facts:
    """A titled list of names and values on how the run was made."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class View:
    """Everything the report of one run shows. blocks: evidence, numbers and training, in the order they are shown."""

    name: str
    models: tuple[str, ...]
    candidate: str | None
    verdict: Verdict
    cautions: tuple[str, ...]
    gaps: tuple[str, ...]
    limits: tuple[str, ...]
    people: tuple[int, int]
    blocks: tuple[Block, ...]
    samples: tuple[Group, ...]
    command: str | None
    facts: tuple[Facts, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(table for block in self.blocks for table in block.tables)

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for block in self.blocks for image in block.images)


def _counts(values: Iterable[Estimate | None]) -> str:
    """Examples behind figures: one number, or all of them where models differ."""
    return ", ".join(map(str, sorted({v.n for v in values if v is not None})))


def _set_table(run: RunData, set_name: str, title: str) -> Table | None:
    rows, every = [], []
    for metric, words in METRICS.items():
        by_group = {g: [run.estimate(m, set_name, g, metric) for m in run.models] for g in GROUPS}
        both = all(any(v is not None for v in by_group[g]) for g in ("text", "visual"))
        for group, values in by_group.items():
            repeated = group == "all" and not both  # "all" says nothing new where there is one modality only
            if any(v is not None for v in values) and not repeated:
                every += values
                cells = (text(words), text(GROUPS[group]), *map(measured, values), Cell(_counts(values), kind="number"))
                rows.append(Row(cells, rule=bool(rows) and rows[-1].cells[0].text != words))
    head = ("Metric", "On", *run.models, "n")
    return Table(f"set-{set_name}", title, head, tuple(rows), heads=2, notes=notes_of(every)) if rows else None


def _overall(run: RunData) -> Table | None:
    rows, every = [], []
    for key, words in (("model_utility", "Model utility"), ("real_metric", "Real metric")):
        values = [Estimate.of(run.summary["models"][m].get(key)) for m in run.models]
        if any(v is not None for v in values):
            every += values
            cells = (text(words), text(GROUPS["all"]), *map(measured, values), Cell(_counts(values), kind="number"))
            rows.append(Row(cells))
    head = ("Metric", "On", *run.models, "n")
    return Table("overall", "Over all sets", head, tuple(rows), heads=2, notes=notes_of(every)) if rows else None


def flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested objects as dotted names with values as text; lists of plain values stay on one line."""
    if isinstance(value, Mapping):
        return [pair for k, v in value.items() for pair in flatten(v, f"{name}.{k}" if name else str(k))]
    if isinstance(value, list) and any(isinstance(v, Mapping | list) for v in value):
        return [pair for i, v in enumerate(value) for pair in flatten(v, f"{name}[{i}]")]
    if isinstance(value, list):
        return [(name, ", ".join(map(str, value)))]
    if isinstance(value, bool) or value is None:
        return [(name, {True: "yes", False: "no", None: "not set"}[value])]
    return [(name, f"{value:.6g}" if isinstance(value, float) else str(value))]


_TITLES = {"config": "Settings", "seconds": "Seconds", "versions": "Versions", "seeds": "Seeds", "digests": "Digests"}


def facts_of(run: RunData) -> tuple[Facts, ...]:
    return facts_from(run.facts, run.summary.get("seconds") or {})


def facts_from(facts: Mapping[str, Any], seconds: Mapping[str, Any] | None = None) -> tuple[Facts, ...]:
    """The content of run.json as titled lists; ``seconds``: more times to list with its own."""
    plain = [
        p for k, v in facts.items() if k not in ("v", "command") and not isinstance(v, Mapping) for p in flatten(v, k)
    ]
    out = [Facts("Run", tuple(plain))]
    nested = {k: v for k, v in facts.items() if isinstance(v, Mapping)}
    if seconds:
        nested["seconds"] = {**nested.get("seconds", {}), **seconds}
    # Settings are long: they come last.
    for key in sorted(nested, key=lambda k: k == "config"):
        out.append(Facts(_TITLES.get(key, key.replace("_", " ").capitalize()), tuple(flatten(nested[key]))))
    return tuple(f for f in out if f.rows)


def _people(run: RunData) -> tuple[int, int]:
    """Different people in the records of the forget and the retain set."""
    forget, retain = ({r.person for r in run.records if r.set == s and r.person} for s in ("forget", "retain"))
    return len(forget), len(retain)


def _quality_notes(run: RunData) -> list[str]:
    qualities = {m: run.summary["models"][m].get("forget_quality") for m in run.models if m != "gold"}
    lines = [f"{m}: {line}" for m, q in qualities.items() if (line := quality_line(q)) is not None]
    judged = qualities.get(run.candidate or "") or next((q for q in qualities.values() if q), None)
    if caution := quality_caution(judged):
        lines.append(caution)
    if power := quality_power(judged):
        lines.append(power)
    return lines


def view(run: RunData) -> View:
    verdict = judge(run.summary, run.candidate)
    command = run.facts.get("command")
    subjects = subjects_of(run)
    found = evidence(subjects, several=False)
    sets = (_set_table(run, name, title) for name, title in SETS.items())
    drawn = bars(run)
    numbers = Block(
        "numbers",
        "All numbers",
        "Averages over examples with 95% intervals below them; n is the number of examples. What was not measured is "
        "said to be so, and is never zero.",
        () if drawn is None else (drawn,),
        tuple(table for table in (*sets, _overall(run)) if table is not None),
    )
    training = Block(
        "training", "Training", "Loss, its parts, learning rate and gradient norm.", tuple(curves(run.steps))
    )
    blocks = (*found, numbers, truth_ratio_block(subjects, _quality_notes(run)), training)
    return View(
        name=run.name,
        models=tuple(run.models),
        candidate=run.candidate,
        verdict=verdict,
        cautions=tuple(cautions(run.summary, verdict)) if run.candidate else (),
        gaps=run.gaps,
        limits=tuple(limits(subjects, found)),
        people=_people(run),
        blocks=tuple(block for block in blocks if block),
        samples=tuple(sample_groups(run)),
        command=command if isinstance(command, str) else None,
        facts=facts_of(run),
    )
