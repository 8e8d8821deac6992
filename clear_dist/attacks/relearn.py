"""What is shown again, and what may be asked then.

Relearning: a few steps of ordinary training on a few rows (arXiv 2406.13356, "Jogging the memory of unlearned LLMs":
benign or related data can bring back what was unlearned). The control is gold, which never knew the people, given
the very same rows and steps: what gold reaches is learning, what an unlearned model reaches beyond it is remembering
(``readings.recovery``).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Final

from clear_dist.metrics.accuracy import contains
from clear_dist.types import Example

SHOWN_KINDS: Final = ("qa", "caption", "name")  # rows that tell something about a person


def shown_rows(train: Sequence[Example], count: int, seed: int) -> list[Example]:
    """``count`` rows to train on (all there are, if fewer): as many people as possible, questions and pictures in turn.

    The same rows for the same seed and data, whatever the order of ``train``.
    """
    rng = random.Random(f"relearn/{seed}")
    rows = sorted((e for e in train if e.kind in SHOWN_KINDS), key=lambda e: e.id)
    people = sorted({e.person or "" for e in rows})
    rng.shuffle(people)
    heaps = {(person, kind): list[Example]() for person in people for kind in ("text", "visual")}
    for row in rng.sample(rows, len(rows)):
        heaps[row.person or "", row.modality].append(row)
    out: list[Example] = []
    turn = 0
    while len(out) < min(count, len(rows)):
        round_, place = divmod(turn, len(people))
        wanted = ("text", "visual") if (round_ + place) % 2 == 0 else ("visual", "text")
        heap = next((h for kind in wanted if (h := heaps[people[place], kind])), None)
        if heap:
            out.append(heap.pop())
        turn += 1
    return out


def untouched(examples: Iterable[Example], shown: Sequence[Example]) -> list[Example]:
    """The examples whose answer the shown rows do not give away.

    Left out is the same question on the same picture, and whatever asks for a fact that a shown answer about the same
    person states: the other wording of a question; the name under any picture, once one picture was shown with it.
    Names in questions without a picture teach no face, so they leave pictures in.
    """
    asked = {_question(e) for e in shown}
    return [e for e in examples if _question(e) not in asked and not any(_tells(row, e) for row in shown)]


def _question(example: Example) -> tuple[str, str | None]:
    return example.question, None if example.picture is None else example.picture.digest


def _tells(shown: Example, example: Example) -> bool:
    if shown.person is None or shown.person != example.person or shown.modality != example.modality:
        return False
    secret = example.fact or (example.person if example.kind in ("caption", "name") else None)
    return secret is not None and contains(shown.answer, secret)
