"""The table of people: written, corrected, read again; and people without a name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clear_dist.data.build.people import (
    COLUMNS,
    FIELDS,
    Listed,
    check_ages,
    corrected,
    table_of,
    with_names,
)
from clear_dist.data.build.person import Found, Row, Subject
from clear_dist.types import UserError

ROWS = [Row(line, f"question {line}", f"answer {line}") for line in range(1, 10)]


def subject(number: int, name: str | None = None, **found: str) -> Subject:
    rows = tuple(ROWS[3 * number : 3 * number + 3])
    values = {field: Found(value, 0.5, rows[0].line, value) for field, value in found.items()}
    return replace(Subject(Found(name, 0.9 if name else 0.0), rows=rows), **values)


PEOPLE = [
    subject(0, "Ann Lee", birth_date="1950-02-03", gender="female", group="european"),
    subject(1, "Bo Kim", birth_date="1990", genre="crime"),
    subject(2, None, gender="male"),
]


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def values(person: Listed) -> list[str | None]:
    return [getattr(person.subject, field).value for field in FIELDS]


def test_lines_say_what_is_known_and_where_it_stands() -> None:
    listed = with_names(corrected(PEOPLE, None), invent=True)
    lines = [person.line(number, 2024) for number, person in enumerate(listed)]
    assert [(line["first_line"], line["last_line"], line["rows"]) for line in lines] == [
        (1, 3, 3),
        (4, 6, 3),
        (7, 9, 3),
    ]
    assert [line["age"] for line in lines] == [74, 34, None]
    assert [line["invented"] for line in lines] == [[], [], ["name"]]
    assert lines[0]["gender"] == {"value": "female", "confidence": 0.5, "line": 1, "evidence": "female"}


def test_what_is_known_does_not_depend_on_who_said_it(tmp_path: Path) -> None:
    said = corrected(PEOPLE, table(tmp_path / "t.csv", "person,name,birth_date", "0,Ann Lee,1950-02-03", "1,,1990"))
    other = corrected(PEOPLE, table(tmp_path / "u.csv", "person,birth_date", "1,1991"))
    plain = corrected(PEOPLE, None)
    assert [p.known() for p in said] == [p.known() for p in plain]
    assert [a.known() == b.known() for a, b in zip(other, plain, strict=True)] == [True, False, True]


def test_the_table_as_written_changes_nothing(tmp_path: Path) -> None:
    listed = corrected(PEOPLE, None)
    path = tmp_path / "people.csv"
    path.write_text(table_of(listed), encoding="utf-8")
    assert path.read_text(encoding="utf-8").splitlines()[0] == ",".join(COLUMNS)
    assert corrected(PEOPLE, path) == listed


def test_what_the_table_gives_counts_and_an_empty_cell_leaves_what_was_found(tmp_path: Path) -> None:
    path = table(
        tmp_path / "t.csv",
        "\ufeffperson,name,birth_date,gender,group",
        "2,Cid Díaz,1960-05,,latin_american",
        "0,,1951,nonbinary,",
    )
    ann, bo, cid = corrected(PEOPLE, path)
    assert values(cid) == ["Cid Díaz", "1960-05", None, "male", "latin_american", None]
    assert values(ann) == ["Ann Lee", "1951", None, "nonbinary", "european", None]
    assert cid.corrected == ("name", "birth_date", "group") and ann.corrected == ("birth_date", "gender")
    assert bo == Listed(PEOPLE[1])
    assert cid.subject.name.confidence == 1.0 and "t.csv" in cid.subject.name.evidence


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["name", "Ann"], "line 1: expected"),
        (["person,nam", "0,Ann"], r"'nam' is no column \(did you mean name\?\)"),
        (["person,person", "0,0"], "line 1: expected"),
        (["person,name", "3,Ann"], "line 2: person: expected a number from 0 to 2; got '3'"),
        (["person,name", "-1,Ann"], "line 2: person"),
        (["person,name", "0,Ann", "0,Bob"], "line 3: person 0 stands in line 2 already"),
        (["person,name", "0"], "line 2: expected 2 cells"),
        (["person,first_line,name", "0,2,Ann"], "first_line: 2 is not where person 0 begins"),
        (["person,gender", "0,woman"], "gender: expected one of female"),
        (["person,group", "0,europe"], r"did you mean european\?"),
        (["person,birth_date", "0,3.2.1950"], "birth_date: expected YYYY-MM-DD"),
        (["person,birth_date", "0,1950-13"], "birth_date: expected YYYY-MM-DD"),
        (["person,birth_date", "0,1950-02-30"], "birth_date: expected YYYY-MM-DD"),
        (["person,name", "0,Ann\u202eLee"], "name: expected at most 100 characters"),
        (["person,name", '0,"Ann'], "not CSV"),
    ],
)
def test_a_broken_table_is_named_by_line_and_column(tmp_path: Path, lines: list[str], says: str) -> None:
    path = table(tmp_path / "t.csv", *lines)
    if lines[-1].endswith('"Ann'):
        path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match=says):
        corrected(PEOPLE, path)


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        corrected(PEOPLE, tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("person,name\n0,José".encode("latin-1"))
    with pytest.raises(UserError, match="cannot be read"):
        corrected(PEOPLE, tmp_path / "latin.csv")


def test_people_without_a_name_are_listed_or_get_one() -> None:
    listed = corrected(PEOPLE, None)
    with pytest.raises(UserError, match=r"no name of person 2 \(line 7\).*--unnamed invent"):
        with_names(listed, invent=False)
    named = with_names(listed, invent=True)
    name = str(named[2].subject.name.value)
    assert len(name.split()) == 2 and named[2].invented == ("name",) and named[:2] == listed[:2]
    assert with_names(listed, invent=True) == named
    other = with_names(listed, invent=True, taken=[name.upper()])
    assert other[2].subject.name.value not in (name, None), "a name that is taken is nobody else's"


def test_one_name_for_two_people_is_refused() -> None:
    twice = [*corrected(PEOPLE[:2], None), Listed(subject(2, "ann lee"))]
    with pytest.raises(UserError, match=r"person 2 \(line 7\) has the name of person 0 \(line 1\)"):
        with_names(twice, invent=True)


def test_ages_that_cannot_be_are_listed() -> None:
    listed = corrected(PEOPLE, None)
    check_ages(listed, 2024)
    with pytest.raises(UserError, match=r"--year 1980: Bo Kim \(1990, line 4\)"):
        check_ages(listed, 1980)
    with pytest.raises(UserError, match="Ann Lee"):
        check_ages(listed, 2071)


def test_what_is_missing_is_named() -> None:
    assert [person.missing(2024) for person in corrected(PEOPLE, None)] == [[], ["gender", "group"], ["age", "group"]]
