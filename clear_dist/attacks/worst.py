"""The worst of several tries: for every question the answer that gave most away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clear_dist.metrics.record import Record


def worst_of(tries: Sequence[Sequence[Record]], model: str) -> list[Record]:
    """One record per question that occurs in any of ``tries``, named ``model``: the one that gave most away.

    First counts whether the fact or the name was said, then ROUGE-L, then the order of the tries. Tries may hold
    different questions. Several tries find more than one does, from any model: compare only with as many tries on gold.
    """
    best: dict[tuple[str, str], Record] = {}
    for records in tries:
        for record in records:
            key = (record.set, record.id)
            if key not in best or _given_away(record) > _given_away(best[key]):
                best[key] = record
    return [replace(record, model=model) for record in best.values()]


def _given_away(record: Record) -> tuple[float, float]:
    said = max(record.score("fact") or 0.0, record.score("name") or 0.0)
    return said, record.score("rouge_l") or 0.0
