"""Logs of TOFU and open-unlearning: what is read, and every way in which one can be wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from services.log_fakes import TOFU_BLOCKS, open_unlearning_log, tofu_block, tofu_log, written

from clear_dist.metrics.truth_ratio import ratio_of, truth_ratio
from clear_dist.services.log_rows import check_same_rows, read_object, with_common_texts
from clear_dist.services.tofu_log import AGGREGATE, read_log, records_of
from clear_dist.types import UserError

Change = Callable[[dict[str, Any]], object]


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_log(path)
    return str(caught.value)


def test_tofu_rows_become_records_whose_scores_follow_from_what_is_stored(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "log.json", tofu_log()))
    assert (log.kind, {s: len(r) for s, r in log.sets.items()}) == (
        "TOFU",
        {"forget": 3, "retain": 3, "real_faces": 3, "real_world": 3},
    )
    for mean in ("geometric", "arithmetic"):
        records = records_of(log, "imported", mean)
        assert len({(r.set, r.id) for r in records}) == 12
        first = {r.set: r for r in records if r.id.endswith("/0")}
        forget, faces = first["forget"], first["real_faces"]
        assert (forget.kind, faces.kind, forget.modality) == ("qa", "choice", "text")
        assert forget.prompt == "Question: 0?" and forget.generated == "Said «0» 🙂"
        assert forget.score("probability") == pytest.approx(math.exp(-0.5), abs=1e-15)
        wrong = math.exp(-1.5) + math.exp(-2.5)
        assert faces.score("probability") == pytest.approx(math.exp(-0.5) / (math.exp(-0.5) + wrong), abs=1e-15)
        expected = truth_ratio(-1.0, [-1.5, -2.5], mean)
        assert forget.score("truth_ratio") == pytest.approx(expected, abs=1e-15)
        assert faces.score("truth_ratio") == pytest.approx(expected, abs=1e-15)
        assert ratio_of(forget.logp, mean) == forget.score("truth_ratio")
        assert (forget.score("rouge_1"), forget.score("rouge_l")) == (0.25, 0.2)
        assert forget.score("exact_memorisation") is None and forget.score("fact") is None


def test_a_directory_of_separate_files_reads_as_the_aggregate(tmp_path: Path) -> None:
    for name, block in tofu_log().items():
        written(tmp_path / "parts" / name, block)
    whole = read_log(written(tmp_path / "whole" / AGGREGATE, tofu_log()))
    assert read_log(tmp_path / "parts").sets == whole.sets
    assert read_log(tmp_path / "whole").sets == whole.sets
    (tmp_path / "parts" / TOFU_BLOCKS[0]).unlink()
    assert f"no {TOFU_BLOCKS[0]}" in refused(tmp_path / "parts")
    written(tmp_path / "whole" / "TOFU_EVAL.json", open_unlearning_log())
    assert "logs of two kinds" in refused(tmp_path / "whole")
    (tmp_path / "empty").mkdir()
    assert "no evaluation log here" in refused(tmp_path / "empty")


def test_open_unlearning_says_the_same_with_other_words(tmp_path: Path) -> None:
    theirs = read_log(written(tmp_path / "TOFU_EVAL.json", open_unlearning_log()))
    ours = read_log(written(tmp_path / "log.json", tofu_log()))
    assert theirs.kind == "open-unlearning" and read_log(tmp_path).sets == theirs.sets
    assert theirs.stated["model_utility"] == 0.55 and "privleak" not in theirs.stated  # NaN is no number to state
    assert any("left alone" in n and "mia_loss" in n and "forget_truth_ratio" in n for n in theirs.notes)
    a = {(r.set, r.id): r for r in records_of(theirs, "imported", "geometric")}
    b = {(r.set, r.id): r for r in records_of(ours, "imported", "geometric")}
    assert a.keys() == b.keys()
    for key, record in a.items():
        assert record.score("probability") == b[key].score("probability")
        assert record.score("rouge_l") == b[key].score("rouge_l")
        if key[0] in ("forget", "retain"):
            assert record.logp == b[key].logp
        else:  # TOFU repeats the answer as its own paraphrase there, open-unlearning has none
            assert record.logp.paraphrase is None and record.logp.options == b[key].logp.options
            assert record.score("truth_ratio") == pytest.approx(truth_ratio(*_right_and_wrong(record)), abs=1e-15)
    assert a["forget", "forget/1"].score("exact_memorisation") == 0.6
    assert a["retain", "retain/1"].score("exact_memorisation") is None
    assert a["forget", "forget/1"].prompt == "user 1"


def _right_and_wrong(record: Any) -> tuple[float, list[float]]:
    (right, *wrong) = [option[0] for option in record.logp.options]
    return right, wrong


def test_what_open_unlearning_leaves_out_is_absent(tmp_path: Path) -> None:
    log = open_unlearning_log()
    for name in [n for n in log if n.startswith(("retain", "wf")) or n == "ra_Q_A_PERT_Prob"]:
        del log[name]
    log["forget_Q_A_PARA_Prob"]["value_by_index"]["0"] = None
    log["exact_memorization"]["value_by_index"]["0"] = {"score": None}
    log["forget_Q_A_PERT_Prob"]["value_by_index"]["1"]["avg_loss"] = 2.0  # one wrong answer only
    read = read_log(written(tmp_path / "log.json", log))
    assert set(read.sets) == {"forget", "real_faces"}
    assert sum("not imported" in note for note in read.notes) == 2
    records = {r.id: r for r in records_of(read, "imported", "geometric")}
    first = records["forget/0"]
    assert first.logp.paraphrase is None and first.score("exact_memorisation") is None
    # Without a paraphrase the answer itself stands in, as in TOFU's real-world sets.
    assert first.score("truth_ratio") == pytest.approx(truth_ratio(-0.5, [-1.5, -2.5]), abs=1e-15)
    assert records["forget/1"].logp.perturbed == ((-2.0,),)
    # A choice without its options has no share, and must not get the plain probability instead.
    assert records["real_faces/0"].score("probability") is None and records["real_faces/0"].score("rouge_l") == 0.2


def _drop(block: str, field: str | None = None) -> Change:
    return lambda log: log.pop(block) if field is None else log[block].pop(field)


def _put(block: str, field: str, key: str, value: object) -> Change:
    return lambda log: log[block][field].update({key: value})


F = "eval_log_forget.json"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop(F), (f"no block {F}",)),
        (_drop(F, "avg_paraphrased_loss"), (f"block {F}", "no avg_paraphrased_loss")),
        (lambda log: log.update({F: []}), (f"block {F}", "list")),
        (lambda log: log[F].update(avg_gt_loss=[1.0]), ("avg_gt_loss", "list")),
        (lambda log: log.update({F: {key: {} for key in tofu_block()}}), ("no rows",)),
        (lambda log: log[F]["rougeL_recall"].pop("2"), (f"block {F}", "rougeL_recall has 2 rows", "row '2'")),
        (_put(F, "rouge1_recall", "9", 0.5), ("rouge1_recall has 4 rows", "row '9'")),
        (_put(F, "avg_gt_loss", "1", float("nan")), (f"block {F}, avg_gt_loss, row '1'", "nan")),
        (_put(F, "avg_paraphrased_loss", "1", float("inf")), ("avg_paraphrased_loss, row '1'", "inf")),
        (_put(F, "average_perturb_loss", "1", [1.0, float("nan")]), ("row '1', answer 1", "nan")),
        (_put(F, "average_perturb_loss", "1", []), ("average_perturb_loss, row '1'", "no wrong answers")),
        (_put(F, "average_perturb_loss", "1", "1.0"), ("expected a number, got '1.0'",)),
        (_put(F, "avg_gt_loss", "1", None), ("avg_gt_loss, row '1'", "expected a number, got None")),
        (_put(F, "avg_gt_loss", "1", True), ("expected a number, got True",)),
        (_put(F, "avg_gt_loss", "1", -0.5), ("-0.5", "never below 0")),
        (_put(F, "rougeL_recall", "1", 1.5), ("rougeL_recall, row '1'", "from 0 to 1")),
        (_put(F, "generated_text", "1", ["q", "a"]), ("generated_text, row '1'", "[question, generated, answer]")),
    ],
)
def test_a_broken_tofu_log_is_refused_by_its_row(tmp_path: Path, change: Change, words: tuple[str, ...]) -> None:
    log = tofu_log()
    change(log)
    path = written(tmp_path / "log.json", log)
    message = refused(path)
    assert str(path) in message and all(word in message for word in words), message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop("forget_Q_A_Prob"), ("no forget_Q_A_Prob",)),
        (_drop("forget_Q_A_ROUGE", "value_by_index"), ("metric forget_Q_A_ROUGE", "value_by_index")),
        (lambda log: log["forget_Q_A_Prob"].update(value_by_index={}), ("forget_Q_A_Prob", "no rows")),
        (
            lambda log: log["forget_Q_A_PERT_Prob"]["value_by_index"].pop("1"),
            ("set forget", "forget_Q_A_PERT_Prob has 2 rows", "row '1'"),
        ),
        (
            _put("forget_Q_A_Prob", "value_by_index", "1", {"prob": 0.5, "avg_loss": float("nan")}),
            ("metric forget_Q_A_Prob, row '1'", "nan"),
        ),
        (_put("forget_Q_A_Prob", "value_by_index", "1", {"prob": 0.5}), ("row '1'", "no avg_loss")),
        (_put("forget_Q_A_PARA_Prob", "value_by_index", "1", {"avg_loss": [1.0]}), ("expected a number, got [1.0]",)),
        (_put("extraction_strength", "value_by_index", "1", {"score": 2}), ("extraction_strength", "from 0 to 1")),
    ],
)
def test_a_broken_open_unlearning_log_is_refused(tmp_path: Path, change: Change, words: tuple[str, ...]) -> None:
    log = open_unlearning_log()
    change(log)
    message = refused(written(tmp_path / "TOFU_EVAL.json", log))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ('{"a": 1', "not JSON"),
        ("[1, 2]", "expected a JSON object, got list"),
        ("{}", "no keys"),
        ('{"some": {"other": "thing"}}', "neither a log of TOFU"),
        ('{"forget_Q_A_Prob": 0.5, "model_utility": 0.4}', "averages only"),
        (json.dumps(tofu_block()), "one set's log of TOFU"),
        ("[" * 100_000, "not JSON"),
        ('{"eval_log.json": {"avg_gt_loss": {"0": 1, "0": 2}}}', "key '0' occurs twice"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(written(tmp_path / "log.json", text))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{}")
    assert "not JSON" in refused(tmp_path / "bytes.json")
    marked = tmp_path / "marked.json"
    marked.write_bytes(b'\xef\xbb\xbf{"a": 1}')  # a byte-order mark, as some editors write
    assert read_object(marked) == {"a": 1}


def test_logs_about_different_questions_cannot_be_compared(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "a.json", tofu_log()))
    check_same_rows(log, read_log(written(tmp_path / "b.json", tofu_log(shift=0.5))))
    with pytest.raises(UserError, match=r"a\.json and .*c\.json, set forget: .* has 3 rows where 4 were expected"):
        check_same_rows(log, read_log(written(tmp_path / "c.json", tofu_log(rows=4))))
    other = tofu_log()
    other[F]["generated_text"]["2"][2] = "Another answer."
    with pytest.raises(UserError, match="row '2': the true answers differ"):
        check_same_rows(log, read_log(written(tmp_path / "d.json", other)))


def test_texts_are_those_of_the_first_log_that_has_them(tmp_path: Path) -> None:
    silent, chatty = tofu_log(), tofu_log()
    for block in silent.values():
        del block["generated_text"]
    chatty[F]["generated_text"]["0"][0] = "<user> 0?"
    a, b, c = (read_log(written(tmp_path / f"{i}.json", log)) for i, log in enumerate((silent, tofu_log(), chatty)))
    check_same_rows(a, b)
    check_same_rows(b, c)
    common = with_common_texts({"a": a, "b": b, "c": c})
    rows = [log.sets["forget"][0] for log in common.values()]
    assert {(r.prompt, r.answer) for r in rows} == {("Question: 0?", "The answer 0.")}
    assert [r.generated for r in rows] == [None, "Said «0» 🙂", "Said «0» 🙂"]
    assert common["a"].sets["retain"][0].loss == 0.5
    alone = with_common_texts({"a": a})
    assert alone["a"].sets == a.sets
