"""What a report says, gathered once, so that the HTML page and the Markdown file cannot disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clear_dist.metrics.interval import Estimate
from clear_dist.report.figures import Image, bars, curves
from clear_dist.report.run import RunData
from clear_dist.report.samples import Group, sample_groups
from clear_dist.report.verdict import Verdict, cautions, judge
from clear_dist.report.words import GROUPS, METRICS, SETS, quality_caution, quality_line


@dataclass(frozen=True)
class Row:
    """A line of the table of all numbers; values follow the view's models, absent is None."""

    metric: str
    group: str
    values: tuple[Estimate | None, ...]

    @property
    def n(self) -> str:
        """Examples behind the figures: one number, or all of them where models differ."""
        counts = sorted({v.n for v in self.values if v is not None})
        return ", ".join(map(str, counts))


def footnotes(rows: Iterable[Row]) -> list[str]:
    """The different notes of a table's figures, for its foot."""
    return list(dict.fromkeys(v.note for row in rows for v in row.values if v is not None and v.note))


@dataclass(frozen=True)
class Section:
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Facts:
    """A titled list of names and values on how the run was made."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class View:
    """Everything a report shows. overall: model utility and the Real metric; quality: model -> its line."""

    name: str
    models: tuple[str, ...]
    candidate: str | None
    verdict: Verdict
    cautions: tuple[str, ...]
    gaps: tuple[str, ...]
    people: tuple[int, int]
    sections: tuple[Section, ...]
    overall: tuple[Row, ...]
    quality: tuple[tuple[str, str], ...]
    quality_caution: str | None
    bars: Image | None
    curves: tuple[Image, ...]
    samples: tuple[Group, ...]
    command: str | None
    facts: tuple[Facts, ...]


def _sections(run: RunData) -> tuple[Section, ...]:
    out = []
    for set_name, title in SETS.items():
        rows = []
        for metric, words in METRICS.items():
            by_group = {g: tuple(run.estimate(m, set_name, g, metric) for m in run.models) for g in GROUPS}
            both = all(any(v is not None for v in by_group[g]) for g in ("text", "visual"))
            for group, values in by_group.items():
                repeated = group == "all" and not both  # "all" says nothing new where there is one modality only
                if any(v is not None for v in values) and not repeated:
                    rows.append(Row(words, GROUPS[group], values))
        if rows:
            out.append(Section(title, tuple(rows)))
    return tuple(out)


def _overall(run: RunData) -> tuple[Row, ...]:
    rows = []
    for key, words in (("model_utility", "Model utility"), ("real_metric", "Real metric")):
        values = tuple(Estimate.of(run.summary["models"][m].get(key)) for m in run.models)
        if any(v is not None for v in values):
            rows.append(Row(words, GROUPS["all"], values))
    return tuple(rows)


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


def _facts(run: RunData) -> tuple[Facts, ...]:
    plain = [
        p
        for k, v in run.facts.items()
        if k not in ("v", "command") and not isinstance(v, Mapping)
        for p in flatten(v, k)
    ]
    out = [Facts("Run", tuple(plain))]
    nested = {k: v for k, v in run.facts.items() if isinstance(v, Mapping)}
    if run.summary.get("seconds"):
        nested["seconds"] = {**nested.get("seconds", {}), **run.summary["seconds"]}
    # Settings are long: they come last.
    for key in sorted(nested, key=lambda k: k == "config"):
        out.append(Facts(_TITLES.get(key, key.replace("_", " ").capitalize()), tuple(flatten(nested[key]))))
    return tuple(f for f in out if f.rows)


def _people(run: RunData) -> tuple[int, int]:
    """Different people in the records of the forget and the retain set."""
    forget, retain = ({r.person for r in run.records if r.set == s and r.person} for s in ("forget", "retain"))
    return len(forget), len(retain)


def view(run: RunData) -> View:
    verdict = judge(run.summary, run.candidate)
    qualities = {m: run.summary["models"][m].get("forget_quality") for m in run.models if m != "gold"}
    lines = {m: line for m, q in qualities.items() if (line := quality_line(q)) is not None}
    judged = qualities.get(run.candidate or "") or next(iter(q for q in qualities.values() if q), None)
    command = run.facts.get("command")
    return View(
        name=run.name,
        models=tuple(run.models),
        candidate=run.candidate,
        verdict=verdict,
        cautions=tuple(cautions(run.summary, verdict)) if run.candidate else (),
        gaps=run.gaps,
        people=_people(run),
        sections=_sections(run),
        overall=_overall(run),
        quality=tuple(lines.items()),
        quality_caution=quality_caution(judged),
        bars=bars(run),
        curves=tuple(curves(run.steps)),
        samples=tuple(sample_groups(run)),
        command=command if isinstance(command, str) else None,
        facts=_facts(run),
    )
