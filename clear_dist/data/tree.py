"""Questions with many candidate answers, laid out so that nothing they share is computed twice.

A picture is the trunk, its questions are branches, their answers leaves:

    [picture] [question 1] [answer 1a] [answer 1b] ... [question 2] [answer 2a] ...

Every token sees its own part, and the parts it grows on: an answer its question and picture, never another answer.
Positions go on from the parent's, so each answer stands exactly where it would stand alone. Whatever grows on a part
follows it without a gap, hence one number a token, ``Batch.visible_until``, says who may see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from clear_dist.data.encode import Encoded, Ids
from clear_dist.data.packing import cut_rows, stack_pixels
from clear_dist.data.picture_inputs import Placed, layout_fields
from clear_dist.types import Batch, ImageLayout, Picture, Processor


@dataclass(frozen=True, eq=False)
class Asked:
    """A request as token ids. prefix: up to and including the picture's tokens, empty without one; rest: the rest of
    the prompt; answers: each ends with EOS; there may be none."""

    picture: Picture | None
    prefix: Ids
    rest: Ids
    answers: tuple[Ids, ...] = ()
    layout: ImageLayout | None = None

    @classmethod
    def of(cls, encoded: Sequence[Encoded]) -> Asked:
        """One request from its answers, each encoded with the same prompt."""
        first = encoded[0]
        return cls(first.picture, first.prefix, first.rest, tuple(e.answer for e in encoded), first.layout)

    @property
    def length(self) -> int:
        """Tokens of the request's own tree."""
        return len(self.prefix) + len(self.rest) + sum(map(len, self.answers))


@dataclass(frozen=True)
class Branch:
    """A question of a batch: ``row``, and the places in that row of its prompt, trunk first: [p + q] int64."""

    row: int
    places: Ids


@dataclass
class Tree:
    """batch: scored tokens are those of all answers, request by request, answer by answer, as numbered in it.

    lengths: [request][answer] -> tokens. branches: the different questions; branch_of: request -> its branch.
    """

    batch: Batch
    lengths: list[list[int]]
    branches: list[Branch]
    branch_of: list[int]


@dataclass
class _Question:
    rest: Ids
    number: int
    leaves: list[tuple[int, int]] = field(default_factory=list)  # (request, answer)


@dataclass
class _Trunk:
    picture: Picture | None
    prefix: Ids
    layout: ImageLayout | None
    questions: dict[bytes, _Question] = field(default_factory=dict)
    length: int = 0


def grow(asked: Sequence[Asked], processor: Processor, *, row_length: int, pixels: Callable[[Picture], Tensor]) -> Tree:
    """Lay out requests as trees: one trunk a picture, one branch a question, one leaf an answer.

    Args:
        row_length: tokens a row may hold; a longer trunk with all that grows on it makes the rows as long as itself.
        pixels: picture -> ``Processor.pixels`` of it.

    No request gives a legal batch of one padding token, which several ranks need to keep in step.
    """
    trunks, branch_of, count = _trunks(asked)
    rows = cut_rows([trunk.length for trunk in trunks], "dense", row_length)
    length = max((sum(trunks[t].length for t in row) for row in rows), default=1)
    shape = (max(len(rows), 1), length)
    input_ids = np.full(shape, processor.pad_id, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)
    visible = np.full(shape, length, dtype=np.int64)  # padding is seen by padding behind it, and by nothing else
    padding = np.full(shape, -1, dtype=np.int64)
    branches: list[Branch | None] = [None] * count
    score_index: dict[tuple[int, int], Ids] = {}
    image_slots: list[Ids] = []
    pictures: list[Picture] = []
    placed: list[Placed] = []

    for r, row in enumerate(rows):
        at = 0
        for trunk in (trunks[t] for t in row):
            start, end = at, at + trunk.length
            padding[r, start:end] = 0
            p = len(trunk.prefix)
            at = _write(input_ids, position_ids, visible, r, at, trunk.prefix, 0, end)
            if trunk.picture is not None:
                pictures.append(trunk.picture)
                placed.append(Placed(r, start, end, trunk.prefix, trunk.layout))
                image_slots.append(r * length + start + np.flatnonzero(trunk.prefix == processor.image_id))
            for question in trunk.questions.values():
                q = len(question.rest)
                branch_end = at + q + sum(len(asked[i].answers[a]) for i, a in question.leaves)
                places = np.concatenate([np.arange(start, start + p), np.arange(at, at + q)])
                branches[question.number] = Branch(r, places)
                at = _write(input_ids, position_ids, visible, r, at, question.rest, p, branch_end)
                for i, a in question.leaves:
                    answer = asked[i].answers[a]
                    leaf = np.arange(at, at + len(answer))
                    # Each token is predicted by the one before it, the first by the question's last.
                    score_index[i, a] = r * length + np.concatenate([places[-1:], leaf[:-1]])
                    at = _write(input_ids, position_ids, visible, r, at, answer, p + q, at + len(answer))
            assert at == end

    order = [(i, a) for i, request in enumerate(asked) for a in range(len(request.answers))]
    targets = [asked[i].answers[a] for i, a in order]
    counts = np.array([len(t) for t in targets], dtype=np.int64)
    batch = Batch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        segment_ids=torch.from_numpy(padding),
        group_ids=torch.from_numpy(padding),
        is_prefix=torch.zeros(shape, dtype=torch.bool),
        pixel_values=stack_pixels(pictures, processor, pixels),
        image_slots=torch.from_numpy(_joined(image_slots)),
        score_index=torch.from_numpy(_joined([score_index[key] for key in order])),
        targets=torch.from_numpy(_joined(targets)),
        token_example=torch.from_numpy(np.repeat(np.arange(len(order), dtype=np.int64), counts)),
        view_examples={},
        view_tokens={},
        example_ids=[f"request {i}, answer {a}" for i, a in order],
        real_tokens=sum(trunk.length for trunk in trunks),
        visible_until=torch.from_numpy(visible),
        **layout_fields(placed, processor, position_ids),
    )
    assert all(b is not None for b in branches)
    lengths = [[len(a) for a in request.answers] for request in asked]
    return Tree(batch, lengths, [b for b in branches if b is not None], branch_of)


def _trunks(asked: Sequence[Asked]) -> tuple[list[_Trunk], list[int], int]:
    """(trunks, request -> branch, branches in all). Text questions share nothing but equal wording."""
    trunks: dict[tuple[str | None, bytes], _Trunk] = {}
    branch_of: list[int] = []
    count = 0
    for i, request in enumerate(asked):
        rest = request.rest.tobytes()
        shared = request.prefix.tobytes() if request.picture is not None else rest
        trunk = trunks.setdefault(
            (None if request.picture is None else request.picture.digest, shared),
            _Trunk(request.picture, request.prefix, request.layout, length=len(request.prefix)),
        )
        if rest not in trunk.questions:
            trunk.questions[rest] = _Question(request.rest, count)
            trunk.length += len(request.rest)
            count += 1
        question = trunk.questions[rest]
        question.leaves += [(i, a) for a in range(len(request.answers))]
        trunk.length += sum(map(len, request.answers))
        branch_of.append(question.number)
    return list(trunks.values()), branch_of, count


def _write(
    input_ids: Ids, position_ids: Ids, visible: Ids, row: int, at: int, part: Ids, position: int, until: int
) -> int:
    """Puts one part into its row; returns where it ends."""
    end = at + len(part)
    input_ids[row, at:end] = part
    position_ids[row, at:end] = np.arange(position, position + len(part))
    visible[row, at:end] = until
    return end


def _joined(parts: Sequence[Ids]) -> Ids:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
