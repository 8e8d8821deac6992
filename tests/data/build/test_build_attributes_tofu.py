"""Attributes of TOFU's 200 people against 40 of them labelled by hand (every fifth), where the text is there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clear_dist.data.build.attributes import ATTRIBUTES, people_of_text, read_rows
from clear_dist.data.build.person import Subject
from clear_dist.data.build.regions import look_up

LABELS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("people_labels.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def people(data_dir: Callable[[str], Path]) -> list[Subject]:
    return people_of_text(read_rows(data_dir("tofu") / "full.json"), where="full.json")


def key(title: str) -> str:
    plain = re.sub(r"^(?:the|an?)\s", "", title.casefold()).replace("'", "").replace("\u2019", "")
    return re.sub(r"\W+", " ", plain).strip()


def pairs(people: list[Subject]) -> Iterator[tuple[Subject, dict[str, Any]]]:
    for label in LABELS:
        yield people[label["person"]], label


def wrong(people: list[Subject], attribute: str) -> list[tuple[str | None, str]]:
    """(found, labelled) where they differ."""
    return [
        (found, label[attribute][0])
        for person, label in pairs(people)
        if (found := getattr(person, attribute).value) != label[attribute][0]
    ]


def test_names_cut_the_text_into_its_200_people(people: list[Subject]) -> None:
    assert [len(person.rows) for person in people] == [20] * 200
    assert wrong(people, "name") == []


def test_birth_dates_are_as_labelled(people: list[Subject]) -> None:
    assert len(wrong(people, "birth_date")) <= 1


def test_genders_are_as_labelled(people: list[Subject]) -> None:
    assert len(wrong(people, "gender")) <= 2


def test_groups_and_countries_are_as_labelled(people: list[Subject]) -> None:
    assert len(wrong(people, "group")) <= 4
    countries = [
        (place and place.country, label["country"][0])
        for person, label in pairs(people)
        for place in [look_up(person.birthplace.value or "")]
    ]
    assert sum(found != labelled for found, labelled in countries) <= 1


def test_genres_are_as_labelled(people: list[Subject]) -> None:
    missed = [(p.genre.value, label["genre"][0]) for p, label in pairs(people)
              if (p.genre.value or "").casefold() not in label["genre"][0]]  # fmt: skip
    assert len(missed) <= 2, missed


def test_titles_are_as_labelled(people: list[Subject]) -> None:
    right = found = labelled = 0
    for person, label in pairs(people):
        wanted = {key(title) for title, _ in label["books"]}
        may = {key(title) for title in label["optional"]}
        got = {key(book.value or "") for book in person.books}
        assert len(got) == len(person.books)
        right += len(wanted & got)
        found += len(got - may)
        labelled += len(wanted)
    assert labelled == 155
    assert right >= 0.95 * labelled
    assert right >= 0.95 * found


def test_little_is_left_for_review(people: list[Subject]) -> None:
    unsure = [
        (person.name.value, attribute, found.value)
        for person in people
        for attribute in ATTRIBUTES
        if (found := getattr(person, attribute)).confidence < 0.5
    ]
    assert len(unsure) <= 0.03 * len(people) * len(ATTRIBUTES), unsure
    assert sum(person.birth_date.value is None for person in people) == 0
    assert [i for i, person in enumerate(people) if person.name.value is None] == [88]  # "the fictitious author"


def test_every_value_stands_in_the_line_it_is_said_to(people: list[Subject]) -> None:
    for person in people:
        lines = {row.line: f"{row.question} {row.answer}" for row in person.rows}
        for book in person.books:
            assert book.value is not None
            assert key(book.value) in key(lines[book.line or 0])
        for found in (person.birth_date, person.birthplace, person.gender, person.group, person.genre):
            assert found.line in lines
