"""Stage 1 written down: people as lines, a table to look through and correct, and names for those without one."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from random import Random
from typing import Any, Final

from clear_dist.data.build.person import GENDERS, GROUPS, Found, Subject
from clear_dist.data.build.table import csv_rows
from clear_dist.data.mini.people import FEMININE, LAST_NAMES, MASCULINE
from clear_dist.errors import nearest
from clear_dist.types import UserError

STREAM: Final = "clear-names/1"  # part of every seed; raised when the choice of names changes
FIELDS: Final = ("name", "birth_date", "birthplace", "gender", "group", "genre")
COLUMNS: Final = ("person", "first_line", *FIELDS)
OLDEST: Final = 120
MOST_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class Listed:
    """A person as stage 1 leaves them. corrected, invented: fields that the table of people gave, or nobody."""

    subject: Subject
    corrected: tuple[str, ...] = ()
    invented: tuple[str, ...] = ()

    @property
    def first_line(self) -> int:
        return self.subject.rows[0].line

    def missing(self, year: int) -> list[str]:
        """What a face is chosen by and is not known: age, gender, group."""
        found = {"age": self.subject.age(year), "gender": self.subject.gender.value, "group": self.subject.group.value}
        return [name for name, value in found.items() if value is None]

    def known(self) -> list[object]:
        """Everything that later stages go by."""
        values = [getattr(self.subject, field).value for field in FIELDS]
        rows = [[row.line, row.question, row.answer] for row in self.subject.rows]
        return [values, [[book.value, book.line] for book in self.subject.books], rows]

    def line(self, number: int, year: int) -> dict[str, Any]:
        subject = self.subject
        return {
            "person": number,
            **{field: asdict(getattr(subject, field)) for field in FIELDS},
            "books": [asdict(book) for book in subject.books],
            "age": subject.age(year),
            "first_line": subject.rows[0].line,
            "last_line": subject.rows[-1].line,
            "rows": len(subject.rows),
            "corrected": list(self.corrected),
            "invented": list(self.invented),
        }


def table_of(people: Sequence[Listed]) -> str:
    """CSV of all people, in order, for ``--people`` after somebody has looked through it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, person in enumerate(people):
        values = [getattr(person.subject, field).value or "" for field in FIELDS]
        writer.writerow([number, person.first_line, *values])
    return out.getvalue()


def corrected(people: Sequence[Subject], path: Path | None) -> list[Listed]:
    """People with what a table says of them; an empty cell, or no row, leaves what was found.

    Raises UserError naming file, line and column: a person who is not there, a value of the wrong kind.
    """
    out = [Listed(person) for person in people]
    if path is None:
        return out
    for at, row in _table(path):
        number = row["person"]
        if not re.fullmatch(r"[0-9]{1,7}", number) or int(number) >= len(people):
            raise UserError(f"{at}: person: expected a number from 0 to {len(people) - 1}; got {number!r}.")
        known = out[int(number)]
        line = row.get("first_line")
        if line and line != str(known.first_line):
            raise UserError(
                f"{at}: first_line: {line} is not where person {number} begins ({known.first_line}). The table was "
                "made for another text; let the build write a new one, and correct that."
            )
        changes: dict[str, Found] = {}
        for field in FIELDS:
            value = " ".join((row.get(field) or "").split())
            if value and value != getattr(known.subject, field).value:
                changes[field] = Found(_checked(at, field, value), 1.0, None, f"given in {path.name}")
        out[int(number)] = Listed(replace(known.subject, **changes), tuple(changes))
    return out


def with_names(people: Sequence[Listed], *, invent: bool, taken: Sequence[str] = ()) -> list[Listed]:
    """Everybody with a name of their own.

    invent: whether those without one get a name, by their number and gender alone. taken: names that none of them may
    have. Raises UserError listing people without a name, and names that two people have.
    """
    nameless = [number for number, person in enumerate(people) if not person.subject.name.value]
    if nameless and not invent:
        some = ", ".join(f"person {n} (line {people[n].first_line})" for n in nameless[:10])
        raise UserError(
            f"no name of {some}{' ...' if len(nameless) > 10 else ''}: the text does not say it. Give it in a table "
            "with --people, or let names be invented with --unnamed invent."
        )
    used = {name.casefold() for name in taken} | {str(p.subject.name.value).casefold() for p in people}
    out = list(people)
    for number in nameless:
        person = people[number]
        name = _invented(number, person.subject.gender.value, used)
        used.add(name.casefold())
        found = Found(name, 0.0, None, "invented: the text gives no name")
        out[number] = replace(person, subject=replace(person.subject, name=found), invented=("name",))
    first: dict[str, int] = {}
    for number, person in enumerate(out):
        before = first.setdefault(str(person.subject.name.value).casefold(), number)
        if before != number:
            raise UserError(
                f"person {number} (line {person.first_line}) has the name of person {before} (line "
                f"{out[before].first_line}), {person.subject.name.value!r}: names must tell people apart. Give one of "
                "them another with --people."
            )
    return out


def check_ages(people: Sequence[Listed], year: int) -> None:
    """Raises UserError naming people whose age in that year cannot be."""
    wrong = [
        f"{person.subject.name.value} ({person.subject.birth_date.value}, line {person.first_line})"
        for person in people
        if not 0 <= (person.subject.age(year) or 0) <= OLDEST
    ]
    if wrong:
        some = ", ".join(wrong[:5]) + (" ..." if len(wrong) > 5 else "")
        raise UserError(f"born too early or too late for --year {year}: {some}. Correct them with --people.")


def _checked(at: str, field: str, value: str) -> str:
    for name, known in (("gender", GENDERS), ("group", GROUPS)):
        if field == name and value not in known:
            raise UserError(f"{at}: {field}: expected one of {', '.join(known)}; got {value!r}{nearest(value, known)}.")
    if field == "birth_date":
        part = re.fullmatch(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?", value)
        try:
            date(*(int(number or 1) for number in part.groups())) if part else date.fromisoformat("")
        except ValueError:
            raise UserError(f"{at}: birth_date: expected YYYY-MM-DD, YYYY-MM or YYYY; got {value!r}.") from None
    if field == "name" and (len(value) > 100 or not value.isprintable()):
        raise UserError(f"{at}: name: expected at most 100 characters, none of them control characters.")
    return value


def _table(path: Path) -> list[tuple[str, dict[str, str]]]:
    expected = f"a CSV table with the columns {', '.join(COLUMNS)} (person and one more at least)"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: larger than {MOST_BYTES >> 20} MiB; expected {expected}.")
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected {expected}.") from error
    rows: list[tuple[str, dict[str, str]]] = []
    seen: dict[str, str] = {}
    for at, row in csv_rows(path, text, "person", COLUMNS):
        before = seen.setdefault(row["person"], at)
        if before != at:
            raise UserError(f"{at}: person {row['person']} stands in {before.rpartition(', ')[2]} already.")
        rows.append((at, row))
    return rows


def _invented(number: int, gender: str | None, used: set[str]) -> str:
    rng = Random(f"{STREAM}/{number}")
    firsts = {"female": FEMININE, "male": MASCULINE}.get(gender or "", (*FEMININE, *MASCULINE))
    names = [f"{first} {last}" for first in firsts for last in LAST_NAMES]
    rng.shuffle(names)
    name = next((name for name in names if name.casefold() not in used), None)
    if name is None:
        raise UserError(f"person {number}: no name is left to invent; give names with --people.")
    return name
