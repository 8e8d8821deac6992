"""CLIPScore: does an answer fit its picture, whatever the picture's attributes (Hessel et al. 2021, arXiv 2104.08718)?

    cosine(picture, answer), in CLIP's common space: what records and summary hold, and the scale PUBG reports on
    CLIPScore = 2.5 * max(cosine, 0)

Reference-free: the true answer is not looked at. The prefix "A photo depicts" of the paper's own experiments is not put
before the answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from clear_dist.data.images import decode
from clear_dist.evaluation.aftermath import asks_for_private
from clear_dist.evaluation.control import is_control
from clear_dist.metrics.record import Record
from clear_dist.types import Example, Picture, SetName, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

WEIGHT: Final = 2.5  # the paper's w: stretches what cosines are in practice to about [0, 1]
BATCH: Final = 32  # pictures decoded at once


class ImageTextScorer(Protocol):
    """What puts pictures and texts into one space. Provided by ``models.clip``."""

    def similarity(self, pictures: Sequence[Image], texts: Sequence[str]) -> list[float]:
        """Cosine of the i-th picture (RGB) with the i-th text, in [-1, 1]."""
        ...


def clip_score(cosine: float) -> float:
    """w * max(cos, 0), w = 2.5 (equation 1 of the paper)."""
    return WEIGHT * max(cosine, 0.0)


def with_clip_scores(
    records: Sequence[Record], sets: Mapping[SetName, Sequence[Example]], scorer: ImageTextScorer
) -> list[Record]:
    """Records with ``scores["clip_score"]``, the raw cosine of a generated answer with its picture.

    On answers to private questions about forget pictures (``asks_for_private``) of every model but the controls. An
    answer without a word fits no picture and no worse than another: its score is None. The same answer to the same
    picture is scored once. Other records stay as they are.

    Args:
        sets: the examples; those of ``forget`` know the pictures. A record whose example is not there is left alone.
    Raises:
        UserError: a picture that cannot be decoded; a scorer that gives a number that is not finite.
    """
    pictures = {e.id: e.picture for e in sets.get("forget", ()) if e.picture is not None}
    asked = [r for r in records if _is_scored(r) and r.id in pictures]
    pairs: dict[tuple[str, str], tuple[Picture, str]] = {}
    for r in asked:
        if text := _text(r):
            pairs.setdefault((pictures[r.id].digest, text), (pictures[r.id], text))
    cosines = dict(zip(pairs, _similarity(list(pairs.values()), scorer), strict=True))
    scored = {id(r): cosines.get((pictures[r.id].digest, _text(r))) for r in asked}
    return [replace(r, scores={**r.scores, "clip_score": scored[id(r)]}) if id(r) in scored else r for r in records]


def _is_scored(record: Record) -> bool:
    return asks_for_private(record) and record.generated is not None and not is_control(record.model)


def _text(record: Record) -> str:
    return (record.generated or "").strip()


def _similarity(pairs: Sequence[tuple[Picture, str]], scorer: ImageTextScorer) -> list[float]:
    out: list[float] = []
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        values = scorer.similarity([decode(picture) for picture, _ in batch], [text for _, text in batch])
        for (picture, text), value in zip(batch, values, strict=True):
            if not math.isfinite(value):
                raise UserError(
                    f"{picture.source}: its CLIP similarity with {text[:60]!r} is {value}; expected a number in "
                    "[-1, 1]: are the CLIP model's weights damaged?"
                )
            out.append(value)
    return out
