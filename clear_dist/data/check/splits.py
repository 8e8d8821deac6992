"""Splits: a forget split and its retain split are everybody, each once; the smaller ones lie in the larger; nothing of
the one is in the other."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from clear_dist.data.people import leakage
from clear_dist.data.rows import Row, TextRow, VisualRow

from .findings import Report
from .layout import Tables, place

Key = tuple[str, str, str]


def key(row: Row) -> Key:
    """What a row is, wherever it stands."""
    if isinstance(row, VisualRow):
        return (row.picture.digest, row.person, row.caption)
    return (row.person, row.question, row.answer)


def check_splits(tables: Tables, report: Report) -> None:
    for forget, retain in tables.splits.items():
        for suffix, source in (("", tables.visual), ("+tofu", tables.text)):
            if all(f"{name}{suffix}" in source for name in ("full", forget, retain)):
                _whole(f"{forget}{suffix}", f"{retain}{suffix}", f"full{suffix}", source, report)
        _apart(tables, forget, retain, report)
    names = list(tables.splits)
    for small, large in itertools.pairwise(names):
        for suffix, source in (("", tables.visual), ("+tofu", tables.text)):
            inside = {key(row) for row in source.get(f"{large}{suffix}", ())}
            for row in source.get(f"{small}{suffix}", ()):
                if key(row) not in inside:
                    report.add("split-not-nested", place(row.id), f"is not in {large}{suffix}, which has to hold it")


def _whole(forget: str, retain: str, full: str, source: Mapping[str, Sequence[Row]], report: Report) -> None:
    everybody = Counter(key(row) for row in source[full])
    both = Counter(key(row) for name in (forget, retain) for row in source[name])
    for name in (forget, retain):
        for row in source[name]:
            if key(row) not in everybody:
                report.add("row-changed", place(row.id), f"no row of {full} has this person, picture and text")
    for row in source[full]:
        found = both[key(row)]
        if found < everybody[key(row)]:
            report.add("row-lost", place(row.id), f"is in neither {forget} nor {retain}")
            both[key(row)] += 1
        elif found > everybody[key(row)]:
            report.add("row-twice", place(row.id), f"is {found} times in {forget} and {retain}")
            both[key(row)] -= 1


def _apart(tables: Tables, forget: str, retain: str, report: Report) -> None:
    """People, pictures, questions and names of a forget split that are in its retain split."""

    def rows(split: str) -> list[Row]:
        return [*tables.visual.get(split, ()), *tables.text.get(f"{split}+tofu", ())]

    kept = {row.person for row in rows(retain)}
    for person in dict.fromkeys(row.person for row in rows(forget)):
        if person in kept:
            first = next(row for row in rows(retain) if row.person == person)
            report.add("person-in-both", place(first.id), f"{person} is in {forget} and in {retain}")
    gone = [row for row in rows(forget) if row.person not in kept]
    for line in leakage(gone, rows(retain)):
        what, _, rest = line.partition(": ")
        kind = (
            "picture-in-both"
            if "the picture of" in rest
            else "question-in-both"
            if "the question" in rest
            else "name-leaks"
        )
        report.add(kind, place(what) if "/" in what else f"{retain}: {what}", rest)


def check_texts(tables: Tables, report: Report) -> None:
    """Questions asked twice of a person with different answers; captions that name somebody else."""
    everybody = {row.person for row in tables.visual.get("full", ())}
    for name, rows in tables.text.items():
        _contradictions(name, rows, report)
    for name, rows in tables.visual.items():
        if name.endswith("_perturbed"):
            continue
        for row in rows:
            others = [p for p in _named(row.caption, everybody) if p != row.person]
            if others and not _named(row.caption, [row.person]):
                report.add(
                    "swapped-label",
                    place(row.id),
                    f"the name is {row.person}, the caption is about {others[0]}",
                    pictures=[row.picture.digest],
                )


def _contradictions(name: str, rows: list[TextRow], report: Report) -> None:
    first: dict[tuple[str, str], TextRow] = {}
    for row in rows:
        before = first.setdefault((row.person, " ".join(row.question.casefold().split())), row)
        if before is not row:
            same = before.answer == row.answer
            what = "the same answer" if same else "another answer"
            report.add("question-twice", place(row.id), f"asks what {place(before.id)} asks, with {what}", warn=same)


def _named(text: str, people: Iterable[str]) -> list[str]:
    return [person for person in people if person.casefold() in text.casefold()]
