"""A reminder of what the base knows, mixed into fine-tuning on CLEAR-mini.

Without it, a few hundred steps on fictitious people wipe out the real ones (recognition of real faces fell from .83 to
.10), and the real-world side of every comparison would measure that instead of unlearning.
"""

from __future__ import annotations

import hashlib
import io
from random import Random

from PIL import Image

from clear_dist.data.mini.base import BaseQA, base_examples
from clear_dist.types import Example, Kind, Picture

STRANGERS, PER_REAL, TEXTS = 40, 6, 200
# The base's kinds of question as the kinds of conversation they would be in a dataset.
_KINDS: dict[str, Kind] = {
    "describe": "describe",
    "private": "describe",
    "information": "caption",
    "caption": "caption",
    "paraphrase": "caption",
    "name": "name",
    "attribute": "attribute",
    "fact": "qa",
    "world": "qa",
}


def replay_examples(seed: int = 0) -> list[Example]:
    """Pictures of strangers and of the real people, real people's facts and facts of the world: about 600 examples an
    epoch when four questions are put to a picture. None of the pictures is in any written dataset."""
    data = base_examples(seed=1 + seed, strangers=STRANGERS, per_real=PER_REAL)
    out: list[Example] = []
    for row, questions in enumerate(data.by_picture):
        buffer = io.BytesIO()
        Image.fromarray(data.pictures[row]).save(buffer, format="PNG")
        encoded = buffer.getvalue()
        picture = Picture(hashlib.sha256(encoded).hexdigest(), f"replay[{row}]", lambda encoded=encoded: encoded)
        out += [_example(qa, f"replay/{row}/{i}", picture) for i, qa in enumerate(questions)]
    texts = [qa for qa in data.texts if qa.kind != "paraphrase"]
    chosen = Random(seed).sample(texts, min(TEXTS, len(texts)))
    return out + [_example(qa, f"replay/text/{i}", None) for i, qa in enumerate(chosen)]


def _example(qa: BaseQA, name: str, picture: Picture | None) -> Example:
    return Example(
        id=name,
        set="retain",
        kind=_KINDS[qa.kind],
        question=qa.question,
        answer=qa.answer,
        picture=picture,
        person=qa.person,
    )
