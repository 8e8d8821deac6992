"""Cutting the evaluation for several ranks and putting the records together again, in one fixed order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from clear_dist.metrics.record import Record
from clear_dist.types import Example, SetName


def shard(examples: Mapping[SetName, Sequence[Example]], rank: int, world: int) -> dict[SetName, list[Example]]:
    """This rank's share: neighbours on the same picture stay together, such groups are dealt out in turn.

    Text examples are groups of their own, so every rank gets its part of each set. Shares may be unequal, or empty.
    """
    assert 0 <= rank < world
    share: dict[SetName, list[Example]] = {}
    for name, rows in examples.items():
        keyed = [(e.picture.digest if e.picture is not None else f"text {i}", e) for i, e in enumerate(rows)]
        groups = [[e for _, e in group] for _, group in groupby(keyed, key=lambda pair: pair[0])]
        share[name] = [e for group in groups[rank::world] for e in group]
    return share


def merge(shares: Sequence[Sequence[Record]], examples: Mapping[SetName, Sequence[Example]]) -> list[Record]:
    """The ranks' records of one model in the order of ``examples``, whatever the number of ranks.

    Nothing may be lost or double on the way: both are bugs, and asserted.
    """
    found = {(r.set, r.id): r for share in shares for r in share}
    assert len(found) == sum(len(share) for share in shares), "an example was evaluated by two ranks"
    wanted = [(name, e.id) for name, rows in examples.items() for e in rows]
    assert len(wanted) == len(found), f"{len(wanted)} examples but {len(found)} records"
    return [found[key] for key in wanted]
