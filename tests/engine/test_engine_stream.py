"""Batches of a run: global counts, views bound to each other, and a step that ranks and accumulation never change."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from engine_support import FORGET, MAX_LENGTH, RETAIN

from clear_dist.data.conversations import idk_examples
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.models import Model
from clear_dist.types import Batch, Example, UserError, View

POOLS = {View.FORGET: FORGET, View.RETAIN: RETAIN, View.IDK: idk_examples(FORGET)}
BATCH = {View.FORGET: 3, View.RETAIN: 7, View.IDK: 3}


def stream(model: Model, rank: int = 0, ranks: int = 1, accumulation: int = 1, **changed: object) -> Stream:
    pools = changed.pop("pools", POOLS)
    settings = {
        "batch": BATCH,
        "seed": 4,
        "questions_per_picture": 2,
        "max_length": MAX_LENGTH,
        "row_length": 96,
        "one_run_per_picture": True,
    }
    values = {**settings, **changed}
    return Stream(pools, model.processor, StreamSettings(accumulation=accumulation, **values), rank, ranks)  # type: ignore[arg-type]


def answers(batch: Batch) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """view -> (example id, its scored tokens)."""
    out = {}
    for view, examples in batch.view_examples.items():
        out[view] = [
            (batch.example_ids[n], tuple(batch.targets[batch.token_example == n].tolist()))
            for n in range(examples.start, examples.stop)
        ]
    return out


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 4), (5, 2), (4, 4)])
def test_parts_add_up_to_the_whole_step(base: Model, ranks: int, accumulation: int) -> None:
    whole = stream(base)
    parts = [stream(base, rank, ranks, accumulation) for rank in range(ranks)]
    for step in range(5):
        (one,) = whole.micro_batches(step)
        wanted = {view: Counter(rows) for view, rows in answers(one).items()}
        found: dict[str, Counter] = {str(view): Counter() for view in POOLS}
        for part in parts:
            batches = list(part.micro_batches(step))
            assert len(batches) == accumulation
            for batch in batches:
                for view, rows in answers(batch).items():
                    found[view].update(rows)
        assert found == wanted
        for view, totals in whole.totals(step).items():
            assert all(part.totals(step) == whole.totals(step) for part in parts)
            assert totals.examples == BATCH[view] == found[str(view)].total()
            assert totals.tokens == sum(len(tokens) * n for (_, tokens), n in found[str(view)].items())


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (2, 3), (3, 1)])
@pytest.mark.parametrize("with_forget", [True, False])
def test_idk_follows_forget_one_by_one(base: Model, ranks: int, accumulation: int, with_forget: bool) -> None:
    """The i-th IDK example is the i-th forget example with another answer, on every rank: pairs need both at once."""
    pools = POOLS if with_forget else {View.IDK: POOLS[View.IDK]}
    for rank in range(ranks):
        bound = stream(base, rank, ranks, accumulation, pools=pools)
        forget = stream(base, rank, ranks, accumulation, pools={View.FORGET: FORGET})
        for step in range(4):
            for got, plain in zip(bound.micro_batches(step), forget.micro_batches(step), strict=True):
                ids = [name for name, _ in answers(got)["idk"]]
                assert ids == [name for name, _ in answers(plain)["forget"]]
                assert not {t for _, t in answers(got)["idk"]} & {t for _, t in answers(plain)["forget"]}


def test_a_step_is_a_function_of_seed_and_step(base: Model) -> None:
    first, again = stream(base, 1, 2, 2), stream(base, 1, 2, 2)
    for step in (3, 0, 3):  # in any order: resuming is nothing but asking for a later step
        for a, b in zip(first.micro_batches(step), again.micro_batches(step), strict=True):
            assert a.example_ids == b.example_ids
            assert torch.equal(a.input_ids, b.input_ids)
    ids = [[b.example_ids for b in stream(base, seed=s).micro_batches(0)] for s in (4, 5)]
    assert ids[0] != ids[1]


def test_an_epoch_visits_every_text_and_every_picture(base: Model) -> None:
    forget = stream(base, pools={View.FORGET: FORGET}, batch={View.FORGET: 2})
    size = forget.examples_per_epoch(View.FORGET)
    assert size == 2 * 2 + 2  # two pictures with a run of two questions each, two texts
    seen = [n for step in range(size // 2) for b in forget.micro_batches(step) for n in b.example_ids]
    assert len(seen) == len(set(seen)) == size
    people = Counter(name.rsplit("/", 1)[0] for name in seen)
    assert people == {"forget/0": 3, "forget/1": 3}


def test_layouts_hold_the_same_examples(base: Model) -> None:
    (dense,), (padded,) = (list(stream(base, layout=layout).micro_batches(1)) for layout in ("dense", "padded"))
    assert answers(dense) == answers(padded)
    assert padded.input_ids.shape[0] == len(padded.example_ids)
    assert dense.input_ids.numel() < padded.input_ids.numel()


def test_an_empty_view_is_refused(base: Model) -> None:
    with pytest.raises(UserError, match=r"the retain set is empty.*--forget"):
        stream(base, pools={View.FORGET: FORGET, View.RETAIN: list[Example]()})


@pytest.mark.parametrize("steps", [0, 1, 3, 50])
def test_drawn_is_what_steps_come_to(base: Model, steps: int) -> None:
    whole = stream(base)
    for view in whole.settings.batch:
        seen = {i for step in range(steps) for i in whole._chosen(view, step)}
        assert whole.drawn(view, steps) == sorted(seen)
    assert (whole.drawn(View.RETAIN, steps) == list(range(len(whole.encoded(View.RETAIN))))) == (steps == 50)
