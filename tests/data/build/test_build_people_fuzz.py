"""Tables of people and lines of stages on drawn bytes: read, or refused by file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from clear_dist.data.build.folder import Folder, read_lines
from clear_dist.data.build.people import check_ages, corrected, table_of, with_names
from clear_dist.data.build.person import Found, Row, Subject
from tests.faults.fuzz import counted
from tests.faults.fuzz_inputs import damaged, files

COUNTS: Final = [pytest.param(500, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]
ROWS: Final = tuple(Row(line, "question", "answer") for line in range(1, 7))
PEOPLE: Final = [
    Subject(Found("Ann Lee", 1.0), Found("1950-02-03", 1.0), rows=ROWS[:2]),
    Subject(Found("Bo Kim, the 'elder'", 0.9), gender=Found("male", 0.5), rows=ROWS[2:4]),
    Subject(Found(), group=Found("european", 0.5), rows=ROWS[4:]),
]
GOOD: Final = [
    table_of(corrected(PEOPLE, None)).encode(),
    b"\xef\xbb\xbfperson,name\r\n2,Cid\r\n",
    b'person,name\n0,"A,""B"\n',
]


@pytest.mark.parametrize("count", COUNTS)
def test_a_table_of_people_is_read_or_refused(tmp_path: Path, count: int) -> None:
    path = tmp_path / "people.csv"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        people = with_names(corrected(PEOPLE, path), invent=True)
        check_ages(people, 2024)
        assert len(people) == 3 and len({str(p.subject.name.value).casefold() for p in people}) == 3

    names = [str(path), "person ", "--year", "Ann Lee"]
    counted(count, damaged(GOOD), read, names=names, accepted_at_least=count // 20, rejected_at_least=count // 20)


@pytest.mark.parametrize("count", COUNTS)
def test_lines_of_a_stage_are_read_or_refused_and_left_ones_never_fail(tmp_path: Path, count: int) -> None:
    path, folder = tmp_path / "images.jsonl", Folder(tmp_path)
    values = [{"of": "ab", "line": 1, "file": "000001.png"}, {"of": "cd", "shows": {"a": ["b"]}}]
    good = [b'{"of": "ab", "line": 1}\n{"of": "cd", "file": null}\n', b'{"key": "x"}\n{"n": 1}\n']

    def read(data: bytes) -> None:
        path.write_bytes(data)
        (tmp_path / "images.part").write_bytes(data)
        assert all(isinstance(line, dict) for line in folder.lines_left("images"))
        folder.begun("images", "x")
        assert all(isinstance(line, dict) for line in read_lines(path))

    low = count // 20
    counted(count, files(good, values), read, names=[str(path)], accepted_at_least=low, rejected_at_least=low)
