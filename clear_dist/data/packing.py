"""Several sequences in one batch of rows, without changing what any of them sees.

Three layouts of the same content:

* ``dense``: questions on one picture share its prefix, answers to one question share the prompt, and what came of it
  fills a few rows of nearly equal length. Needs the mask of ``Batch.attention_mask``.
* ``varlen``: one row ``[1, L]``, nothing shared, positions restart: what flash attention's variable-length
  kernels take.
* ``padded``: one sequence a row, filled up to the longest: the plain way, for tests and as a yardstick.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clear_dist.data.encode import Encoded, Ids
from clear_dist.data.images import decode
from clear_dist.data.picture_inputs import DUMMY, layout_fields
from clear_dist.data.row_cut import Layout, cut_rows, longest
from clear_dist.data.trunk import Trunks, joined, write_rows
from clear_dist.types import Batch, Picture, Processor


def pack(
    views: Mapping[str, Sequence[Encoded]],
    processor: Processor,
    *,
    row_length: int,
    pixels: Callable[[Picture], Tensor],
    layout: Layout = "dense",
    share: bool = True,
    multiple_of: int = 1,
    sequences: bool = False,
    features: Callable[[Sequence[Picture]], Tensor] | None = None,
) -> Batch:
    """One batch of all views together, so that one forward serves every term of an objective.

    Args:
        views: view -> its examples; their order numbers the examples 0..N-1 and orders the scored tokens.
        row_length: tokens a row may hold; a longer group makes the rows as long as itself.
        pixels: picture -> ``Processor.pixels`` of it, for instance a ``PixelCache``.
        layout: see the module's docstring.
        share: in the dense layout, examples on the same picture (of any view) share its prefix, and those with the
            same prompt (two answers bound as a pair) share that.
        sequences: also say where every example's whole sequence stands (``Batch.sequence_index`` and its companions).
        features: pictures -> ``Batch.tower_features``; no pixel is then looked at.
        multiple_of: rows are filled up to a multiple of this many tokens (some GPU kernels want 8); not varlen.

    Returns a legal batch for any input: no example at all gives one row of one padding token, and a
    vision-language model gets a zero picture when there is none, so that every rank runs the same modules.
    The result is a function of its arguments alone: no randomness.
    """
    assert row_length > 0 and multiple_of > 0
    examples = [example for batch in views.values() for example in batch]
    trunks = Trunks(share=share and layout == "dense")
    questions: list[int] = []
    for number, example in enumerate(examples):
        question = trunks.question(example.picture, example.prefix, example.rest, example.layout)
        question.answers.append((number, example.answer))
        questions.append(question.number)
    lengths = [trunk.length for trunk in trunks.all]
    cut = cut_rows(lengths, layout, row_length)
    fullest = longest(cut, lengths)
    length = fullest if layout == "varlen" else -(-fullest // multiple_of) * multiple_of
    rows = write_rows([[trunks.all[t] for t in row] for row in cut], length, processor.pad_id)

    counts = np.fromiter((len(e.answer) for e in examples), dtype=np.int64, count=len(examples))
    view_examples, view_tokens = _slices(views, counts)
    whole = [np.concatenate([rows.prompts[q], rows.answers[n]]) for n, q in enumerate(questions)] if sequences else []
    extra = _sequences(views, whole, rows.input_ids.reshape(-1), processor.image_id) if sequences else {}
    return Batch(
        input_ids=torch.from_numpy(rows.input_ids),
        position_ids=torch.from_numpy(rows.position_ids),
        visible_until=torch.from_numpy(rows.visible_until),
        real=torch.from_numpy(rows.real),
        pixel_values=stack_pixels(rows.pictures, processor, pixels) if features is None else None,
        tower_features=None if features is None else features(rows.pictures),
        image_slots=torch.from_numpy(rows.image_slots(processor.image_id)),
        score_index=torch.from_numpy(joined([rows.scored(q, n) for n, q in enumerate(questions)])),
        targets=torch.from_numpy(joined([e.answer for e in examples])),
        token_example=torch.from_numpy(np.repeat(np.arange(len(examples), dtype=np.int64), counts)),
        view_examples=view_examples,
        view_tokens=view_tokens,
        example_ids=[e.example_id for e in examples],
        real_tokens=sum(lengths),
        **layout_fields(rows.placed, processor, rows.position_ids),
        **extra,
    )


def _sequences(
    views: Mapping[str, Sequence[Encoded]], whole: Sequence[Ids], flat_ids: Ids, image_id: int | None
) -> dict[str, Any]:
    """The fields of a batch that describe whole sequences."""
    index = joined(whole)
    counts = np.fromiter(map(len, whole), dtype=np.int64, count=len(whole))
    image = flat_ids[index] == (-1 if image_id is None else image_id)
    return {
        "sequence_index": torch.from_numpy(index),
        "sequence_example": torch.from_numpy(np.repeat(np.arange(len(whole), dtype=np.int64), counts)),
        "sequence_image": torch.from_numpy(image),
        "view_sequence": _slices(views, counts)[1],
    }


class PixelCache:
    """Picture -> ``Processor.pixels`` of it, decoded once: least recently used pictures go when ``max_bytes`` is full.

    Safe to call from several threads (a background thread may prepare the next batch). Treat the tensors as
    read-only: the same ones are handed out again.
    """

    def __init__(self, processor: Processor, max_bytes: int = 2 << 30) -> None:
        self._processor = processor
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tensors: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._tensors)

    def __call__(self, picture: Picture) -> Tensor:
        """Raises UserError, naming the picture's source, where it cannot be decoded."""
        with self._lock:
            tensor = self._tensors.get(picture.digest)
            if tensor is not None:
                self._tensors.move_to_end(picture.digest)
                return tensor
        tensor = self._processor.pixels(decode(picture))  # outside the lock: the slow part may run in parallel
        size = tensor.numel() * tensor.element_size()
        with self._lock:
            if picture.digest not in self._tensors and size <= self._max_bytes:
                self._tensors[picture.digest] = tensor
                self._bytes += size
                while self._bytes > self._max_bytes:
                    _, gone = self._tensors.popitem(last=False)
                    self._bytes -= gone.numel() * gone.element_size()
        return tensor


def _slices(views: Mapping[str, Sequence[Encoded]], counts: np.ndarray) -> tuple[dict[str, slice], dict[str, slice]]:
    """view -> range of its examples, view -> range of its scored tokens."""
    token_ends = np.concatenate([[0], np.cumsum(counts)])
    of_examples: dict[str, slice] = {}
    of_tokens: dict[str, slice] = {}
    begin = 0
    for view, batch in views.items():
        end = begin + len(batch)
        of_examples[view] = slice(begin, end)
        of_tokens[view] = slice(int(token_ends[begin]), int(token_ends[end]))
        begin = end
    return of_examples, of_tokens


def stack_pixels(
    pictures: Sequence[Picture], processor: Processor, pixels: Callable[[Picture], Tensor]
) -> Tensor | None:
    """[P, 3, H, W] float32, or the patches of all pictures where they are cut by their size; zeros for a
    vision-language model without any; None for a text-only model."""
    if processor.image_tokens == 0:
        return None
    if processor.layout_of is not None:
        if not pictures:
            return torch.zeros(processor.layout_of(*DUMMY).patches, *processor.image_shape)
        return torch.cat([pixels(picture) for picture in pictures])
    if not pictures:
        return torch.zeros(1, *processor.image_shape)
    return torch.stack([pixels(picture) for picture in pictures])
