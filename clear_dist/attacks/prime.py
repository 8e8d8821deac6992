"""Answers that are begun for the model: it only has to go on.

The words before what the answer gives away ("Ann Lee was born in") are put behind the prompt, as if the model had said
them. An attacker who knows how answers look can do that; it gets around any habit of starting with a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clear_dist.types import Example, Processor

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

UNKNOWN_SHARE = 3  # where no fact is known, an answer's first third is given


@dataclass(frozen=True)
class Begun:
    """The rest of the answers to be found, under questions that also show how the answer began.

    starts: such a question -> (the question itself, the beginning). rests: rest of an answer -> a beginning it follows.
    left_out: ids of examples whose answer has nothing before what it gives away.
    """

    examples: list[Example]
    starts: dict[str, tuple[str, str]]
    rests: dict[str, str]
    left_out: list[str]


def begin(examples: Sequence[Example]) -> Begun:
    """Each example with the beginning of its right answer given, and only the rest to be said and scored.

    Wrong and paraphrased answers stay where they begin alike; otherwise no truth ratio is left. Multiple choice is
    left out: its answers are one word.
    """
    out, left_out = [], []
    starts: dict[str, tuple[str, str]] = {}
    rests: dict[str, str] = {}
    for example in examples:
        start = beginning(example)
        if start is None:
            left_out.append(example.id)
            continue
        lead = f"{start} "
        shown = f"{example.question} [{start} ...]"
        answer = example.answer.removeprefix(lead)
        alike = all(a.startswith(lead) and a != lead for a in example.perturbed)
        paraphrase = example.paraphrase if example.paraphrase and example.paraphrase.startswith(lead) else None
        wrong = tuple(a.removeprefix(lead) for a in example.perturbed) if alike else ()
        starts[shown] = (example.question, start)
        rests |= dict.fromkeys((answer, *wrong), start)
        out.append(
            replace(
                example,
                question=shown,
                answer=answer,
                paraphrase=None if paraphrase is None else paraphrase.removeprefix(lead),
                perturbed=wrong,
            )
        )
        if out[-1].paraphrase:
            rests.setdefault(out[-1].paraphrase, start)
    return Begun(out, starts, rests, left_out)


def beginning(example: Example) -> str | None:
    """The words of the answer before its fact, or before the person's name on a picture; the first third of the words
    where neither is known; None where nothing comes before."""
    if example.options:
        return None
    secret = example.fact or (example.person if example.picture is not None else None)
    if secret is None:
        words = example.answer.split()
        return " ".join(words[: len(words) // UNKNOWN_SHARE]) or None
    place = re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", example.answer)
    start = example.answer[: place.start()] if place else ""
    # Cut between words only: nobody types half of "pre-war".
    return start.strip() if start.strip() and start.endswith(" ") else None


class Primed:
    """A ``types.Processor`` that puts the beginnings of answers behind the prompts they belong to."""

    def __init__(self, inner: Processor, starts: Mapping[str, tuple[str, str]], rests: Mapping[str, str]) -> None:
        self._inner, self._starts, self._rests = inner, starts, rests
        self.eos_id, self.pad_id = inner.eos_id, inner.pad_id
        self.image_id, self.image_tokens, self.image_shape = inner.image_id, inner.image_tokens, inner.image_shape
        self.layout_of = inner.layout_of

    def encode_prompt(self, question: str, with_picture: bool) -> tuple[list[int], list[int]]:
        asked, start = self._starts.get(question, (question, ""))
        prefix, rest = self._inner.encode_prompt(asked, with_picture)
        return prefix, [*rest, *self._inner.encode_answer(start)[:-1]] if start else rest

    def encode_answer(self, answer: str) -> list[int]:
        """Tokens of the answer as it goes on behind its beginning, EOS last."""
        start = self._rests.get(answer)
        if start is not None:
            given, whole = self._inner.encode_answer(start)[:-1], self._inner.encode_answer(f"{start} {answer}")
            if whole[: len(given)] == given:
                return whole[len(given) :]
        return self._inner.encode_answer(answer)

    def decode(self, ids: Sequence[int]) -> str:
        return self._inner.decode(ids)

    def pixels(self, image: Image) -> Tensor:
        return self._inner.pixels(image)
