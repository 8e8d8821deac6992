"""Random examples with a mix of the grid: lengths to the token, the share of pictures to the example."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from clear_dist.config import PlanConfig
from clear_dist.models.meta import PICTURE
from clear_dist.models.random_weights import FIRST, NumberProcessor
from clear_dist.types import Example, Picture, View

INSTRUCTION = 56  # tokens of PUBG's privacy instruction, which only the reference reads
_PIXELS = f"P6 {PICTURE} {PICTURE} 255\n".encode() + bytes(3 * PICTURE * PICTURE)  # the plainest picture there is (PPM)


@dataclass(frozen=True)
class Pools:
    """student: view -> its examples, exactly those of a step. reference: what the reference reads instead."""

    student: dict[View, list[Example]]
    reference: dict[View, list[Example]]


def make_pools(batch: Mapping[View, int], config: PlanConfig, processor: NumberProcessor, seed: int) -> Pools:
    """Examples of every view of a step. Those of views that are bound to others (IDK, SAFE, ...) have their questions
    and pictures."""
    rng = np.random.default_rng(seed)
    made: dict[View, list[Example]] = {}
    told: dict[View, list[Example]] = {}

    def words(count: int) -> str:
        return " ".join(map(str, rng.integers(FIRST, processor.vocab, count).tolist()))

    def draw(name: str, count: int) -> list[Example]:
        pictured = round(count * config.pictures) if processor.image_id is not None else 0
        question, answer = config.tokens - config.scored - 1, config.scored - 1  # beside BOS and EOS
        return [
            Example(
                f"{name}/{i}",
                "forget",
                "qa",
                words(question),
                words(answer),
                _picture(name, i) if i < pictured else None,
            )
            for i in range(count)
        ]

    def answered(examples: list[Example]) -> list[Example]:
        return [replace(example, answer=words(config.scored - 1)) for example in examples]

    forget = draw("forget", next((n for view, n in batch.items() if view is not View.RETAIN), 0))
    for view, count in batch.items():
        if view is View.RETAIN:
            made[view] = draw("retain", count)
        elif view in (View.IDK, View.RANDOM, View.SAFE, View.GUIDE):
            made[view] = answered(forget)
        else:
            made[view] = forget
    if View.GUIDE in made:
        told[View.GUIDE] = [replace(e, question=f"{words(INSTRUCTION)} {e.question}") for e in made[View.GUIDE]]
    if View.AUGMENTED in made:
        told[View.AUGMENTED] = [
            e if e.picture is None else replace(e, picture=_picture("changed", i))
            for i, e in enumerate(made[View.AUGMENTED])
        ]
    return Pools(made, told)


def _picture(name: str, number: int) -> Picture:
    source = f"{name}[{number}]"
    return Picture(hashlib.sha256(source.encode()).hexdigest(), source, lambda: _PIXELS)
