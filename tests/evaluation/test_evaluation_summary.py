"""Averages over records: which rows count for what, and what absence looks like."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from table_predictor import NAMES, TablePredictor, knows_all, knows_all_but, world

from clear_dist.evaluation.control import control_name, shuffle_pictures
from clear_dist.evaluation.predict import evaluate
from clear_dist.evaluation.summary import GROUPS, METRICS, summarise, write_summary
from clear_dist.metrics.record import Record
from clear_dist.types import SETS, Request, UserError


def _knowing(request: Request, answer: str) -> float:
    wrong = "98" in answer or "99" in answer or answer in ("Somebody Else", "Nobody Known", "Rome", "Oslo")
    return -3.0 if wrong else -0.2


@pytest.fixture(scope="module")
def records() -> list[Record]:
    original = TablePredictor(knows_all, _knowing)
    unlearned = TablePredictor(knows_all_but(NAMES[0]), lambda r, a: -1.5)
    out = evaluate(original, world(), model="original")
    out += evaluate(unlearned, world(), model="unlearned")
    out += evaluate(unlearned, world(), model="gold")
    return out + evaluate(original, shuffle_pictures(world()), model=control_name("original"))


@pytest.fixture(scope="module")
def summary(records: list[Record]) -> dict:
    return summarise(records, seconds={"evaluate": 1.5}, draws=200)


def test_shape_is_always_whole(summary: dict) -> None:
    assert summary["v"] == 1 and summary["seconds"] == {"evaluate": 1.5}
    assert set(summary["models"]) == {"original", "unlearned", "gold", "original/shuffled"}
    for model in summary["models"].values():
        assert tuple(model["sets"]) == SETS
        for groups in model["sets"].values():
            assert tuple(groups) == GROUPS
            for metrics in groups.values():
                assert tuple(metrics) == METRICS
                for value in metrics.values():
                    assert value is None or {"value", "ci", "n"} <= set(value)
                    assert value is None or value["ci"][0] <= value["value"] <= value["ci"][1]
    json.dumps(summary, allow_nan=False)


def test_headline_numbers(summary: dict) -> None:
    original, unlearned = (summary["models"][m]["sets"] for m in ("original", "unlearned"))
    assert original["forget"]["visual"]["name_accuracy"]["value"] == 1.0
    assert original["forget"]["visual"]["name_accuracy"]["n"] == 1  # one unseen picture
    assert original["forget"]["visual"]["name_accuracy_seen"]["n"] == 1
    assert original["forget"]["text"]["fact_accuracy"] == {
        "value": 1.0,
        "ci": pytest.approx([0.4385, 1.0], abs=1e-4),
        "n": 3,
    }
    assert unlearned["forget"]["visual"]["name_accuracy"]["value"] == 0.0
    assert unlearned["forget"]["text"]["fact_accuracy"]["value"] == 0.0
    assert unlearned["retain"]["visual"]["name_accuracy"]["value"] == 1.0
    assert unlearned["retain"]["text"]["fact_accuracy"]["value"] == 0.0  # towns are places now, everywhere
    assert original["forget"]["visual"]["attribute_accuracy"] == {
        "value": 1.0,
        "ci": pytest.approx([0.3424, 1.0], abs=1e-4),
        "n": 2,
    }
    assert original["real_faces"]["visual"]["name_accuracy"]["note"].startswith("no unseen pictures")
    assert summary["models"]["original/shuffled"]["sets"]["forget"]["visual"]["name_accuracy"]["value"] == 0.0


def test_absent_is_null_never_zero(summary: dict) -> None:
    original = summary["models"]["original"]["sets"]
    assert original["forget"]["text"]["name_accuracy"] is None
    assert original["forget"]["visual"]["fact_accuracy"] is None
    assert original["real_world"]["visual"]["rouge_l"] is None
    assert original["forget"]["visual"]["metric"] is None  # captions here have no wrong answers, so no truth ratio


def test_paper_metrics_count_questions_captions_and_choices_only(summary: dict) -> None:
    forget = summary["models"]["original"]["sets"]["forget"]
    assert forget["all"]["rouge_l"]["n"] == 3 + 2  # three questions, two captions; no names, no attributes
    assert forget["text"]["probability"]["value"] == pytest.approx(math.exp(-0.2))
    ratio = math.exp(-3.0 + 0.2)
    assert forget["text"]["truth_ratio"]["value"] == pytest.approx(ratio)
    assert summary["models"]["original"]["sets"]["retain"]["text"]["truth_ratio"]["value"] == pytest.approx(1 - ratio)
    entries = [1.0, math.exp(-0.2), ratio]
    assert forget["text"]["metric"]["value"] == pytest.approx(3 / sum(1 / e for e in entries))


def test_utility_spans_the_three_other_sets(summary: dict) -> None:
    model = summary["models"]["original"]
    entries = [model["sets"][s]["all"][m]["value"] for s in SETS[1:] for m in ("rouge_l", "probability", "truth_ratio")]
    assert model["model_utility"]["value"] == pytest.approx(9 / sum(1 / e for e in entries))
    assert "note" not in model["model_utility"]
    real = [model["sets"][s]["all"]["metric"]["value"] for s in ("real_faces", "real_world")]
    assert model["real_metric"]["value"] == pytest.approx(sum(real) / 2)


def test_utility_says_what_it_is_without(records: list[Record]) -> None:
    some = [r for r in records if r.model == "original" and r.set != "real_world"]
    model = summarise(some, draws=50)["models"]["original"]
    assert model["model_utility"]["note"] == "without real_world"
    assert model["real_metric"] is None
    assert model["forget_quality"] is None  # no gold


def test_forget_quality_against_gold(summary: dict) -> None:
    models = summary["models"]
    assert models["unlearned"]["forget_quality"] == {"p": 1.0, "ln_p": 0.0, "ks": 0.0, "n": 3}
    assert models["original"]["forget_quality"]["ks"] == 1.0
    assert models["original"]["forget_quality"]["p"] == pytest.approx(2 / 20)  # 2 of C(6, 3) interleavings
    assert models["original/shuffled"]["forget_quality"] is None
    assert models["gold"]["forget_quality"] is None  # not against itself


def test_other_forget_rows_than_gold_are_refused(records: list[Record]) -> None:
    fewer = [r for r in records if not (r.model == "unlearned" and r.id == "Ann Reyes/2")]
    with pytest.raises(UserError, match=r"different forget rows .*Ann Reyes/2"):
        summarise(fewer, draws=10)


def test_truth_ratio_mean_changes_only_what_it_should(records: list[Record]) -> None:
    uneven = [
        replace(r, logp=replace(r.logp, perturbed=((-1.0,), (-4.0,)))) if r.logp.perturbed else r
        for r in records
        if r.model == "original"
    ]
    geometric, arithmetic = (
        summarise(uneven, truth_ratio=m, draws=10)["models"]["original"]["sets"]["forget"]["text"]
        for m in ("geometric", "arithmetic")
    )
    assert geometric["rouge_l"] == arithmetic["rouge_l"]
    assert geometric["truth_ratio"]["value"] == pytest.approx(math.exp(-2.5 + 0.2))
    assert arithmetic["truth_ratio"]["value"] == pytest.approx((math.exp(-1) + math.exp(-4)) / 2 / math.exp(-0.2))


def test_same_records_same_bytes(tmp_path: Path, records: list[Record]) -> None:
    for name, order in (("a", records), ("b", records)):
        write_summary(tmp_path / name, summarise(order, draws=50))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nan_is_refused(tmp_path: Path, records: list[Record]) -> None:
    broken = [replace(records[0], scores={**records[0].scores, "rouge_l": math.nan})]
    with pytest.raises(UserError, match="finite"):
        summarise(broken, draws=10)
    with pytest.raises(UserError, match="finite"):
        write_summary(tmp_path / "s.json", {"seconds": {"x": math.inf}})
