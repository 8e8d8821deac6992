"""Which groups of tokens stand in which row of a batch."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Literal

Layout = Literal["dense", "varlen", "padded"]


def cut_rows(lengths: Sequence[int], layout: Layout, row_length: int) -> list[list[int]]:
    """Which groups stand in which row. Dense: as few rows as first-fit-decreasing finds, evenly filled."""
    if not lengths:
        return []
    if layout == "varlen":
        return [list(range(len(lengths)))]
    if layout == "padded":
        return [[g] for g in range(len(lengths))]
    capacity = max(row_length, *lengths)
    falling = sorted(range(len(lengths)), key=lambda g: (-lengths[g], g))
    best = _first_fit(falling, lengths, capacity)
    # Every row is as long as the fullest: the same number of rows filled evenly, or a few more, often computes
    # fewer tokens. Ties go to fewer rows.
    for count in range(len(best), min(2 * len(best), len(lengths)) + 1):
        even = _emptiest_first(falling, lengths, count)
        if _area(even, lengths) < _area(best, lengths) and longest(even, lengths) <= capacity:
            best = even
    return sorted(sorted(row) for row in best)


def _first_fit(falling: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    bins: list[list[int]] = []
    room: list[int] = []
    for g in falling:
        at = next((b for b, free in enumerate(room) if free >= lengths[g]), None)
        if at is None:
            bins.append([g])
            room.append(capacity - lengths[g])
        else:
            bins[at].append(g)
            room[at] -= lengths[g]
    return bins


def _emptiest_first(falling: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    bins: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, b) for b in range(count)]
    for g in falling:
        load, b = heap[0]
        bins[b].append(g)
        heapq.heapreplace(heap, (load + lengths[g], b))
    return bins


def longest(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """Tokens of the fullest row; 1 without any, since an empty batch is a row of one padding token."""
    return max((sum(lengths[g] for g in row) for row in rows), default=1)


def _area(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return len(rows) * longest(rows, lengths)
