"""What a vision model is, apart from its weights.

Symbols: D embedding size, K identities (classes), s scale and m margin of an AM-softmax head, e an embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from clear_dist.types import UserError

Size = Literal["tiny", "18", "34", "50"]
Stem = Literal["standard", "small"]
Head = Literal["softmax", "am_softmax"]


class Shape(NamedTuple):
    """widths: channels of the four stages inside a block; blocks: how many a stage has; a bottleneck gives out four
    times its width."""

    widths: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    bottleneck: bool = False


_USUAL = (64, 128, 256, 512)
SHAPES: dict[Size, Shape] = {
    "tiny": Shape((16, 32, 64, 64), (1, 1, 1, 1)),
    "18": Shape(_USUAL, (2, 2, 2, 2)),
    "34": Shape(_USUAL, (3, 4, 6, 3)),
    "50": Shape(_USUAL, (3, 4, 6, 3), bottleneck=True),
}


@dataclass(frozen=True)
class ResNetSettings:
    """What a model is, apart from its weights.

    size: ``18``, ``34``, ``50``, or ``tiny``: one block a stage and a quarter of ResNet-18's width or less (0.16
        million parameters), for pictures of 32 to 64 pixels.
    stem: ``standard``, a 7x7 convolution and a pooling that shrink the picture by 4, or ``small``, a 3x3 convolution
        that does not shrink it, for pictures of about 32 pixels.
    classes: K.
    head: ``softmax``, logits W e + b of the embedding e; or ``am_softmax`` (AM-softmax, arXiv 1801.05599; also CosFace,
        arXiv 1801.09414), logits s cos(W_k, e), from the label's of which training takes s m.
    embedding_size: None: the embedding is the pooled output of the last stage. A number: that, projected to D.
    scale, margin: s and m of ``am_softmax``; the other head has none and leaves them alone.

    Raises:
        UserError: a field outside its range.
    """

    size: Size = "18"
    stem: Stem = "standard"
    classes: int = 1000
    head: Head = "softmax"
    embedding_size: int | None = None
    scale: float = 30.0
    margin: float = 0.4

    def __post_init__(self) -> None:
        for name, choices in (("size", get_args(Size)), ("stem", get_args(Stem)), ("head", get_args(Head))):
            value = getattr(self, name)
            if value not in choices:
                raise UserError(f"{name}: {value!r} is unknown; choose from {', '.join(choices)}")
        if not _whole(self.classes):
            raise UserError(f"classes: a classifier needs at least 1, got {self.classes}")
        if self.embedding_size is not None and not _whole(self.embedding_size):
            raise UserError(f"embedding_size: expected a number of at least 1, or none, got {self.embedding_size}")
        if not (_number(self.scale) and self.scale > 0):
            raise UserError(f"scale: expected a number above 0, got {self.scale}")
        if not (_number(self.margin) and 0 <= self.margin < 2):
            raise UserError(f"margin: expected a number from 0 to below 2, cosines being in [-1, 1]; got {self.margin}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
