"""records.jsonl: there and back, and every way a file can be broken."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_predictor import TablePredictor, knows_all, world

from clear_dist.evaluation.predict import evaluate
from clear_dist.evaluation.records import RecordWriter, read_records, write_records
from clear_dist.metrics.record import SCORES, LogProbs, Record, parse_record
from clear_dist.types import UserError


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return evaluate(TablePredictor(knows_all), world(), model="original")


def test_round_trip(tmp_path: Path, records: list[Record]) -> None:
    path = tmp_path / "run" / "records.jsonl"
    path.parent.mkdir()
    write_records(path, records)
    assert read_records(path) == records
    row = json.loads(path.read_text().splitlines()[0])
    assert set(row) == {
        *("v", "model", "set", "modality", "kind", "id", "person", "seen", "picture", "prompt", "generated"),
        *("answer", "scores", "logp", "label"),
    }
    assert set(row["scores"]) == set(SCORES)
    assert row["v"] == 1 and row["scores"]["name"] is None and row["label"] is None


@settings(max_examples=40, deadline=None)
@given(
    text=st.text(max_size=30),
    values=st.lists(st.floats(-1e6, 0, allow_nan=False), min_size=1, max_size=4),
    extra=st.floats(0, 1),
)
def test_any_text_and_any_number_survive(text: str, values: list[float], extra: float) -> None:
    record = Record(
        model="m",
        set="forget",
        modality="text",
        kind="qa",
        id=text,
        prompt=text,
        answer=text,
        generated=text,
        scores={"rouge_l": extra, "some_later_score": extra, "attributes": {text: 1}},
        logp=LogProbs(answer=tuple(values), perturbed=(tuple(values), tuple(values))),
    )
    line = record.to_line()
    assert "\n" not in line
    again = parse_record(json.loads(line), "here")
    assert again.to_line() == line and again.logp == record.logp
    assert again.scores["some_later_score"] == extra and again.id == text


def test_nan_is_never_written(tmp_path: Path) -> None:
    record = Record("m", "forget", "text", "qa", "bad", "q", "a", scores={"rouge_l": float("nan")})
    path = tmp_path / "records.jsonl"
    with pytest.raises(UserError, match="'bad'"):
        write_records(path, [record])
    assert not path.exists()


def test_append_and_repair_of_a_half_written_line(tmp_path: Path, records: list[Record]) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        writer.write(records[:2])
    with path.open("a") as file:
        file.write(records[2].to_line()[:50])
    with pytest.raises(UserError, match=r"records\.jsonl:3: .*half-written"):
        read_records(path)
    with RecordWriter(path) as writer:
        writer.write(records[2:4])
    assert read_records(path) == records[:4]


def test_a_lone_half_line_longer_than_a_block_is_dropped(tmp_path: Path, records: list[Record]) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("x" * 200_000)
    with RecordWriter(path) as writer:
        writer.write(records[:1])
    assert read_records(path) == records[:1]


GOOD = json.loads(Record("m", "forget", "text", "qa", "1", "q", "a").to_line())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"v": 2}, "version 2, expected 1"),
        ({"set": "test"}, "'test' is unknown.*forget, retain"),
        ({"modality": "audio"}, "modality 'audio'"),
        ({"id": 7}, "'id' must be a str"),
        ({"prompt": None}, "'prompt' must be a str"),
        ({"generated": 3}, "'generated' must be a str or null"),
        ({"scores": {"rouge_l": "high"}}, "scores.rouge_l: expected a number"),
        ({"scores": {"attributes": {"hair": "yes"}}}, "scores.attributes.hair"),
        ({"logp": {"answer": "x"}}, "logp.answer must be a list"),
        ({"logp": {"perturbed": [1.0]}}, "logp.perturbed must be a list of"),
        ({"logp": {"perturbed": "x"}}, "logp.perturbed must be a list of"),
    ],
)
def test_a_bad_field_is_named_with_its_line(tmp_path: Path, change: dict, said: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps({**GOOD, "id": "2", **change}) + "\n")
    with pytest.raises(UserError, match=rf"records\.jsonl:3: .*{said}"):
        read_records(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1]\n", "expected a JSON object"),
        (b'{"v": NaN}\n', ":1: not a JSON object"),
        (b"\xff\xfe\n", "utf-8"),
        ((json.dumps(GOOD) + "\n").encode() * 2, r":2: .*count twice"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_records(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl: cannot be read"):
        read_records(tmp_path / "gone.jsonl")
