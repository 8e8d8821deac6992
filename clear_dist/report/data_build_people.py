"""Sections on a build's people and faces: what was found out, how surely, and who has which face."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from clear_dist.report.cells import Cell, Row, Table, gap, plain_number, share, text
from clear_dist.report.data_build_rows import ATTRIBUTES, Attribute, BuildData, Face, Person
from clear_dist.report.data_figures import Trait, against_image, people_image
from clear_dist.report.data_pieces import Look, Section, several
from clear_dist.report.draw import Image

LISTED = 12  # rows of a table of what needs a look, and names of a list
LONGEST = 240  # characters of a text from outside in a cell
FIELDS = (*ATTRIBUTES, "books")


def cut(words: str) -> str:
    """A text on one line, short enough for a cell."""
    words = " ".join(words.split())
    return words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"


def listed(names: Sequence[str]) -> str:
    """``A, B, C and 5 more``."""
    more = len(names) - LISTED
    return ", ".join(cut(name) for name in names[:LISTED]) + (f" and {more:,} more" if more > 0 else "")


def number(value: int) -> Cell:
    return Cell(f"{value:,}", kind="number")


def with_rest(key: str, title: str, head: tuple[str, ...], rows: Sequence[Row]) -> Table:
    """A table of the first rows; its foot counts the others."""
    rest = len(rows) - LISTED
    more = (f"{rest:,} more are in the stage's file.",) if rest > 0 else ()
    return Table(key, title, head, tuple(rows[:LISTED]), notes=more)


def looks(title: str, rows: Sequence[tuple[str, str, str]]) -> tuple[Look, ...]:
    """A list of the first rows, and how many there are besides; none where there are no rows."""
    return (Look(title, tuple(rows[:LISTED]), max(0, len(rows) - LISTED)),) if rows else ()


def people_told(people: Sequence[Person]) -> str:
    return f"{several(len(people), 'person', 'people')} from {several(sum(p.rows for p in people), 'question')}."


def people_block(people: Sequence[Person]) -> Section:
    image = people_image([trait_of(person) for person in people])
    notes = []
    if ageless := [person.name for person in people if person.age is None]:
        notes.append(f"Age unknown, {len(ageless):,}: {listed(ageless)}. Such a person may get a face of any age.")
    if invented := [person.name for person in people if "name" in person.invented]:
        notes.append(f"Name made up, {len(invented):,}: {listed(invented)}.")
    for words, lists in (
        ("the table", [person.corrected for person in people]),
        ("made up", [person.invented for person in people]),
    ):
        others = Counter(name for names in lists for name in names if name not in FIELDS)
        notes += [f"{cut(name)}, {words}: {several(count, 'person', 'people')}." for name, count in others.items()]
    return Section(
        "people",
        "People",
        "Who is in the text, and what it says about them. What your table gives counts more than what was found.",
        () if image is None else (image,),
        (_attributes(people),),
        tuple(notes),
        looks=_least_sure(people),
    )


def _attributes(people: Sequence[Person]) -> Table:
    rows = []
    for name in FIELDS:
        given = {person.number for person in people if name in person.corrected}
        invented = {person.number for person in people if name in person.invented} - given
        found = [p for p in people if p.number not in given | invented and _values(p, name)]
        sure = [value.confidence for person in found for value in _values(person, name)]
        missing = len(people) - len(given) - len(invented) - len(found)
        rows.append(
            Row(
                (
                    text(name.replace("_", " ")),
                    *(number(n) for n in (len(found), len(given), len(invented), missing)),
                    share(statistics.median(sure)) if sure else gap("none found"),
                    share(min(sure)) if sure else gap("none found"),
                )
            )
        )
    head = ("Attribute", "From the text", "From your table", "Made up", "Missing", "Confidence, median", "Least")
    return Table("attributes", "Where attributes come from, in numbers of people", head, tuple(rows))


def _values(person: Person, name: str) -> list[Attribute]:
    every = person.books if name == "books" else (person.found[name],)
    return [value for value in every if value.value is not None]


def _least_sure(people: Sequence[Person]) -> tuple[Look, ...]:
    doubts = [
        (value.confidence, person, name, value)
        for person in people
        for name in FIELDS
        if name not in (*person.corrected, *person.invented)
        for value in _values(person, name)
        if value.confidence < 1
    ]
    doubts.sort(key=lambda doubt: (doubt[0], doubt[1].number))
    rows = [
        (
            person.name,
            f"{name.replace('_', ' ')}: {cut(value.value or '')}",
            f"Confidence {share(confidence).text}. "
            + (cut(value.evidence) if value.line is None else f"Line {value.line:,}: {cut(value.evidence)}"),
        )
        for confidence, person, name, value in doubts
    ]
    return looks("Least sure: look at these first", rows)


def trait_of(person: Person) -> Trait:
    return Trait(person.age, person.found["gender"].value, person.found["group"].value)


def faces_told(data: BuildData) -> str:
    faces = data.faces or ()
    draws = len({face.draw for face in faces})
    moved = f"; {several(len(data.shifts), 'face')} made older or younger" if data.shifts else ""
    return f"{several(len(faces), 'face')}, the best of {several(draws, 'draw')}{moved}."


def faces_block(data: BuildData) -> Section:
    faces = data.faces or ()
    scores = sorted(face.score for face in faces)
    rows = [
        Row((text("score"), plain_number(scores[0]), plain_number(statistics.median(scores)), plain_number(scores[-1])))
    ]
    if ages := sorted(face.age for face in faces if face.age is not None):
        rows.append(
            Row((text("age, years"), number(ages[0]), plain_number(statistics.median(ages), 0), number(ages[-1])))
        )
    unknown = [
        f"{part}, {count:,}"
        for part in ("age", "gender", "group")
        if (count := sum(getattr(face, part) is None for face in faces))
    ]
    shifts = [Row((text(cut(one.before)), text(cut(one.after)), _signed(one.years))) for one in data.shifts or ()]
    table = with_rest("shifts", "Faces made older or younger", ("Before", "After", "Years"), shifts)
    return Section(
        "faces",
        "Faces",
        "A pool of faces that belong to nobody. Of each draw the best by score are kept; where an age is missing, "
        "the nearest face is made older or younger, and takes the place of the one it was made of.",
        tables=(
            Table("pool", "The pool", ("", "Least", "Median", "Most"), tuple(rows)),
            *((table,) if shifts else ()),
        ),
        notes=(f"Faces of which something is unknown: {'; '.join(unknown)}. They fit everybody half.",)
        if unknown
        else (),
    )


def _signed(years: int) -> Cell:
    return Cell(f"{years:+d}".replace("-", "−"), kind="number")


def matching_told(data: BuildData) -> str:
    matches, balance = data.matches, data.balance
    said = [] if matches is None else [f"{several(len(matches), 'person has a face', 'people have a face')}."]
    if balance is not None:
        each = f", {balance.total / len(matches):.2f} a person" if matches else ""
        said.append(f"The cost is {balance.total:.2f} in all{each}.")
    return " ".join(said)


def matching_block(data: BuildData) -> Section:
    balance = data.balance
    dear = sorted((m for m in data.matches or () if m.cost > 0), key=lambda m: (-m.cost, m.name))
    rows = [
        Row(
            (
                text(cut(m.name)),
                text(cut(m.face)),
                *(plain_number(cost) for cost in (m.age, m.gender, m.group, m.cost)),
                number(m.others),
                text(", ".join(map(cut, m.relaxed)) or "nothing"),
            )
        )
        for m in dear
    ]
    head = ("Person", "Face", "Age", "Gender", "Group", "Cost", "As good", "Given up")
    tables = [with_rest("dearest", "Faces that fit least", head, rows)] if rows else []
    notes = []
    if balance is not None:
        short = [
            Row(
                (
                    text(f"{cut(one.gender)}, {cut(one.group).replace('_', ' ')}"),
                    *(number(n) for n in (one.people, one.faces, one.people - one.faces)),
                    text(", ".join(f"{cut(what)} of {n:,}" for what, n in one.relaxed.items()) or "nothing"),
                )
            )
            for one in balance.shortages
        ]
        head = ("Gender and group", "People", "Faces", "Short by", "Given up")
        tables += [with_rest("shortages", "More people than faces", head, short)] if short else []
        if balance.ties:
            notes.append(
                f"Ties, {len(balance.ties):,}: {listed(balance.ties)}. For each of them another matching of the same "
                "cost has another face; the first by id was taken."
            )
    return Section(
        "matching",
        "Matching",
        "People and faces one to one, at the least cost: a tenth for each year that ages differ, and weights for "
        "another gender or group. Half of a weight counts where one side is unknown.",
        tables=tuple(tables),
        notes=tuple(notes),
    )


def against_block(data: BuildData) -> Section:
    """Figure 4 of the paper; empty where people or faces are missing."""
    people = [trait_of(person) for person in data.people or ()]
    pool = data.pool()
    matched = [pool[match.face] for match in data.matches or () if match.face in pool]
    lost = len(data.matches or ()) - len(matched)
    whole, used = several(len(pool), "face"), several(len(matched), "matched face")
    images: Iterable[Image | None] = (
        against_image("against-pool", "People beside the whole pool of faces", people, _traits(pool.values()), whole),
        against_image("against-matched", "People beside the faces matched with them", people, _traits(matched), used),
    )
    note = f"{several(lost, 'matched face is', 'matched faces are')} not in faces.jsonl, and missing in the figure."
    return Section(
        "against",
        "Faces against people",
        "Figure 4 of the paper. Apart: the share of one side that would have to be different for both to be alike. "
        "Matching cannot give what the pool lacks.",
        tuple(image for image in images if image is not None),
        notes=(note,) if lost and people else (),
    )


def _traits(faces: Iterable[Face]) -> list[Trait]:
    return [Trait(face.age, face.gender, face.group) for face in faces]
