"""The report in Markdown: the same numbers as the page, for a terminal, a review or a repository."""

from __future__ import annotations

import re

from clear_dist.metrics.interval import Estimate
from clear_dist.report.verdict import FORGET_MARGIN, RETAIN_MARGIN, Check
from clear_dist.report.view import Row, Section, View, footnotes
from clear_dist.report.words import interval, number

_STATES = {"met": "met", "missed": "**missed**", "unknown": "not judged"}
STAR = r"\*"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~!&$])")


def escape(text: object) -> str:
    """Text that Markdown and the HTML inside it leave alone, on one line (fit for a table cell)."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split())).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _cell(value: Estimate | None) -> str:
    if value is None:
        return "absent"
    return f"{number(value.value)}{STAR if value.note else ''} ({interval(value)})"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Cells must be escaped already."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def _check(check: Check) -> list[str]:
    sign = "at most" if check.aim == "forget" else "at least"
    limit = "unknown" if check.limit is None else f"{sign} {number(check.limit)}"
    state = _STATES[check.state] + (" (could be chance)" if check.unsure else "")
    return [check.title, *map(_cell, (check.original, check.unlearned, check.gold)), limit, state]


def _row(row: Row) -> list[str]:
    return [row.metric, row.group, *map(_cell, row.values), row.n]


def markdown(view: View) -> str:
    """The whole file. Every text that comes from data or a model is escaped."""
    models = [escape(m) for m in view.models]
    out = [f"# Unlearning report: {escape(view.name)}", "", f"**{view.verdict.headline}**", ""]
    out += [*view.verdict.details, ""] if view.verdict.details else []
    out += ["## Headline", ""]
    out += _table(
        ["", "original", escape(view.candidate or "unlearned"), "gold", "limit", "limit is"],
        [_check(c) for c in view.verdict.checks],
    )
    out += [
        f"Forgotten: at most {FORGET_MARGIN:g} above gold. Kept: at most {RETAIN_MARGIN:g} below the original. "
        "In brackets: 95% intervals.",
        "",
    ]
    for title, notes in (("To bear in mind", view.cautions), ("Absent", view.gaps)):
        if notes:
            out += [f"## {title}", "", *(f"* {escape(note)}" for note in notes), ""]
    if view.quality:
        out += ["## Forget quality", "", *(f"* {escape(m)}: {line}" for m, line in view.quality), ""]
        out += [view.quality_caution, ""] if view.quality_caution else []
    out += ["## All numbers", ""]
    tables = [*view.sections, *([Section("Over all sets", view.overall)] if view.overall else [])]
    for section in tables:
        rows = [_row(r) for r in section.rows]
        out += [f"### {section.title}", "", *_table(["metric", "on", *models, "n"], rows)]
        out += [f"{STAR} {escape(note)}\n" for note in footnotes(section.rows)]
    if view.samples:
        out += ["## Sample answers", ""]
    for group in view.samples:
        rows = []
        for sample in group.samples:
            for answer in sample.answers:
                mark = answer.mark or ("" if answer.rouge is None else f"ROUGE-L {answer.rouge}")
                text = "nothing recorded" if answer.text is None else escape(answer.text)
                rows.append([escape(sample.prompt), escape(sample.expected), escape(answer.model), text, mark])
        out += [f"### {group.title}", "", f"({group.hint})", ""]
        out += _table(["question", "expected", "model", "answer", ""], rows)
    if view.command is not None or view.facts:
        out += ["## How it was made", ""]
    if view.command is not None:
        out += ["    " + " ".join(view.command.split()), ""]
    for facts in view.facts:
        rows = [[escape(k), escape(v)] for k, v in facts.rows]
        out += [f"### {escape(facts.title)}", "", *_table(["", ""], rows)]
    return "\n".join(out).rstrip() + "\n"
