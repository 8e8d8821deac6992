"""What several sequences share, laid out so that it is computed once.

A picture is the trunk, its questions are branches, their answers leaves:

    [picture] [question 1] [answer 1a] [answer 1b] ... [question 2] [answer 2a] ...

Every token sees its own part, and the parts it grows on: an answer its question and picture, never another answer.
Positions go on from the parent's, so each answer stands exactly where it would stand alone. Whatever grows on a part
follows it without a gap, hence one number a token, ``Batch.visible_until``, says who may see it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clear_dist.data.encode import Ids
from clear_dist.data.picture_inputs import Placed
from clear_dist.types import ImageLayout, Picture


@dataclass(eq=False)
class Question:
    """number: among those of a batch. rest: [q], the prompt behind the picture. answers: (number, tokens) of each."""

    number: int
    rest: Ids
    answers: list[tuple[int, Ids]] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.rest) + sum(len(ids) for _, ids in self.answers)


@dataclass(eq=False)
class Trunk:
    """prefix: [p], up to and including the picture's tokens; empty without one."""

    picture: Picture | None
    prefix: Ids
    layout: ImageLayout | None
    questions: list[Question] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.prefix) + sum(question.length for question in self.questions)


class Trunks:
    """Trunks in the order of their first example; what is equal is put together as it comes.

    share: equal pictures with equal words before them, and equal questions on one picture or on none, stand once.
    """

    def __init__(self, *, share: bool = True) -> None:
        self.all: list[Trunk] = []
        self._share = share
        self._trunks: dict[Hashable, Trunk] = {}
        self._questions: dict[Hashable, Question] = {}
        self._count = 0

    def question(self, picture: Picture | None, prefix: Ids, rest: Ids, layout: ImageLayout | None) -> Question:
        """The branch of this prompt, made where there is none."""
        # The prefix belongs to the key: views may put different words before the same picture.
        key = (None if picture is None else picture.digest, prefix.tobytes())
        found = self._questions.get((key, rest.tobytes())) if self._share else None
        if found is not None:
            return found
        # Without a picture there is no trunk to share but the question itself.
        trunk = self._trunks.get(key) if self._share and picture is not None else None
        if trunk is None:
            trunk = self._trunks[key] = Trunk(picture, prefix, layout)
            self.all.append(trunk)
        made = self._questions[key, rest.tobytes()] = Question(self._count, rest)
        trunk.questions.append(made)
        self._count += 1
        return made


@dataclass(eq=False)
class Rows:
    """Trunks written into rows; see ``Batch`` for the fields of its name. prompts: question -> flat places of its
    prompt, trunk first, [p + q]; answers: answer -> flat places, [a]."""

    input_ids: Ids
    position_ids: Ids
    visible_until: Ids
    real: NDArray[np.bool_]
    prompts: dict[int, Ids] = field(default_factory=dict)
    answers: dict[int, Ids] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)

    def scored(self, question: int, answer: int) -> Ids:
        """[a] flat places whose states predict an answer: each token is predicted by the one before it, the first by
        the prompt's last."""
        return np.concatenate([self.prompts[question][-1:], self.answers[answer][:-1]])

    def image_slots(self, image_id: int | None) -> Ids:
        """Flat places of the image tokens, picture by picture."""
        length = self.input_ids.shape[1]
        slots = [p.row * length + p.start + np.flatnonzero(p.prefix == image_id) for p in self.placed]
        return joined(slots)


def write_rows(rows: Sequence[Sequence[Trunk]], length: int, pad_id: int) -> Rows:
    """The trunks of each row one behind the other, then padding: [R, length]; one row of padding without any."""
    shape = (max(len(rows), 1), length)
    out = Rows(
        input_ids=np.full(shape, pad_id, dtype=np.int64),
        position_ids=np.zeros(shape, dtype=np.int64),
        visible_until=np.full(shape, length, dtype=np.int64),  # padding is seen by padding behind it, by nothing else
        real=np.zeros(shape, dtype=bool),
    )
    ramp = np.arange(length, dtype=np.int64)

    def put(row: int, at: int, part: Ids, position: int, until: int) -> int:
        """Writes one part, seen until ``until``; returns where it ends."""
        end = at + len(part)
        out.input_ids[row, at:end] = part
        out.position_ids[row, at:end] = ramp[: len(part)] + position
        out.visible_until[row, at:end] = until
        return end

    for r, row in enumerate(rows):
        at = 0
        for trunk in row:
            start, p = at, len(trunk.prefix)
            until = start + trunk.length
            at = put(r, at, trunk.prefix, 0, until)
            if trunk.picture is not None:
                out.pictures.append(trunk.picture)
                out.placed.append(Placed(r, start, until, trunk.prefix, trunk.layout))
            for question in trunk.questions:
                q = len(question.rest)
                prompt = np.concatenate([ramp[start : start + p], ramp[at : at + q]])
                out.prompts[question.number] = r * length + prompt
                at = put(r, at, question.rest, p, at + question.length)
                for number, answer in question.answers:
                    end = at + len(answer)
                    out.answers[number] = r * length + ramp[at:end]
                    at = put(r, at, answer, p + q, end)
            assert at == until
        out.real[r, :at] = True
    return out


def joined(parts: Sequence[Ids]) -> Ids:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
