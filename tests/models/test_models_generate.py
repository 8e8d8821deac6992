"""Generation: greedy is what the model's own forward says, sampling is exact and seeded, forbidden words stay out."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from models_support import picture
from torch import Tensor

from clear_dist.models.generate import Sampling, generate, spellings
from clear_dist.models.model import Model

QUESTIONS = ("Who is this person?", "Who wears a shirt?")


def prompt(model: Model, question: str = QUESTIONS[0]) -> list[int]:
    prefix, rest = model.processor.encode_prompt(question, model.processor.image_id is not None)
    return [*prefix, *rest]


def pixels(model: Model, *seeds: int) -> Tensor | None:
    if model.processor.image_id is None:
        return None
    return torch.stack([model.processor.pixels(picture(seed)) for seed in seeds])


@torch.no_grad()
def next_logits(model: Model, ids: list[int], shown: Tensor | None) -> Tensor:
    """[V] by the plain forward, no cache, the placeholder token ruled out."""
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids])}
    if shown is not None:
        inputs["pixel_values"] = shown
    logits = model.module.eval()(**inputs).logits[0, -1].float()
    if model.processor.image_id is not None:
        logits[model.processor.image_id] = -torch.inf
    return logits


def test_greedy_follows_the_plain_forward(model: Model) -> None:
    ids, shown = prompt(model), pixels(model, 1)
    said = generate(model, [ids], shown, 6)[0]
    for i, token in enumerate(said):
        assert token == int(next_logits(model, ids + said[:i], shown).argmax())
    assert said, "a model that says nothing proves nothing"


def test_sampling_leaves_greedy_and_the_global_random_state_alone(model: Model) -> None:
    ids, shown = prompt(model), pixels(model, 1)
    before = generate(model, [ids], shown, 6)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    generate(model, [ids], shown, 6, sampling=Sampling((5,), 1.3, 0.9))
    assert torch.equal(torch.get_rng_state(), state)
    assert generate(model, [ids], shown, 6, forbidden=()) == before


def test_a_row_is_its_seed_whatever_its_neighbours(model: Model) -> None:
    ids, seeds = prompt(model), (3, 4, 2**62, 3)
    together = generate(model, [ids] * 4, pixels(model, 1, 1, 1, 1), 8, sampling=Sampling(seeds, 1.5))
    alone = [generate(model, [ids], pixels(model, 1), 8, sampling=Sampling((seed,), 1.5))[0] for seed in seeds]
    assert together == alone
    assert together[0] == together[3] and len(set(map(tuple, together))) == 3


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.6)])
def test_draws_have_the_probabilities_they_should(llava: Model, temperature: float, top_p: float) -> None:
    """2000 first tokens against softmax(logits / T), cut to the smallest set that holds top_p: chi-square."""
    ids, shown = prompt(llava), pixels(llava, 1)
    assert shown is not None
    p = (8 * next_logits(llava, ids, shown) / temperature).softmax(-1)  # sharpened, so that the cut has an effect
    descending, order = p.sort(descending=True)
    kept = order[(descending.cumsum(0) - descending) < top_p]
    expected = torch.zeros_like(p)
    expected[kept] = p[kept] / p[kept].sum()
    head: Any = llava.family.head(llava.module)
    head.weight.data.mul_(8)
    draws = 2000
    drawn: Counter[int] = Counter()
    for start in range(0, draws, 500):
        seeds = tuple(range(start, start + 500))
        said = generate(
            llava, [ids] * 500, shown.expand(500, -1, -1, -1), 1, sampling=Sampling(seeds, temperature, top_p)
        )
        drawn.update(row[0] if row else llava.processor.eos_id for row in said)
    assert set(drawn) <= set(kept.tolist()), "nothing outside of top_p"
    counted = [(drawn[int(t)], draws * float(expected[t])) for t in kept if draws * expected[t] >= 5]
    chi = sum((o - e) ** 2 / e for o, e in counted)
    freedom = len(counted) - 1
    assert len(counted) > 2, "a distribution of one or two tokens proves little"
    assert chi < freedom + 5 * (2 * freedom) ** 0.5 + 5


def test_forbidden_sequences_stay_out(model: Model) -> None:
    ids, shown = prompt(model), pixels(model, 1)
    free = generate(model, [ids], shown, 6)[0]
    assert len(free) >= 3
    without = generate(model, [ids], shown, 6, forbidden=[free[:1]])[0]
    assert free[0] not in without
    pair = generate(model, [ids], shown, 6, forbidden=[free[1:3]])[0]
    assert pair[:2] == free[:2] and pair[2:3] != free[2:3], "only the end of a sequence is ruled out"
    assert [*free[1:3]] not in [[*two] for two in pairwise(pair)]
    for seed in range(5):
        drawn = generate(model, [ids], shown, 12, sampling=Sampling((seed,), 2.0), forbidden=[free[:1]])[0]
        assert free[0] not in drawn and model.processor.image_id not in drawn


def test_spellings(model: Model) -> None:
    tokenizer = model.processor.tokenizer
    found = spellings(model.processor, ["Anna Berg", "green", "unheard-of"])
    texts = {model.processor.decode(ids) for ids in found}
    assert {"Anna Berg", "green"} <= texts
    assert model.processor.encode_answer("Anna Berg")[:-1] in found
    assert all(ids and tokenizer.unk_token_id not in ids and model.processor.eos_id not in ids for ids in found)
    assert len({tuple(ids) for ids in found}) == len(found)
    assert spellings(model.processor, []) == []


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, 1.1)])
def test_sampling_numbers_are_checked(wrong: tuple[float, float]) -> None:
    with pytest.raises(AssertionError):
        Sampling((1,), *wrong)
