"""What rules are not sure of, asked of a language model: its answers are checked like a stranger's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Final

from clear_dist.data.build.person import GENDERS, GROUPS, Asker, Found, Row, Subject
from clear_dist.reading import json_value, unique_keys
from clear_dist.types import UserError

ASKED: Final = ("name", "birth_date", "birthplace", "gender", "group", "genre")
CONFIDENCE: Final = 0.7  # of an accepted answer: above what is asked about, below what rules are sure of
_LONGEST: Final = 80  # characters of a value
_MEANING: Final = {
    "name": "the person's full name",
    "birth_date": "the date of birth as YYYY-MM-DD, YYYY-MM or YYYY",
    "birthplace": "the city and country of birth",
    "gender": f"one of {', '.join(GENDERS)}",
    "group": f"the region the person's family is from, one of {', '.join(GROUPS)}",
    "genre": "the kind of books the person writes",
}


@dataclass(frozen=True)
class Answers:
    """How asking went. unknown: the model said that the text does not tell; invalid: no answer of the asked form."""

    asked: int = 0
    taken: int = 0
    unknown: int = 0
    invalid: int = 0


def with_answers(people: Sequence[Subject], asker: Asker, below: float = 0.5) -> tuple[list[Subject], Answers]:
    """The people with answers where confidence is lower than ``below``; all else stays as it is."""
    if not 0 <= below <= 1:
        raise UserError(f"attributes.ask_below: {below} is not in [0, 1]; expected a confidence.")
    asked = taken = unknown = invalid = 0
    out: list[Subject] = []
    for person in people:
        changed: dict[str, Found] = {}
        for attribute in ASKED:
            if getattr(person, attribute).confidence >= below:
                continue
            asked += 1
            try:
                found = answer_of(asker.ask(prompt(person, attribute)), attribute, person.rows)
            except ValueError:
                invalid += 1
                continue
            if found is None:
                unknown += 1
            else:
                taken += 1
                changed[attribute] = found
        out.append(replace(person, **changed))
    return out, Answers(asked, taken, unknown, invalid)


def prompt(person: Subject, attribute: str) -> str:
    """The question about one attribute, with everything the text says about the person."""
    lines = "\n".join(f"[{row.line}] {row.question} {row.answer}" for row in person.rows)
    whom = person.name.value or "the person"
    return (
        f"The numbered lines below are about {whom}.\n{lines}\n\n"
        f"From these lines alone: {_MEANING[attribute]}. Answer with one JSON object and nothing else: "
        '{"value": "...", "line": N}, where N is the number of that line, or {"value": null} where none does.'
    )


def answer_of(text: str, attribute: str, rows: Sequence[Row]) -> Found | None:
    """What an answer says; None for "the text does not tell". Raises ValueError where it is not of the asked form."""
    value = json_value(text, object_pairs_hook=unique_keys)
    if not isinstance(value, dict) or not value.keys() <= {"value", "line"} or "value" not in value:
        raise ValueError("not an object of value and line")
    said, line = value["value"], value.get("line")
    if said is None:
        return None
    row = next((row for row in rows if row.line == line), None)
    if row is None or isinstance(line, bool) or not isinstance(line, int):
        raise ValueError("line is none of the person's")
    if not isinstance(said, str) or not said.strip() or len(said) > _LONGEST or not said.isprintable():
        raise ValueError("value is no short text")
    said = said.strip()
    text = f"{row.question} {row.answer}"
    if attribute == "birth_date":
        _check_date(said, text)
    elif attribute in ("gender", "group"):
        if said not in (GENDERS if attribute == "gender" else GROUPS):
            raise ValueError("not one of the choices")
    elif said.casefold() not in text.casefold():
        raise ValueError("the line does not say so")
    return Found(said, CONFIDENCE, row.line, row.answer)


def _check_date(said: str, text: str) -> None:
    if not re.fullmatch(r"[0-9]{4}(?:-[0-9]{2}){0,2}", said) or said[:4] not in text:
        raise ValueError("no date, or one of another year than the line's")
    parts = [int(part) for part in said.split("-")]
    date(*[*parts, 1, 1][:3])
