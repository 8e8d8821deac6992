"""The first stage: what questions and answers say about each person, with confidence and the line that says it.

Rules only (``attributes_names`` and so on); a language model may be asked about what they are not sure of
(``attributes_asked``). ``review_rows`` lists everything, the least sure first, for somebody to look through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clear_dist.data.build.attributes_books import books
from clear_dist.data.build.attributes_dates import birth_date
from clear_dist.data.build.attributes_gender import gender
from clear_dist.data.build.attributes_genre import genre
from clear_dist.data.build.attributes_names import blocks
from clear_dist.data.build.attributes_places import birthplace, group
from clear_dist.data.build.person import Found, Row, Subject
from clear_dist.reading import json_value, unique_keys
from clear_dist.types import UserError

ATTRIBUTES: Final = ("name", "birth_date", "birthplace", "gender", "group", "genre")
MOST_BYTES: Final = 256 << 20
LONGEST: Final = 8_000  # characters of a question or an answer


@dataclass(frozen=True)
class Review:
    """One line of the review table. person: their number from 0; name: as found, or nothing."""

    person: int
    name: str | None
    attribute: str
    value: str | None
    confidence: float
    line: int | None
    evidence: str


def read_rows(path: Path) -> list[Row]:
    """The rows of a file of JSON objects, one a line. Raises UserError naming file and line."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: more than {MOST_BYTES >> 20} MiB of text. Cut it into several files.")
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: {reason}. Expected a file of JSON lines with question and answer.") from None
    return rows_of(data, str(path))


def rows_of(data: bytes, where: str) -> list[Row]:
    """The rows of JSON lines; empty lines are passed over but counted."""
    rows = [
        _row(line, number, where)
        for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1)
        if line.strip()
    ]
    if not rows:
        raise UserError(f"{where}: no rows. Expected a JSON object with question and answer on every line.")
    return rows


def _row(line: bytes, number: int, where: str) -> Row:
    expected = 'Expected {"question": "...", "answer": "..."} on every line.'
    try:
        value = json_value(line, object_pairs_hook=unique_keys)
    except ValueError as error:
        raise UserError(f"{where}:{number}: not JSON ({str(error)[:200]}). {expected}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}:{number}: {type(value).__name__}, not an object. {expected}")
    texts: list[str] = []
    for key in ("question", "answer"):
        text = value.get(key)
        if not isinstance(text, str) or not text.strip():
            what = f"no {key}" if key not in value else f"{key} is empty" if text == "" else f"{key} is no text"
            raise UserError(f"{where}:{number}: {what}. {expected}")
        if len(text) > LONGEST:
            raise UserError(f"{where}:{number}: {key} has {len(text):,} characters; at most {LONGEST:,} are read.")
        texts.append(" ".join(text.split()))
    return Row(number, *texts)


def people_of_text(rows: Sequence[Row], *, where: str = "text", block: int | None = None) -> list[Subject]:
    """Everybody the rows are about, in order.

    Args:
        rows: of one person next to each other (``read_rows``).
        where: for messages: the file.
        block: rows of a person, where all have the same number. Without it names tell where a person begins.
    """
    out: list[Subject] = []
    for part in blocks(rows, where, block):
        born = birthplace(part.rows)
        out.append(
            Subject(
                name=part.name,
                birth_date=birth_date(part.rows),
                birthplace=born,
                gender=gender(part.rows),
                group=group(part.rows, born),
                genre=genre(part.rows, part.name.value),
                books=books(part.rows, part.name.value),
                rows=part.rows,
            )
        )
    return out


def review_rows(people: Sequence[Subject]) -> list[Review]:
    """All attributes of all people, the least sure first; in the order of the text among equals."""
    rows = [
        Review(number, person.name.value, attribute, found.value, found.confidence, found.line, found.evidence)
        for number, person in enumerate(people)
        for attribute, found in _found(person)
    ]
    return sorted(rows, key=lambda row: (row.confidence, row.person))


def _found(person: Subject) -> Iterator[tuple[str, Found]]:
    for attribute in ATTRIBUTES:
        yield attribute, getattr(person, attribute)
    for book in person.books:
        yield "book", book
    if not person.books:
        yield "book", Found()
