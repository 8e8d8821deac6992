"""The predictor: packed scoring equals scoring alone, grouped generation equals one by one, and pictures are seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_support import FORGET, RETAIN, alone, distribution

from clear_dist.engine.predict import ModelPredictor
from clear_dist.engine.sample import AnswerSampler
from clear_dist.models import Model
from clear_dist.types import Request, UserError

EXAMPLES = [*FORGET, *RETAIN]
WRONG = "This is Carla Ruiz."
REQUESTS = [Request(e.question, e.picture, (e.answer, WRONG, e.answer)) for e in EXAMPLES]
# Prompts of several lengths, with pictures and without, some of them twice.
MIXED = [Request(q, e.picture) for e in EXAMPLES for q in ("Who is this person?", e.question)]
MIXED += [Request(q) for q in ("Who?", "What is to be seen in this image?", "Who?")]


@pytest.mark.parametrize("token_budget", [1, 150, 16_384])
def test_scores_equal_scoring_alone(base: Model, token_budget: int) -> None:
    done: list[int] = []
    predictor = ModelPredictor(base, token_budget=token_budget, row_length=96, on_progress=done.append)
    scores = predictor.score(REQUESTS)
    assert sum(done) == len(REQUESTS)
    for example, (right, wrong, again) in zip(EXAMPLES, scores, strict=True):
        assert right.logp == pytest.approx(alone(base, example), abs=1e-5)
        assert wrong.logp == pytest.approx(alone(base, replace(example, answer=WRONG)), abs=1e-5)
        assert again.logp == pytest.approx(right.logp, abs=1e-5)
        assert len(right.logp) == len(base.processor.encode_answer(example.answer))
        assert len(right.top1) == len(right.mean) == len(right.std) == len(right.logp)
        assert not wrong.mean and not wrong.std and len(wrong.top1) == len(wrong.logp)


def test_no_answers_and_no_requests(base: Model) -> None:
    predictor = ModelPredictor(base)
    assert predictor.score([]) == []
    assert predictor.generate([], 4) == []
    mixed = predictor.score([Request("Who is this person?"), REQUESTS[0], Request("Who?", REQUESTS[0].picture)])
    assert mixed[0] == [] and mixed[2] == []
    assert len(mixed[1]) == 3


@pytest.mark.parametrize("token_budget", [1, 150, 16_384])
def test_generation_equals_one_by_one_and_transformers_own(base: Model, token_budget: int) -> None:
    """Decoding from the scoring pass, rows of unequal length leaving one by one, says what ``generate`` says."""
    done: list[int] = []
    predictor = ModelPredictor(base, token_budget=token_budget, on_progress=done.append)
    together = predictor.generate(MIXED, 9)
    assert sum(done) == len(MIXED)
    assert together == [said.text for said in AnswerSampler(base, batch=1).sample(MIXED, 9, temperature=0)]
    assert len(set(together)) > 2, "a model that always says the same proves nothing"
    assert [p.text for p in predictor.predict([replace(r, answers=("Anna.",)) for r in MIXED], 9)] == together


def test_an_answer_may_be_of_one_token_or_none(base: Model) -> None:
    predictor = ModelPredictor(base)
    assert all(len(text.split()) <= 1 for text in predictor.generate(MIXED, 1))
    assert predictor.predict(MIXED, 0)[0].text is None


def test_top1_and_moments_are_those_of_the_whole_distribution(base: Model) -> None:
    example = FORGET[0]
    scored = ModelPredictor(base).score([Request(example.question, example.picture, (example.answer,))])[0][0]
    logp_TV = distribution(base, example)
    target = torch.tensor(base.processor.encode_answer(example.answer))
    assert scored.top1 == (logp_TV.argmax(-1) == target).tolist()
    mean = (logp_TV.exp() * logp_TV).sum(-1)
    std = (logp_TV.exp() * (logp_TV - mean[:, None]) ** 2).sum(-1).sqrt()
    assert scored.mean == pytest.approx(mean.tolist(), abs=1e-5)
    assert scored.std == pytest.approx(std.tolist(), abs=1e-5)


def test_pictures_matter(base: Model) -> None:
    """The same question and answer on two pictures: other numbers; on the same picture: the same."""
    first, second = FORGET[0].picture, FORGET[4].picture
    assert first is not None and second is not None and first != second
    question, answer = "Who is this person?", "This is Anna Berg."
    requests = [Request(question, p, (answer,)) for p in (first, second, None, first)]
    one, other, blind, again = (s[0].logp for s in ModelPredictor(base).score(requests))
    assert one == pytest.approx(again, abs=1e-6)
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 1e-4
    assert max(abs(a - b) for a, b in zip(one, blind, strict=True)) > 1e-4


def test_order_of_answers_and_requests_does_not_matter(base: Model) -> None:
    predictor = ModelPredictor(base, token_budget=200)
    forward, backward = predictor.score(REQUESTS), predictor.score(REQUESTS[::-1])[::-1]
    for a, b in zip(forward, backward, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.logp == pytest.approx(y.logp, abs=1e-5)


def test_an_answer_too_long_is_named(base: Model) -> None:
    with pytest.raises(UserError, match=r"request 1: .* more than --max-length 40"):
        ModelPredictor(base, max_length=40).score(
            [Request("Who?", None, ("Anna.",)), Request("Who?", None, ("a " * 60,))]
        )
