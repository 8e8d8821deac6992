"""Whom to forget, and what of them is left in the retain set."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from clear_dist.data.rows import Row, TextRow, VisualRow
from clear_dist.types import UserError

_SHOWN = 5  # rows named in a finding; the rest is counted


def choose(rows: Sequence[Row], names: str | None, file: Path | None) -> list[str]:
    """The people to forget, by ``names`` ("A;B") or by ``file``: a name or a row id a line, # starts a comment.

    A row id (``full+tofu/12``, or the bare number 12) stands for the person that row is about: a person is
    forgotten whole. Names are compared without regard to case. Raises UserError: nobody named, a name that is
    nobody's (with the nearest ones), nobody left to retain.
    """
    assert (names is None) != (file is None)
    if names is not None:
        entries = [(f"--forget-names, entry {i}", entry) for i, entry in enumerate(names.split(";"), 1)]
    else:
        assert file is not None
        entries = _file_entries(file)
    people = list(dict.fromkeys(row.person for row in rows))
    by_name = {_plain(person): person for person in people}
    by_id = {row.id: row.person for row in rows}
    chosen: dict[str, None] = {}
    for where, entry in entries:
        text = entry.strip()
        if not text:
            continue
        ids = (text, f"full+tofu/{text}", f"full/{text}")
        person = by_name.get(_plain(text)) or next((by_id[i] for i in ids if i in by_id), None)
        if person is None:
            near = difflib.get_close_matches(_plain(text), by_name, n=3, cutoff=0.5)
            hint = (
                f"Nearest: {', '.join(by_name[n] for n in near)}." if near else f"There are {', '.join(people[:5])} …"
            )
            raise UserError(f"{where}: nobody here is called {text!r}, and no row has that id. {hint}")
        chosen[person] = None
    if not chosen:
        raise UserError(
            '--forget-names or --forget-file names nobody. Expected names such as "A;B", or a file of names.'
        )
    if len(chosen) == len(people):
        raise UserError(f"All {len(people)} people are to be forgotten: nobody is left to retain. Name fewer.")
    return [person for person in people if person in chosen]


def refuse_overlap(forget: Sequence[Row], retain: Sequence[Row]) -> None:
    """Raises UserError, naming rows, where a person is in both sets: such a split contradicts itself."""
    forgotten = _by_person(forget)
    retained = _by_person(retain)
    both = [person for person in forgotten if person in retained]
    if not both:
        return
    person = both[0]
    raise UserError(
        f"A forget split with people in retain: {len(both)} in both ({_some(both)}). {person}: "
        f"{_some([r.id for r in forgotten[person]])} in forget, {_some([r.id for r in retained[person]])} in retain. "
        "Move a person's rows to one side, or name the people with --forget-names and let retain be the rest."
    )


def leakage(forget: Sequence[Row], retain: Sequence[Row]) -> list[str]:
    """What the retain set still gives away of the forget set, one finding a line; empty when nothing does.

    The same picture on both sides, the same question on both sides, a forgotten name in a retained text (as whole
    words, in any case).
    """
    findings: list[str] = []
    pictures: defaultdict[str, list[VisualRow]] = defaultdict(list)
    questions: defaultdict[str, list[TextRow]] = defaultdict(list)
    for row in retain:
        if isinstance(row, VisualRow):
            pictures[row.picture.digest].append(row)
        else:
            questions[_plain(row.question)].append(row)
    for row in forget:
        if isinstance(row, VisualRow):
            others = pictures.get(row.picture.digest)
            if others:
                people = _some(sorted({o.person for o in others}))
                findings.append(f"{row.id}: the picture of {row.person} is also in retain, as {people}: {_ids(others)}")
        elif others := questions.get(_plain(row.question)):
            findings.append(f"{row.id}: the question {row.question!r} is also in retain: {_ids(others)}")
    names = list(dict.fromkeys(row.person for row in forget))
    mentions: defaultdict[str, list[Row]] = defaultdict(list)
    finder = _name_finder(names)
    spelled = {_plain(name): name for name in names}
    for row in retain:
        found = {_plain(match) for text in row.texts for match in finder.findall(unicodedata.normalize("NFC", text))}
        for name in found:
            mentions[spelled[name]].append(row)
    findings += [
        f"{name}: named in {len(mentions[name])} retain rows: {_ids(mentions[name])}"
        for name in names
        if name in mentions
    ]
    return findings


def draw_holdout(people: Sequence[str], count: int, seed: int) -> list[str]:
    """``count`` of the retained people, by the seed alone. Raises UserError where nobody would be left."""
    if count < 0 or (count and count >= len(people)):
        raise UserError(f"holdout: {count} of {len(people)} retain people. Expected 0 to {max(len(people) - 1, 0)}.")
    drawn = np.random.default_rng([seed, 0x401D]).permutation(len(people))[:count]
    return [people[int(i)] for i in np.sort(drawn)]


def _file_entries(file: Path) -> list[tuple[str, str]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--forget-file {file}: cannot be read ({error}). Expected a text file, a name a line."
        ) from error
    return [(f"{file.name}, line {i}", line.partition("#")[0]) for i, line in enumerate(lines, 1)]


def _plain(text: str) -> str:
    """For comparing: one spelling of accents, no case, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _name_finder(names: Iterable[str]) -> re.Pattern[str]:
    # Longest first, so that of two names the one that contains the other is found.
    words = sorted((unicodedata.normalize("NFC", name).split() for name in names), key=lambda w: -len(" ".join(w)))
    spelled = "|".join(r"\s+".join(re.escape(word) for word in name) for name in words)
    return re.compile(rf"(?<!\w)(?:{spelled})(?!\w)" if spelled else r"(?!)", re.IGNORECASE)


def _by_person(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.person].append(row)
    return found


def _ids(rows: Sequence[Row]) -> str:
    return _some([row.id for row in rows])


def _some(items: Sequence[str]) -> str:
    shown = ", ".join(items[:_SHOWN])
    return shown if len(items) <= _SHOWN else f"{shown} and {len(items) - _SHOWN} more"
