"""Items made ahead: the same ones in the same order, mistakes told where they are met, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from clear_dist.engine.prefetch import prefetched


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "prefetch"]


@pytest.mark.parametrize("depth", [0, 1, 2, 7, 100])
def test_same_items_in_the_same_order(depth: int) -> None:
    with prefetched((i * i for i in range(50)), depth) as items:
        assert list(items) == [i * i for i in range(50)]
        assert next(items, None) is None, "what has ended stays so"
    assert not threads()


def test_items_are_made_ahead_and_no_further_than_allowed() -> None:
    made: list[int] = []
    third, fifth = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            {2: third, 4: fifth}.get(i, threading.Event()).set()
            yield i

    with prefetched(items(), 2) as ahead:
        assert not third.wait(0.2) or len(made) == 2, "two are ready, and nobody has asked for one"
        assert next(ahead) == 0 and third.wait(10), "with one taken, the third is made without being asked for"
        assert made == [0, 1, 2] and not fifth.is_set()
    assert not threads()


def test_depth_0_makes_nothing_before_it_is_asked_for() -> None:
    made: list[int] = []
    with prefetched((made.append(i) or i for i in range(3)), 0) as items:
        assert made == [] and next(items) == 0 and made == [0] and not threads()


@pytest.mark.parametrize("depth", [0, 3])
def test_a_mistake_is_raised_where_its_item_is_asked_for(depth: int) -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("people[3].image: not a picture")

    with prefetched(items(), depth) as ahead:
        assert [next(ahead), next(ahead)] == [1, 2]
        with pytest.raises(ValueError, match=r"people\[3\].image: not a picture") as caught:
            next(ahead)
        assert any(entry.name == "items" for entry in caught.traceback), "it says where it happened"
    assert not threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_thread_outlives_an_interruption(error: type[BaseException]) -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 0

    with pytest.raises(error), prefetched(endless(), 2) as ahead:
        next(ahead)
        assert threads() == ["prefetch"]
        raise error
    assert not threads()
