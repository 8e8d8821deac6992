"""One pass over the examples: what is asked, and what becomes of the answers."""

import math
from collections.abc import Sequence

import pytest
from table_predictor import NAMES, TablePredictor, knows_all, knows_all_but, picture, world

from clear_dist.evaluation.control import control_name, is_control, shuffle_pictures
from clear_dist.evaluation.distributed import merge, shard
from clear_dist.evaluation.predict import evaluate
from clear_dist.metrics.record import Record
from clear_dist.types import Example, Prediction, Request, UserError


def _by_id(records: list[Record]) -> dict[str, Record]:
    return {r.id: r for r in records}


def test_asks_once_and_scores_every_answer() -> None:
    predictor = TablePredictor(knows_all)
    examples = world()
    records = evaluate(predictor, examples, model="original", max_new_tokens=7)

    count = sum(len(rows) for rows in examples.values())
    assert len(records) == count
    assert predictor.calls == [count] and predictor.limits == {7}
    assert [(r.set, r.id) for r in records] == [(name, e.id) for name, rows in examples.items() for e in rows]

    text = _by_id(records)["Ann Reyes/1"]
    assert text.modality == "text" and text.picture is None and text.generated == "Ann Reyes lives in town 1."
    assert len(text.logp.perturbed) == 2 and text.logp.paraphrase is not None and text.logp.options == ()
    assert text.score("fact") == 1 and text.score("rouge_l") == 1.0 and text.score("name") is None
    assert text.score("probability") == pytest.approx(math.exp(-0.5)) and text.score("truth_ratio") == 1.0

    name = _by_id(records)["Ann Reyes/1/name"]
    assert name.picture == picture("Ann Reyes", 1).digest and not name.seen
    assert name.score("name") == 1 and name.score("truth_ratio") is None
    caption = _by_id(records)["Ann Reyes/0/caption"]
    assert caption.score("name") == 1 and caption.scores["attributes"] == {"hair": 1, "wall": 0}
    assert _by_id(records)["Ann Reyes/0/attribute"].score("fact") == 1

    face = _by_id(records)["face/0"]
    assert face.score("probability") == pytest.approx(1 / 3) and face.score("name") == 1
    assert face.score("truth_ratio") == 1.0  # the wrong options stand for perturbed answers
    assert _by_id(records)["world/0"].score("fact") == 1 and _by_id(records)["world/0"].score("name") is None


def test_answers_keep_their_own_log_probabilities() -> None:
    chances = {"right": -0.1, "same": -0.1, "wrong a": -2.0, "wrong b": -3.0}
    predictor = TablePredictor(lambda r: "right", lambda request, answer: chances[answer])
    example = Example(
        "0", "forget", "qa", "q", "right", paraphrase="right", perturbed=("wrong b", "wrong a", "wrong b")
    )
    (record,) = evaluate(predictor, {"forget": [example]}, model="m")

    assert record.logp.answer == (-0.1, -0.1) == record.logp.paraphrase
    assert record.logp.perturbed == ((-3.0,) * 3, (-2.0,) * 3, (-3.0,) * 3)  # repeated answers are scored once
    assert record.score("truth_ratio") == pytest.approx(math.exp(-8 / 3 + 0.1))


def test_memorisation_is_that_of_the_true_answer() -> None:
    sure = TablePredictor(knows_all, sure=lambda request, answer: answer.startswith("Ann"))
    text = _by_id(evaluate(sure, world(), model="m"))["Ann Reyes/1"]
    assert text.score("exact_memorisation") == 1.0 and text.score("extraction_strength") == 1.0
    assert text.score("min_k_plus") == pytest.approx(1.0)  # (-0.5 - -1) / 0.5
    other = _by_id(evaluate(sure, world(), model="m"))["Bo Lindqvist/1"]
    assert other.score("exact_memorisation") == 0.0 and other.score("extraction_strength") == 0.0


def test_nothing_to_ask() -> None:
    assert evaluate(TablePredictor(knows_all), {"forget": [], "retain": []}, model="m") == []


def test_diverged_weights_are_named() -> None:
    predictor = TablePredictor(knows_all, lambda request, answer: math.nan)
    with pytest.raises(UserError, match=r"'unlearned', set forget, example 'Ann Reyes/0'.*diverged"):
        evaluate(predictor, world(), model="unlearned")


def test_repeated_ids_are_refused() -> None:
    example = Example("7", "retain", "qa", "q", "a")
    with pytest.raises(UserError, match="'7' occurs twice"):
        evaluate(TablePredictor(knows_all), {"retain": [example, example]}, model="m")


def _names_right(records: list[Record]) -> float:
    hits = [v for r in records if r.kind == "name" and (v := r.score("name")) is not None]
    assert hits
    return sum(hits) / len(hits)


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_pictures_fool_a_model_that_looks(seed: int) -> None:
    examples = world()
    shuffled = shuffle_pictures(examples, seed)
    assert _names_right(evaluate(TablePredictor(knows_all), examples, model="m")) == 1.0
    assert _names_right(evaluate(TablePredictor(knows_all), shuffled, model="m")) == 0.0

    partner: dict[str | None, set[str]] = {}
    for name, rows in shuffled.items():
        originals = {e.id: e for e in examples[name]}
        for e in rows:
            before = originals[e.id]
            assert e.picture is not None and before.picture is not None and e.attributes is None
            assert (e.question, e.answer, e.person) == (before.question, before.answer, before.person)
            partner.setdefault(before.picture.digest, set()).add(e.picture.digest)
    assert all(len(new) == 1 for new in partner.values())  # questions on one picture stay together
    assert shuffled == shuffle_pictures(examples, seed)


def test_a_model_that_reads_names_elsewhere_is_not_fooled() -> None:
    peeking = TablePredictor(lambda r: f"{NAMES[0]} {NAMES[1]} {NAMES[2]}")
    assert _names_right(evaluate(peeking, shuffle_pictures(world()), model="m")) == 1.0


def test_one_person_cannot_be_shuffled() -> None:
    rows = [e for e in world()["forget"] if e.picture is not None]
    with pytest.raises(UserError, match="at least two people"):
        shuffle_pictures({"forget": rows})


def test_control_names() -> None:
    assert is_control(control_name("original")) and not is_control("original")


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 40])
def test_ranks_share_and_merge_without_a_trace(ranks: int) -> None:
    examples = world()
    alone = evaluate(TablePredictor(knows_all_but(NAMES[0])), examples, model="m")
    shares = [shard(examples, rank, ranks) for rank in range(ranks)]
    pictures = [{e.picture.digest for rows in s.values() for e in rows if e.picture} for s in shares]
    assert sum(len(p) for p in pictures) == len(set().union(*pictures))  # no picture is on two ranks
    together = merge([evaluate(TablePredictor(knows_all_but(NAMES[0])), s, model="m") for s in shares], examples)
    assert together == alone


def test_a_lost_share_is_noticed() -> None:
    examples = world()
    records = evaluate(TablePredictor(knows_all), examples, model="m")
    with pytest.raises(AssertionError, match="records"):
        merge([records[1:]], examples)
    with pytest.raises(AssertionError, match="two ranks"):
        merge([records, records[:1]], examples)


def test_a_predictor_that_drops_answers_is_noticed() -> None:
    class Lossy(TablePredictor):
        def predict(self, requests: Sequence[Request], max_new_tokens: int) -> list[Prediction]:
            return super().predict(requests, max_new_tokens)[:-1]

    with pytest.raises(AssertionError, match="predictor answered"):
        evaluate(Lossy(knows_all), world(), model="m")
