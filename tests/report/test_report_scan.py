"""Quick reading of records against the careful reader, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clear_dist.evaluation.records import write_records
from clear_dist.metrics.record import LogProbs, Record, read_records
from clear_dist.report.scan import scan
from clear_dist.types import UserError


def _records() -> list[Record]:
    base = Record(
        "unlearned", "forget", "text", "qa", "a/0", "Who?", "Ada", logp=LogProbs((-0.5,), (-1.0,), ((-2.0,),))
    )
    ids = ("a/0", 'quo"te', "back\\slash", "ünï", "名前")
    return [
        replace(base, model=model, set=set_name, id=name)
        for model in ("original", "unlearned", "unlearned/int4")
        for set_name in ("forget", "retain")
        for name in ids
    ]


def test_as_the_careful_reader(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, _records())
    found = scan(path)
    assert list(found.records) == read_records(path) and len(found.records) == len(_records())
    assert found.cut is None
    assert found.ids["unlearned"] == {(s, r.id) for s in ("forget", "retain") for r in _records()}


def test_only_what_is_wanted_is_read_and_all_ids_are_known(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, _records())
    whole, part = scan(path), scan(path, lambda model, set_name: (model, set_name) == ("unlearned", "forget"))
    assert {(r.model, r.set) for r in part.records} == {("unlearned", "forget")} and len(part.records) == 5
    assert part.ids == whole.ids
    assert part.questions("unlearned") is not None and part.questions("original") is None


def test_questions_tell_prompts_and_answers_apart_whatever_the_order(tmp_path: Path) -> None:
    def digest(records: list[Record]) -> str | None:
        write_records(tmp_path / "r.jsonl", records)
        return scan(tmp_path / "r.jsonl").questions("unlearned")

    rows = [r for r in _records() if r.model == "unlearned"]
    assert digest(rows) == digest(rows[::-1]) == digest([replace(r, generated="x") for r in rows])
    assert digest(rows) != digest([replace(rows[0], answer="Bo"), *rows[1:]])
    assert digest(rows) != digest([replace(rows[0], prompt="What?"), *rows[1:]])


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_whole_last_line_counts_with_or_without_its_end(tmp_path: Path, end: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(r.to_line() for r in _records()) + end)
    assert len(scan(path).records) == len(_records()) and scan(path).cut is None


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_half_written_last_line_is_left_out_and_numbered(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "records.jsonl"
    lines = [r.to_line() for r in _records()]
    path.write_bytes("\n".join([*lines[:-1], lines[-1]]).encode()[:-cut])
    found = scan(path)
    assert found.cut == len(lines) and len(found.records) == len(lines) - 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"v":1,"model":"m"\n{"v":1}\n', "records.jsonl:1: not a JSON object"),
        ("[1]\n", "records.jsonl:1: expected a JSON object"),
        ('{"v":1,"model":"m","set":"forget","modality":"text","kind":"qa","id":"a","prompt":"","answer":"",'
         '"scores":{"fact":NaN}}\n', "NaN is not a number"),
        ('{"v":2}\n', "version 2"),
    ],
)  # fmt: skip
def test_broken_lines_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "records.jsonl").write_text(text)
    with pytest.raises(UserError, match=said):
        scan(tmp_path / "records.jsonl")


def test_an_example_twice_is_refused_even_where_it_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(r.to_line() + "\n" for r in [*_records(), _records()[3]]))
    with pytest.raises(UserError, match=r"records.jsonl:31: .*stands already in line 4"):
        scan(path, lambda model, set_name: False)


def test_no_file_and_no_utf8(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        scan(tmp_path / "none.jsonl")
    (tmp_path / "r.jsonl").write_bytes(_records()[0].to_line().encode().replace(b"a/0", b"\xff") + b"\n")
    with pytest.raises(UserError, match=r"r.jsonl:1: not UTF-8"):
        scan(tmp_path / "r.jsonl", lambda model, set_name: False)
