"""The predictor: packed scoring equals scoring alone, grouped generation equals one by one, and pictures are seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_support import FORGET, RETAIN, alone

from clear_dist.engine.predict import ModelPredictor
from clear_dist.models import Model
from clear_dist.types import Request, UserError

EXAMPLES = [*FORGET, *RETAIN]
WRONG = "This is Carla Ruiz."
REQUESTS = [Request(e.question, e.picture, (e.answer, WRONG, e.answer)) for e in EXAMPLES]


@pytest.mark.parametrize("token_budget", [1, 150, 16_384])
def test_scores_equal_scoring_alone(base: Model, token_budget: int) -> None:
    done: list[int] = []
    predictor = ModelPredictor(base, token_budget=token_budget, row_length=96, on_progress=done.append)
    scores = predictor.score(REQUESTS)
    assert sum(done) == len(REQUESTS)
    for example, (right, wrong, again) in zip(EXAMPLES, scores, strict=True):
        assert right == pytest.approx(alone(base, example), abs=1e-5)
        assert wrong == pytest.approx(alone(base, replace(example, answer=WRONG)), abs=1e-5)
        assert again == pytest.approx(right, abs=1e-5)
        assert len(right) == len(base.processor.encode_answer(example.answer))


def test_no_answers_and_no_requests(base: Model) -> None:
    predictor = ModelPredictor(base)
    assert predictor.score([]) == []
    assert predictor.generate([], 4) == []
    mixed = predictor.score([Request("Who is this person?"), REQUESTS[0], Request("Who?", REQUESTS[0].picture)])
    assert mixed[0] == [] and mixed[2] == []
    assert len(mixed[1]) == 3


@pytest.mark.parametrize("generation_batch", [2, 64])
def test_generation_equals_one_by_one(base: Model, generation_batch: int) -> None:
    done: list[int] = []
    predictor = ModelPredictor(base, generation_batch=generation_batch, on_progress=done.append)
    together = predictor.generate(REQUESTS, 6)
    assert sum(done) == len(REQUESTS)
    assert together == [predictor.generate([request], 6)[0] for request in REQUESTS]
    assert any(together), "a model that says nothing proves nothing"


def test_pictures_matter(base: Model) -> None:
    """The same question and answer on two pictures: other numbers; on the same picture: the same."""
    first, second = FORGET[0].picture, FORGET[4].picture
    assert first is not None and second is not None and first != second
    question, answer = "Who is this person?", "This is Anna Berg."
    requests = [Request(question, p, (answer,)) for p in (first, second, None, first)]
    one, other, blind, again = (s[0] for s in ModelPredictor(base).score(requests))
    assert one == pytest.approx(again, abs=1e-6)
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 1e-4
    assert max(abs(a - b) for a, b in zip(one, blind, strict=True)) > 1e-4


def test_order_of_answers_and_requests_does_not_matter(base: Model) -> None:
    predictor = ModelPredictor(base, token_budget=200)
    forward, backward = predictor.score(REQUESTS), predictor.score(REQUESTS[::-1])[::-1]
    for a, b in zip(forward, backward, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x == pytest.approx(y, abs=1e-5)


def test_an_answer_too_long_is_named(base: Model) -> None:
    with pytest.raises(UserError, match=r"request 1: .* more than --max-length 40"):
        ModelPredictor(base, max_length=40).score(
            [Request("Who?", None, ("Anna.",)), Request("Who?", None, ("a " * 60,))]
        )
