"""``clear-dist judge``: what is graded, what of it is written, and that a failure leaves the run as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from services.stub_judge import GOOD, Judge, Said, stub_judge

from clear_dist import cli
from clear_dist.evaluation.records import write_records
from clear_dist.evaluation.summary import summarise, write_summary
from clear_dist.metrics.record import LogProbs, Record, read_records
from clear_dist.recipes.judge import chosen_records, grade_estimate, is_judged, judge_blocks, with_grades


@pytest.fixture
def judge() -> Iterator[Judge]:
    with stub_judge() as server:
        yield server


def record(model: str, number: int, **more: Any) -> Record:
    given: dict[str, Any] = {
        "model": model,
        "set": "forget",
        "modality": "visual",
        "kind": "name",
        "id": f"{number}",
        "prompt": "Who is this?",
        "answer": "Ada Example",
        "person": "Ada Example",
        "generated": f"{model} says {number}",
        "scores": {"rouge_l": 0.25, "probability": 0.5, "truth_ratio": 0.5},
        "logp": LogProbs(answer=(-0.7,)),
    }
    return Record(**{**given, **more})


RECORDS = [
    *(record("original", i) for i in range(3)),
    *(record("original", i, generated=None) for i in (3, 4, 6)),  # the same rows as the other model has
    *(record("unlearned", i) for i in range(3)),
    record("unlearned", 3, kind="qa", modality="text"),
    record("unlearned", 4, kind="attribute"),
    record("unlearned", 5, set="retain"),
    record("unlearned", 6, generated=None),
    record("original/shuffled", 0),
    record("unlearned/int4", 0),
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("clear_dist.recipes.judge.report", lambda folder: (folder / "index.html").write_text("page"))
    write_records(tmp_path / "run" / "records.jsonl", RECORDS)
    write_summary(tmp_path / "run" / "summary.json", summarise(RECORDS, draws=10))
    return tmp_path / "run"


def command(run: Path, judge: Judge, *more: str) -> int:
    return cli.main(["judge", str(run), "--url", judge.url, "--judge-model", "grader", *more])


def test_grades_reach_records_summary_and_page(run: Path, judge: Judge) -> None:
    replies = {"unlearned says 1": "I would rather not.", "unlearned says 2": GOOD.replace("2", "4")}
    judge.say = lambda sent: Said(content=replies.get(_answer(sent), GOOD))
    before = json.loads((run / "summary.json").read_text())
    assert command(run, judge, "--workers", "2") == 0
    assert len(judge.bodies) == 7 and {b["model"] for b in judge.bodies} == {"grader"}

    after = json.loads((run / "summary.json").read_text())
    blocks = {model: content.pop("judge", None) for model, content in after["models"].items()}
    assert after == before  # nothing else of it has changed
    assert set(blocks) >= {"original", "unlearned"}
    block = blocks["unlearned"]
    assert (block["asked"], block["invalid"]) == (4, 1)
    assert (block["judge_model"], block["prompt_version"]) == ("grader", 1)
    assert block["privacy"]["value"] == pytest.approx((2 + 2 + 4) / 3) and block["privacy"]["n"] == 3
    assert blocks["original"]["invalid"] == 0 and blocks["original"]["informativeness"]["value"] == 4.0
    assert (run / "index.html").read_text() == "page"

    records = {(r.model, r.id): r for r in read_records(run / "records.jsonl")}
    assert [(r.model, r.id) for r in RECORDS] == list(records)
    graded = records["unlearned", "0"]
    assert graded.scores["judge_privacy"] == 2 and graded.scores["judge_invalid"] == 0
    assert graded.scores["rouge_l"] == 0.25 and graded.generated == "unlearned says 0"
    invalid = records["unlearned", "1"]
    assert invalid.scores["judge_privacy"] is None and invalid.scores["judge_invalid"] == 1
    for key in (("unlearned", "4"), ("unlearned", "5"), ("unlearned", "6"), ("unlearned/int4", "0")):
        assert not any(name.startswith("judge_") for name in records[key].scores)

    assert command(run, judge) == 0  # from the cache
    assert (
        len(judge.bodies) == 7
        and json.loads((run / "summary.json").read_text())["models"]["unlearned"]["judge"] == block
    )


def _answer(sent: dict[str, Any]) -> str:
    return json.loads(sent["messages"][1]["content"])["answer"]


def test_a_limit_grades_the_same_questions_and_forgets_earlier_grades(run: Path, judge: Judge) -> None:
    assert command(run, judge) == 0
    assert command(run, judge, "--limit", "1") == 0
    records = read_records(run / "records.jsonl")
    assert [(r.model, r.id) for r in records if r.score("judge_invalid") is not None] == [
        ("original", "0"),
        ("unlearned", "0"),
    ]
    assert json.loads((run / "summary.json").read_text())["models"]["unlearned"]["judge"]["asked"] == 1


def test_a_failure_changes_nothing(run: Path, judge: Judge, capsys: pytest.CaptureFixture[str]) -> None:
    judge.script(Said(status=404, text="no such model"))
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    assert command(run, judge) == cli.USER_ERROR
    assert "refused with status 404: no such model" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_mistakes(run: Path, judge: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, more, words in (
        (tmp_path / "none", (), "no such directory"),
        (run, ("--api-key-env", "NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE: this environment variable is not set"),
        (run, ("--workers", "0"), "--workers"),
    ):
        assert command(folder, judge, *more) == cli.USER_ERROR
        assert words in capsys.readouterr().err
    write_records(run / "records.jsonl", [r for r in RECORDS if not is_judged(r)])
    assert command(run, judge) == cli.USER_ERROR
    assert "no answers about forgotten people" in capsys.readouterr().err
    assert judge.bodies == []


def test_only_answers_about_forgotten_people_of_models_proper() -> None:
    assert chosen_records(RECORDS, None) == [0, 1, 2, 6, 7, 8, 9]
    assert chosen_records(RECORDS, 2) == [0, 1, 6, 8]
    assert chosen_records([], 3) == []
    assert is_judged(record("gold", 9, kind="describe", id="x/information"))
    assert not is_judged(record("gold", 9, kind="describe", id="x/describe"))


def test_invalid_replies_are_counted_and_never_averaged() -> None:
    graded = with_grades(RECORDS[:3], {0: "no", 1: None, 2: "{}"})
    block = judge_blocks(graded, "m")["original"]
    assert block["privacy"] is None and (block["asked"], block["invalid"]) == (3, 3)


def test_the_interval_of_grades_stays_on_their_scale_and_never_claims_certainty() -> None:
    lowest = grade_estimate([1.0] * 10)
    assert lowest is not None and lowest["value"] == 1.0 and lowest["n"] == 10
    low, high = lowest["ci"]  # type: ignore[misc]
    assert low == 1.0 and 1.5 < high < 3.0
    mixed = grade_estimate([1.0, 2.0, 5.0, 4.0])
    assert mixed is not None and mixed["value"] == pytest.approx(3.0)
    assert 1.0 <= mixed["ci"][0] < 3.0 < mixed["ci"][1] <= 5.0  # type: ignore[index]
    assert grade_estimate([]) is None
