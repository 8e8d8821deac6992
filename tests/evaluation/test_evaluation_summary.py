"""Averages over records: which rows count for what, and what absence looks like."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from table_predictor import NAMES, TablePredictor, knows_all, knows_all_but, world

from clear_dist.evaluation.control import control_name, shuffle_pictures
from clear_dist.evaluation.predict import evaluate
from clear_dist.evaluation.summary import GROUPS, METRICS, summarise, write_summary
from clear_dist.metrics.forget_quality import power, smallest_detectable
from clear_dist.metrics.record import LogProbs, Record
from clear_dist.types import SETS, Kind, Request, UserError


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
    others = ("retain", "real_faces", "real_world")
    entries = [model["sets"][s]["all"][m]["value"] for s in others for m in ("rouge_l", "probability", "truth_ratio")]
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
    assert models["unlearned"]["forget_quality"] == {
        **{"p": 1.0, "ln_p": 0.0, "ks": 0.0, "n": 3},
        "detectable": None,  # three rows can never reach p < .05
        "power": 0.0,
    }
    assert models["original"]["forget_quality"]["ks"] == 1.0
    assert models["original"]["forget_quality"]["p"] == pytest.approx(2 / 20)  # 2 of C(6, 3) interleavings
    assert models["original/shuffled"]["forget_quality"] is None
    assert models["gold"]["forget_quality"] is None  # not against itself


def test_other_forget_rows_than_gold_are_refused(records: list[Record]) -> None:
    fewer = [r for r in records if not (r.model == "unlearned" and r.id == "Ann Reyes/2")]
    with pytest.raises(UserError, match=r"different forget rows .*Ann Reyes/2"):
        summarise(fewer, draws=10)
    blind = [replace(r, logp=LogProbs()) if r.model == "unlearned" and r.id == "Ann Reyes/2" else r for r in records]
    blind = [replace(r, scores={}) if r.logp == LogProbs() else r for r in blind]
    with pytest.raises(UserError, match=r"'unlearned'.*truth ratios on different forget rows .*Ann Reyes/2"):
        summarise(blind, draws=10)


@pytest.mark.parametrize("set_name", ["forget", "retain", "real_faces"])
def test_models_of_other_rows_never_stand_side_by_side(records: list[Record], set_name: str) -> None:
    last = [r for r in records if r.model == "gold" and r.set == set_name][-1]
    with pytest.raises(UserError, match=f"'gold' .*different {set_name} rows .*{last.id}"):
        summarise([r for r in records if r is not last], draws=10)
    with pytest.raises(UserError, match=f"set {set_name}: example '{last.id}' has another answer"):
        summarise([replace(r, answer="Other.") if r is last else r for r in records], draws=10)
    without = [r for r in records if not (r.model == "gold" and r.set == set_name)]
    if set_name == "forget":  # rows that one of them was not asked at all are a gap, but truth ratios need gold's
        without = [r for r in without if r.set != "forget"]
    assert summarise(without, draws=10)["models"]["gold"]["sets"][set_name]["all"]["rouge_l"] is None


def test_order_of_records_changes_no_figure(records: list[Record]) -> None:
    some = [r for r in records if r.model in ("original", "gold")]
    forth, back = (summarise(rows, draws=50)["models"] for rows in (some, some[::-1]))
    for model in ("original", "gold"):
        for name in SETS:
            for metric, value in forth[model]["sets"][name]["all"].items():
                other = back[model]["sets"][name]["all"][metric]
                assert (value is None) == (other is None)
                assert value is None or value["value"] == pytest.approx(other["value"], abs=1e-12)
                assert value is None or value["n"] == other["n"]
    assert forth["original"]["forget_quality"]["p"] == back["original"]["forget_quality"]["p"]


def _forget(model: str, ratios: Sequence[float]) -> list[Record]:
    """Forget questions with such truth ratios."""
    return [
        Record(
            model,
            "forget",
            "text",
            "qa",
            f"q{i}",
            f"question {i}",
            "a",
            scores={},
            logp=LogProbs((-1.0,), (-1.0,), ((v,),)),
        )
        for i, v in enumerate(np.log(ratios) - 1.0)
    ]


def test_power_and_the_smallest_distance_are_of_the_run() -> None:
    rng = np.random.default_rng(0)
    gold, original = np.exp(rng.normal(1, 1, 40)), np.exp(rng.normal(0.2, 1, 40))
    rows = _forget("original", original.tolist()) + _forget("gold", gold.tolist()) + _forget("npo", gold.tolist())
    models = summarise(rows, draws=100)["models"]
    expected = power(original.tolist(), gold.tolist(), draws=100)
    for model in ("original", "npo"):
        quality = models[model]["forget_quality"]
        assert quality["power"] == pytest.approx(expected) and 0.1 < expected < 1
        assert quality["detectable"] == smallest_detectable(40)
        assert quality["n"] == 40
    assert models["npo"]["forget_quality"]["p"] == 1.0
    no_original = summarise([r for r in rows if r.model != "original"], draws=10)["models"]["npo"]["forget_quality"]
    assert no_original["power"] is None and no_original["detectable"] == smallest_detectable(40)
    named = summarise([replace(r, model=r.model.replace("original", "full")) for r in rows], original="full", draws=100)
    assert named["models"]["npo"]["forget_quality"]["power"] == pytest.approx(expected)


def test_new_scores_are_averaged_over_the_papers_rows() -> None:
    def row(i: int, kind: Kind, em: float | None) -> Record:
        scores = {"rouge_1": em, "exact_memorisation": em, "extraction_strength": None if em is None else em / 2}
        return Record("m", "forget", "text", kind, str(i), "q", "", generated="", scores=scores)

    rows = [row(0, "qa", 0.25), row(1, "caption", 0.75), row(2, "name", 1.0), row(3, "qa", None)]
    forget = summarise(rows, draws=50)["models"]["m"]["sets"]["forget"]["all"]
    assert forget["exact_memorisation"]["value"] == forget["rouge_1"]["value"] == pytest.approx(0.5)
    assert forget["extraction_strength"]["value"] == pytest.approx(0.25)
    assert forget["exact_memorisation"]["n"] == 2
    one = summarise(rows[:1], draws=50)["models"]["m"]["sets"]["forget"]["all"]["exact_memorisation"]
    assert one == {"value": 0.25, "ci": [0.25, 0.25], "n": 1}


def test_variants_are_robustness_of_their_model(records: list[Record]) -> None:
    attacked = [
        replace(r, model="unlearned/int4", prompt=f"Briefly: {r.prompt}")
        for r in records
        if r.model == "original" and r.set == "forget" and r.modality == "text"
    ]
    whole = [replace(r, model="gold/relearn_forget@5") for r in records if r.model == "gold"]
    models = summarise([*attacked, *records, *whole], draws=20)["models"]
    assert set(models) == {"original", "unlearned", "gold", "original/shuffled"}
    assert models["original"]["robustness"] is None and models["original/shuffled"]["robustness"] is None
    assert set(models["unlearned"]["robustness"]) == {"int4"}
    (sets,) = models["unlearned"]["robustness"].values()
    assert set(sets) == {"forget"} and tuple(sets["forget"]) == GROUPS
    assert sets["forget"]["text"]["fact_accuracy"]["value"] == 1.0  # it came back
    assert sets["forget"]["visual"]["name_accuracy"] is None
    assert models["unlearned"]["sets"]["forget"]["text"]["fact_accuracy"]["value"] == 0.0
    assert set(models["gold"]["robustness"]["relearn_forget@5"]) == {"forget", "retain", "real_faces", "real_world"}
    assert models["gold"]["robustness"]["relearn_forget@5"]["retain"] == models["gold"]["sets"]["retain"]
    with pytest.raises(UserError, match=r"'npo/int4' .* model 'npo'"):
        summarise([replace(r, model="npo/int4") for r in attacked] + records, draws=10)


def test_no_records_no_models() -> None:
    assert summarise([], draws=10) == {"v": 1, "models": {}, "seconds": {}}


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
