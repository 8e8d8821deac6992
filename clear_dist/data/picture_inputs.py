"""What a batch says of its pictures where a model cuts them by their size.

LLaVA-NeXT cuts a picture into as many patches as its shape asks for, Qwen2.5-VL into a grid of any shape. How many
tokens that makes, what the tower is told, and which rotary positions follow is a function of the picture's size
(``Processor.layout_of``); a batch joins it, picture by picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clear_dist.data.encode import Ids
from clear_dist.types import ImageLayout, Processor

DUMMY = (1, 1)  # height and width of the picture that stands for none


@dataclass(frozen=True, eq=False)
class Placed:
    """A picture's prefix and all that follows on it, at ``[start, end)`` of a row."""

    row: int
    start: int
    end: int
    prefix: Ids
    layout: ImageLayout | None


def layout_fields(placed: Sequence[Placed], processor: Processor, position_ids: Ids) -> dict[str, Any]:
    """``Batch.image_inputs`` and ``Batch.rotary_ids``; nothing for a model whose pictures are all alike."""
    if processor.layout_of is None:
        return {}
    layouts = [p.layout for p in placed if p.layout is not None]
    assert len(layouts) == len(placed)
    return {"image_inputs": image_inputs(layouts, processor), "rotary_ids": rotary_ids(placed, processor, position_ids)}


def image_inputs(layouts: Sequence[ImageLayout], processor: Processor) -> dict[str, Tensor]:
    """name -> [P, k] int64, a row a picture; those of the dummy where there is none."""
    if processor.layout_of is None:
        return {}
    shown = list(layouts) or [processor.layout_of(*DUMMY)]
    return {name: torch.tensor([layout.inputs[name] for layout in shown]) for name in shown[0].inputs}


def rotary_ids(placed: Sequence[Placed], processor: Processor, position_ids: Ids) -> Tensor | None:
    """[3, R, L] from the places in sequences [R, L]; None where no picture has a grid of positions.

    A token of a picture that starts at place s and has h x w tokens stands at (s, s + row, s + column); what follows
    on the picture goes on at s + max(h, w), in all three the same (multimodal rotary embedding, arXiv 2409.12191).
    """
    if not any(p.layout is not None and p.layout.grid for p in placed):
        return None
    out = np.repeat(position_ids[None], 3, axis=0)
    for p in placed:
        assert p.layout is not None and p.layout.grid is not None
        rows, columns = p.layout.grid
        assert rows * columns == p.layout.tokens
        first = int(np.argmax(p.prefix == processor.image_id))
        begin = p.start + first
        behind = begin + p.layout.tokens
        out[0, p.row, begin:behind] = first
        out[1, p.row, begin:behind] = first + np.repeat(np.arange(rows), columns)
        out[2, p.row, begin:behind] = first + np.tile(np.arange(columns), rows)
        out[:, p.row, behind : p.end] += max(rows, columns) - p.layout.tokens
    return torch.from_numpy(out)
