"""Paraphrases, wrong captions, wrong names and options: there, of the right row, and really wrong or really right."""

from __future__ import annotations

from clear_dist.data.rows import VisualRow

from .findings import Report
from .layout import Tables, place


def check_companions(tables: Tables, report: Report) -> None:
    for forget in tables.splits:
        name = f"{forget}_perturbed"
        if name in tables.visual:
            _each(name, tables.visual[name], tables.visual.get(forget, []), report)
            _complete(name, tables.visual[name], forget, tables.visual.get(forget, []), report)
    if "retain_perturbed" in tables.visual:
        rows = tables.visual["retain_perturbed"]
        _each("retain_perturbed", rows, tables.visual.get("full", []), report)
        forgotten = {row.person for forget in tables.splits for row in tables.visual.get(forget, ())}
        for row in rows:
            if row.person in forgotten:
                report.add(
                    "companion-foreign",
                    place(row.id),
                    f"{row.person} is to be forgotten, and stands in retain_perturbed",
                )


def _each(name: str, rows: list[VisualRow], source: list[VisualRow], report: Report) -> None:
    del name
    known = {(row.picture.digest, row.caption): row.person for row in source}
    usual = max((len(row.perturbed) for row in rows), default=0)
    for row in rows:
        where, own = place(row.id), row.person.casefold()
        person = known.get((row.picture.digest, row.caption))
        if person is None:
            report.add("companion-foreign", where, "no row of its split has this picture and caption")
        elif person != row.person:
            report.add(
                "swapped-label", where, f"is {row.person} here and {person} in its split", pictures=[row.picture.digest]
            )
        if row.paraphrase is None:
            report.add("paraphrase-missing", where, "paraphrased_caption is empty")
        elif row.paraphrase == row.caption:
            report.add("paraphrase-same", where, "paraphrased_caption is the caption itself")
        elif own in row.caption.casefold() and own not in row.paraphrase.casefold():
            what = f"paraphrased_caption does not name {row.person}, the caption does"
            report.add("paraphrase-nameless", where, what, warn=True)
        if len(row.perturbed) < usual or not row.perturbed:
            report.add(
                "perturbed-missing", where, f"{len(row.perturbed)} perturbed_captions, others have {usual or 'some'}"
            )
        for wrong in row.perturbed:
            if wrong in (row.caption, row.paraphrase):
                report.add("perturbed-right", where, "a perturbed caption is the right one")


def _complete(name: str, rows: list[VisualRow], forget: str, source: list[VisualRow], report: Report) -> None:
    there = {(row.picture.digest, row.caption) for row in rows}
    for row in source:
        if (row.picture.digest, row.caption) not in there:
            # The published dataset lacks one of 379.
            report.add("companion-missing", place(row.id), f"{name} has no row for it: no truth ratio", warn=True)


def check_choices(tables: Tables, report: Report) -> None:
    fictitious = {row.person.casefold() for row in tables.visual.get("full", ())}
    for row in tables.choices:
        where = place(row.id)
        if len(row.options) < 2:
            report.add("options-missing", where, "fewer than two different options")
        if row.set == "real_faces" and row.answer.casefold() in fictitious:
            report.add("real-is-fictitious", where, f"{row.answer} is one of the people to learn")
