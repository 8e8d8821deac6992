"""Questions with many candidate answers in one batch: a picture's questions and their answers as trees (``trunk``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clear_dist.data.encode import Encoded, Ids
from clear_dist.data.packing import stack_pixels
from clear_dist.data.picture_inputs import layout_fields
from clear_dist.data.row_cut import cut_rows, longest
from clear_dist.data.trunk import Trunks, joined, write_rows
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


def grow(asked: Sequence[Asked], processor: Processor, *, row_length: int, pixels: Callable[[Picture], Tensor]) -> Tree:
    """Lay out requests as trees: one trunk a picture, one branch a question, one leaf an answer.

    Args:
        row_length: tokens a row may hold; a longer trunk with all that grows on it makes the rows as long as itself.
        pixels: picture -> ``Processor.pixels`` of it.

    No request gives a legal batch of one padding token, which several ranks need to keep in step.
    """
    trunks = Trunks()
    branch_of: list[int] = []
    asked_by: list[int] = []  # answer -> its branch
    targets: list[Ids] = []
    for request in asked:
        question = trunks.question(request.picture, request.prefix, request.rest, request.layout)
        question.answers += enumerate(request.answers, start=len(targets))
        branch_of.append(question.number)
        asked_by += [question.number] * len(request.answers)
        targets += request.answers
    lengths = [trunk.length for trunk in trunks.all]
    cut = cut_rows(lengths, "dense", row_length)
    length = longest(cut, lengths)
    rows = write_rows([[trunks.all[t] for t in row] for row in cut], length, processor.pad_id)
    counts = np.array([len(t) for t in targets], dtype=np.int64)
    batch = Batch(
        input_ids=torch.from_numpy(rows.input_ids),
        position_ids=torch.from_numpy(rows.position_ids),
        visible_until=torch.from_numpy(rows.visible_until),
        real=torch.from_numpy(rows.real),
        pixel_values=stack_pixels(rows.pictures, processor, pixels),
        image_slots=torch.from_numpy(rows.image_slots(processor.image_id)),
        score_index=torch.from_numpy(joined([rows.scored(q, a) for a, q in enumerate(asked_by)])),
        targets=torch.from_numpy(joined(targets)),
        token_example=torch.from_numpy(np.repeat(np.arange(len(targets), dtype=np.int64), counts)),
        view_examples={},
        view_tokens={},
        example_ids=[f"request {i}, answer {a}" for i, r in enumerate(asked) for a in range(len(r.answers))],
        real_tokens=sum(lengths),
        **layout_fields(rows.placed, processor, rows.position_ids),
    )
    branches = [Branch(int(p[0]) // length, p % length) for _, p in sorted(rows.prompts.items())]
    return Tree(batch, [[len(a) for a in request.answers] for request in asked], branches, branch_of)
