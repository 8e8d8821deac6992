"""The report in Markdown: the same tables as the page, for a terminal, a review or a repository."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from clear_dist.report.blocks import Block
from clear_dist.report.cells import Cell, Table
from clear_dist.report.draw import Image
from clear_dist.report.samples import Group
from clear_dist.report.verdict import FORGET_MARGIN, RETAIN_MARGIN, Check
from clear_dist.report.view import View
from clear_dist.report.words import clean, interval, number

_STATES = {"met": "met", "missed": "**missed**", "unknown": "not judged"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~!&$])")


def escape(text: object) -> str:
    """Text that Markdown and the HTML inside it leave alone, on one line (fit for a table cell)."""
    return _SPECIAL.sub(r"\\\1", " ".join(clean(str(text)).split())).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _cell(cell: Cell) -> str:
    star = r"\*" if cell.star else ""
    return escape(cell.text) + star + (f" ({escape(cell.small)})" if cell.small else "")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Cells must be escaped already."""
    first = list(head)
    lines = [first, ["---"] * len(first), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def table(content: Table, level: int = 3) -> list[str]:
    """A table with its title and notes; the titles above columns stand before each column's own."""
    head = [
        escape(f"{group}: {title}" if (group := content.group_of(i)) and title else title or group)
        for i, title in enumerate(content.head)
    ]
    lines = [
        f"{'#' * level} {escape(content.title)}",
        "",
        *_table(head, ([_cell(c) for c in r.cells] for r in content.rows)),
    ]
    return [*lines, *(f"{escape(note)}\n" for note in content.notes)]


def figure(image: Image) -> list[str]:
    """A link to the file beside this one, and the numbers behind it."""
    shown = f"![{escape(image.alt)}](figures/{image.name}.png)"
    return [shown, "", escape(image.title), "", *(table(image.numbers, 4) if image.numbers else [])]


def block(content: Block) -> list[str]:
    out = [f"## {content.title}", "", escape(content.intro), ""]
    drawn = [line for image in content.images for line in figure(image)]
    told = [line for one in content.tables for line in table(one)]
    out += told + drawn if content.tables_first else drawn + told
    return [*out, *(f"* {escape(note)}" for note in content.notes), *([""] if content.notes else [])]


def notes(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"* {escape(note)}" for note in lines), ""] if lines else []


def samples(groups: Sequence[Group]) -> list[str]:
    out = ["## Sample answers", ""] if groups else []
    for group in groups:
        rows = []
        for sample in group.samples:
            for answer in sample.answers:
                mark = answer.mark or ("" if answer.rouge is None else f"ROUGE-L {answer.rouge}")
                mark = ", ".join(filter(None, (mark, answer.label)))
                said = "nothing recorded" if answer.text is None else escape(answer.text)
                rows.append([escape(sample.prompt), escape(sample.expected), escape(answer.model), said, escape(mark)])
        out += [f"### {group.title}", "", f"({group.hint})", ""]
        out += _table(["question", "expected", "model", "answer", ""], rows)
    return out


def _check(check: Check) -> list[str]:
    sign = "at most" if check.aim == "forget" else "at least"
    limit = "unknown" if check.limit is None else f"{sign} {number(check.limit)}"
    state = _STATES[check.state] + (" (could be chance)" if check.unsure else "")
    three = (
        "not measured" if v is None else f"{number(v.value)} ({interval(v)})"
        for v in (check.original, check.unlearned, check.gold)
    )
    return [check.title, *three, limit, state]


def markdown(view: View) -> str:
    """The file of one run. Every text that comes from data or a model is escaped."""
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
    out += notes("To bear in mind", view.cautions) + notes("Absent", view.gaps)
    out += notes("What this report does not show", view.limits)
    for one in view.blocks:
        out += block(one)
    out += samples(view.samples)
    if view.command is not None or view.facts:
        out += ["## How it was made", ""]
    if view.command is not None:
        out += ["    " + " ".join(clean(view.command).split()), ""]
    for facts in view.facts:
        rows = [[escape(k), escape(v)] for k, v in facts.rows]
        out += [f"### {escape(facts.title)}", "", *_table(["", ""], rows)]
    return "\n".join(out).rstrip() + "\n"
