"""Several sequences in one batch of rows, without changing what any of them sees.

Three layouts of the same content:

* ``dense``: questions on one picture share its prefix, groups fill a few rows of nearly equal length. Needs the
  block-diagonal mask of ``Batch.attention_mask``.
* ``varlen``: one row ``[1, L]``, nothing shared, positions restart: what flash attention's variable-length
  kernels take.
* ``padded``: one sequence a row, filled up to the longest: the plain way, for tests and as a yardstick.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clear_dist.data.encode import Encoded
from clear_dist.data.images import decode
from clear_dist.data.picture_inputs import DUMMY, Placed, layout_fields
from clear_dist.types import Batch, Picture, Processor

Layout = Literal["dense", "varlen", "padded"]


@dataclass
class _Group:
    """A prefix and the examples (numbers in the batch) that follow it."""

    members: list[int]
    length: int


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
        share: in the dense layout, examples on the same picture (of any view) share one prefix.
        sequences: also say where every example's whole sequence stands (``Batch.sequence_index`` and its companions).
        features: pictures -> ``Batch.tower_features``; no pixel is then looked at.
        multiple_of: rows are filled up to a multiple of this many tokens (some GPU kernels want 8); not varlen.

    Returns a legal batch for any input: no example at all gives one row of one padding token, and a
    vision-language model gets a zero picture when there is none, so that every rank runs the same modules.
    The result is a function of its arguments alone: no randomness.
    """
    assert row_length > 0 and multiple_of > 0
    examples = [example for batch in views.values() for example in batch]
    groups = _group(examples, share=share and layout == "dense")
    rows = cut_rows([group.length for group in groups], layout, row_length)
    longest = _longest(rows, [group.length for group in groups]) if rows else 1
    length = longest if layout == "varlen" else -(-longest // multiple_of) * multiple_of

    shape = (max(len(rows), 1), length)
    input_ids = np.full(shape, processor.pad_id, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)
    segment_ids = np.full(shape, -1, dtype=np.int64)
    group_ids = np.full(shape, -1, dtype=np.int64)
    is_prefix = np.zeros(shape, dtype=bool)
    score_index: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(examples)
    whole: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(examples)
    image_slots: list[np.ndarray] = []
    pictures: list[Picture] = []
    placed: list[Placed] = []

    ramp = np.arange(length, dtype=np.int64)
    for r, row in enumerate(rows):
        at = segment = 0
        for number, g in enumerate(row):
            group = groups[g]
            first = examples[group.members[0]]
            p = len(first.prefix)
            start = at
            if p:
                input_ids[r, at : at + p] = first.prefix
                position_ids[r, at : at + p] = ramp[:p]
                # The prefix counts to the first sequence after it; the others see it through is_prefix.
                segment_ids[r, at : at + p] = segment
                is_prefix[r, at : at + p] = True
                at += p
            if first.picture is not None:
                pictures.append(first.picture)
                image_slots.append(r * length + start + np.flatnonzero(first.prefix == processor.image_id))
            for member in group.members:
                example = examples[member]
                q, a = len(example.rest), len(example.answer)
                middle, end = at + q, at + q + a
                input_ids[r, at:middle] = example.rest
                input_ids[r, middle:end] = example.answer
                position_ids[r, at:end] = ramp[p : p + q + a]
                segment_ids[r, at:end] = segment
                index = r * length + ramp[middle - 1 : end - 1]  # a copy: the token before each answer token
                if q == 0:
                    index[0] = r * length + start + p - 1  # the first is predicted by the prefix's last token
                score_index[member] = index
                if sequences:
                    own = r * length + ramp[at:end]
                    whole[member] = np.concatenate([r * length + ramp[start : start + p], own])
                segment += 1
                at = end
            group_ids[r, start:at] = number
            if first.picture is not None:
                placed.append(Placed(r, start, at, first.prefix, first.layout))

    counts = np.fromiter((len(e.answer) for e in examples), dtype=np.int64, count=len(examples))
    view_examples, view_tokens = _slices(views, counts)
    extra = _sequences(views, whole, input_ids.reshape(-1), processor.image_id) if sequences else {}
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        segment_ids=torch.from_numpy(segment_ids),
        group_ids=torch.from_numpy(group_ids),
        is_prefix=torch.from_numpy(is_prefix),
        pixel_values=stack_pixels(pictures, processor, pixels) if features is None else None,
        tower_features=None if features is None else features(pictures),
        image_slots=torch.from_numpy(_concatenate(image_slots)),
        score_index=torch.from_numpy(_concatenate(score_index)),
        targets=torch.from_numpy(_concatenate([e.answer for e in examples])),
        token_example=torch.from_numpy(np.repeat(np.arange(len(examples), dtype=np.int64), counts)),
        view_examples=view_examples,
        view_tokens=view_tokens,
        example_ids=[e.example_id for e in examples],
        real_tokens=sum(group.length for group in groups),
        **layout_fields(placed, processor, position_ids),
        **extra,
    )


def _sequences(
    views: Mapping[str, Sequence[Encoded]], whole: Sequence[np.ndarray], flat_ids: np.ndarray, image_id: int | None
) -> dict[str, Any]:
    """The fields of a batch that describe whole sequences."""
    index = _concatenate(whole)
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


def _group(examples: Sequence[Encoded], *, share: bool) -> list[_Group]:
    """Groups in the order of their first example; text examples stay alone."""
    groups: dict[Hashable, _Group] = {}
    for i, example in enumerate(examples):
        # The prefix belongs to the key: views may put different words before the same picture.
        shared = share and example.digest is not None
        key = (example.digest, example.prefix.tobytes()) if shared else i
        group = groups.get(key)
        if group is None:
            groups[key] = _Group([i], example.length)
        else:
            group.members.append(i)
            group.length += len(example.rest) + len(example.answer)
    return list(groups.values())


def cut_rows(lengths: Sequence[int], layout: Layout, row_length: int) -> list[list[int]]:
    """Which groups stand in which row. Dense: as few rows as first-fit-decreasing finds, evenly filled."""
    if not lengths:
        return []
    if layout == "varlen":
        return [list(range(len(lengths)))]
    if layout == "padded":
        return [[g] for g in range(len(lengths))]
    capacity = max(row_length, *lengths)
    falling = sorted(range(len(lengths)), key=lambda g: (-lengths[g], g))
    best = _first_fit(falling, lengths, capacity)
    # Every row is as long as the fullest: the same number of rows filled evenly, or a few more, often computes
    # fewer tokens. Ties go to fewer rows.
    for count in range(len(best), min(2 * len(best), len(lengths)) + 1):
        even = _emptiest_first(falling, lengths, count)
        if _area(even, lengths) < _area(best, lengths) and _longest(even, lengths) <= capacity:
            best = even
    return sorted(sorted(row) for row in best)


def _first_fit(falling: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    bins: list[list[int]] = []
    room: list[int] = []
    for g in falling:
        at = next((b for b, free in enumerate(room) if free >= lengths[g]), None)
        if at is None:
            bins.append([g])
            room.append(capacity - lengths[g])
        else:
            bins[at].append(g)
            room[at] -= lengths[g]
    return bins


def _emptiest_first(falling: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    bins: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, b) for b in range(count)]
    for g in falling:
        load, b = heap[0]
        bins[b].append(g)
        heapq.heapreplace(heap, (load + lengths[g], b))
    return bins


def _longest(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return max(sum(lengths[g] for g in row) for row in rows)


def _area(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return len(rows) * _longest(rows, lengths)


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


def _concatenate(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
