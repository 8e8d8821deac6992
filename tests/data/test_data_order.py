"""The order of examples depends on the seed alone."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from data_fakes import example, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from clear_dist.data.order import Order, share
from clear_dist.types import Example, Kind

KINDS: tuple[Kind, ...] = ("name", "caption", "describe", "attribute")
SHAPES = st.lists(st.integers(0, 6), max_size=8)  # questions of each picture; 0: a text example


def pool(shape: list[int]) -> list[Example]:
    out: list[Example] = []
    for number, questions in enumerate(shape):
        shown = picture(number) if questions else None
        out += [example(100 * number + q, "q", "a", shown, KINDS[q % 4]) for q in range(max(questions, 1))]
    return out


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(1, 4), st.integers(0, 3))
def test_every_epoch_holds_every_example_once(shape: list[int], run: int, seed: int) -> None:
    examples = pool(shape)
    order = Order(examples, seed, "forget", run)
    size = order.examples_per_epoch
    assert size == len(examples)
    for epoch in range(3):
        assert sorted(order.take(epoch * size, size)) == list(range(size))


@settings(max_examples=40, deadline=None)
@given(SHAPES.filter(len), st.integers(0, 50), st.integers(0, 40), st.integers(0, 40))
def test_the_stream_has_no_state(shape: list[int], start: int, count: int, cut: int) -> None:
    order = Order(pool(shape), 7, "retain", 2)
    whole = order.take(start, count)
    cut = min(cut, count)
    assert len(whole) == count
    assert order.take(start, cut) + Order(pool(shape), 7, "retain", 2).take(start + cut, count - cut) == whole


def test_epochs_seeds_and_views_differ() -> None:
    examples = pool([0] * 40)
    streams = [
        tuple(Order(examples, seed, view).take(start, 40))
        for seed, view, start in [(0, "forget", 0), (0, "forget", 40), (1, "forget", 0), (0, "retain", 0)]
    ]
    assert len(set(streams)) == 4


def test_questions_on_a_picture_come_in_runs() -> None:
    examples = pool([9, 5, 0, 4])
    order = Order(examples, 0, "forget", 4)
    runs: dict[str, list[int]] = defaultdict(list)
    stream = order.take(0, order.examples_per_epoch)
    at = 0
    while at < len(stream):
        shown = examples[stream[at]].picture
        end = at + 1
        while end < len(stream) and shown is not None and examples[stream[end]].picture == shown:
            end += 1
        runs["text" if shown is None else shown.source].append(end - at)
        at = end
    # Two runs of one picture may happen to be neighbours; their sum tells.
    assert {name: sum(sizes) for name, sizes in runs.items()} == {
        "full[0].image": 9,
        "full[1].image": 5,
        "full[3].image": 4,
        "text": 1,
    }
    assert runs["full[3].image"] == [4]
    assert all(size in (1, 4, 5, 8, 9) for sizes in runs.values() for size in sizes)


def test_one_run_per_picture_draws_anew_and_prefers_names_and_captions() -> None:
    examples = pool([6] * 20 + [0] * 3)
    order = Order(examples, 3, "forget", 2, one_run_per_picture=True)
    assert order.examples_per_epoch == 43
    kinds: Counter[str] = Counter()
    seen: set[int] = set()
    for epoch in range(100):
        drawn = order.take(epoch * 43, 43)
        assert len(set(drawn)) == 43
        per_picture = Counter(examples[i].picture for i in drawn)
        assert all(n == 2 for shown, n in per_picture.items() if shown is not None)
        assert per_picture[None] == 3
        kinds.update(examples[i].kind for i in drawn if examples[i].picture)
        seen.update(drawn)
    assert seen == set(range(len(examples)))
    # Six questions: name and caption twice each (weight 4), describe and attribute once.
    assert kinds["name"] > 5 * kinds["describe"]
    assert kinds["caption"] > 5 * kinds["attribute"]


def test_weights_can_be_turned_round() -> None:
    examples = pool([4] * 50)
    order = Order(examples, 0, "forget", 1, {"describe": 1e9}, one_run_per_picture=True)
    assert {examples[i].kind for i in order.take(0, 50)} == {"describe"}


def test_no_example_gives_no_stream() -> None:
    order = Order([], 0, "forget")
    assert (order.examples_per_epoch, order.take(5, 3), order.runs([])) == (0, [], [])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 5), max_size=12), st.integers(1, 9))
def test_shares_are_the_whole_in_order_for_any_number_of_parts(sizes: list[int], parts: int) -> None:
    numbers = iter(range(100))
    runs = [[next(numbers) for _ in range(size)] for size in sizes]
    shares = [share(runs, parts, part) for part in range(parts)]
    total = sum(sizes)
    assert [i for one in shares for i in one] == list(range(total))
    assert all(abs(len(one) - total / parts) <= total / parts / 2 + 1 for one in shares)


def test_cuts_keep_runs_together_where_it_is_cheap() -> None:
    assert [share([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14]], 2, p) for p in (0, 1)] == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [8, 9, 10, 11, 12, 13, 14],
    ]
    assert [share([[0, 1, 2, 3]], 2, p) for p in (0, 1)] == [[0, 1], [2, 3]], "nobody stays empty for that"


def test_fewer_examples_than_parts_leave_some_empty() -> None:
    assert [len(share([[0], [1]], 4, p)) for p in range(4)] == [0, 1, 0, 1]
    assert [share([], 3, p) for p in range(3)] == [[], [], []]


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_a_step_is_the_same_set_for_any_number_of_ranks(parts: int) -> None:
    order = Order(pool([3, 5, 0, 4, 0, 2]), 5, "forget", 3)
    step = order.take(20, 10)
    assert [i for p in range(parts) for i in share(order.runs(step), parts, p)] == step
