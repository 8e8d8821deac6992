"""Covering arrays: few rows in which every value of every factor meets every value of every other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations

Factors = Mapping[str, Sequence[Hashable]]
Row = dict[str, Hashable]
Pair = tuple[str, Hashable, str, Hashable]


def pairs_of(row: Mapping[str, Hashable]) -> set[Pair]:
    """The pairs of values that a row, or a part of one, holds; factors in the order of their names."""
    return {(a, row[a], b, row[b]) for a, b in combinations(sorted(row), 2)}


def all_pairs(factors: Factors) -> set[Pair]:
    """What an array has to cover."""
    return {(a, x, b, y) for a, b in combinations(sorted(factors), 2) for x in factors[a] for y in factors[b]}


def covering_array(factors: Factors) -> list[Row]:
    """Rows that cover all pairs, always the same ones; no array has fewer than the product of the two longest factors.

    Greedy: a row starts with the first pair still open, the longest factors first. Every other factor, longest
    first, takes the value that covers the most open pairs with what the row has; of equals the one that was together
    with it least, so that short factors do not change in step.
    """
    names = sorted(factors, key=lambda name: -len(factors[name]))
    missing = all_pairs(factors)
    used: Counter[Pair] = Counter()
    rows: list[Row] = []
    for a, b in combinations(names, 2):
        for x in factors[a]:
            for y in factors[b]:
                if not pairs_of({a: x, b: y}) <= missing:
                    continue
                row: Row = {a: x, b: y}
                for name in (n for n in names if n not in (a, b)):
                    found = {value: pairs_of({**row, name: value}) for value in factors[name]}
                    row[name] = max(found, key=lambda v, found=found: _gain(found[v], missing, used))
                missing -= pairs_of(row)
                used.update(pairs_of(row))
                rows.append({name: row[name] for name in factors})
    assert not missing
    return rows


def _gain(pairs: set[Pair], missing: set[Pair], used: Counter[Pair]) -> tuple[int, int]:
    return len(pairs & missing), -sum(used[pair] for pair in pairs)
