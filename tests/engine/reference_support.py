"""Objectives that compare with the reference in every way there is, and caches of what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from engine_support import FORGET, MAX_LENGTH, RETAIN

from clear_dist.data.augment import augmented
from clear_dist.data.conversations import idk_examples
from clear_dist.engine.reference_build import build_reference_cache
from clear_dist.engine.reference_cache import ReferenceCache
from clear_dist.engine.reference_key import ReferenceKey, reference_key
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.engine.world import World
from clear_dist.methods import (
    AUGMENTED,
    GUIDE,
    IDK,
    Objective,
    cosine,
    dpo,
    kl,
    l2,
    match,
    misdirect,
    nll,
    npo,
    undial,
    vocabulary_npo,
)
from clear_dist.methods import FORGET as F
from clear_dist.methods import RETAIN as R
from clear_dist.types import Example, View

ALONE = World(0, 1, 0, torch.device("cpu"))
SEEN = [e for e in FORGET if e.picture is not None]
POOLS: dict[View, list[Example]] = {F: FORGET, R: RETAIN, IDK: idk_examples(FORGET), GUIDE: FORGET, AUGMENTED: SEEN}
# What the reference reads instead: another prompt, other pictures.
OTHER: dict[View, list[Example]] = {
    GUIDE: [replace(e, question=f"Describe this image. {e.question}") for e in FORGET],
    AUGMENTED: [replace(e, picture=augmented(e.picture, 3)) for e in SEEN if e.picture is not None],
}
CASES: dict[str, Objective] = {
    "npo": npo(F) + nll(R),
    "dpo": dpo(IDK, F),
    "kl": kl(R) - nll(F),
    "kl_forward": kl(F, direction="forward", reduction="token") + nll(R),
    "undial": undial(F),
    "match": match(R, layer=1) + nll(F),
    "match_images": match(R, layer=1, images=True) + nll(F),
    "rmu": misdirect(F, layer=0) + match(R, layer=0),
    "sequence": kl(R, tokens="sequence") + npo(F),
    "vocabulary": vocabulary_npo(F) + nll(R),
    "cosine": cosine(F) + l2(R),
    "guide": kl(GUIDE, direction="forward") + nll(R),
    "augmented": kl(AUGMENTED) + cosine(AUGMENTED) + nll(R),
    "all": npo(F) + kl(F) + match(R, layer=0) + match(R, layer=1, images=True) + kl(R, tokens="sequence") + nll(GUIDE),
}


def stream_of(processor: Any, objective: Objective, **changed: Any) -> Stream:
    pools = changed.pop("pools", POOLS)
    views = objective.needs.views
    batch = {v: 5 if v is R else 3 for v in views}
    settings = StreamSettings(batch, 0, 2, MAX_LENGTH, 96, 1, **changed)
    reference = {v: e for v, e in OTHER.items() if v in views}
    return Stream({v: pools[v] for v in views}, processor, settings, 0, 1, needs=objective.needs, reference=reference)


def key_of(stream: Stream, objective: Objective, *, full: bool = False, **changed: Any) -> ReferenceKey:
    values: dict[str, Any] = {"model": "m" * 64, "tokenisation": "t" * 64, "dtype": torch.float32, **changed}
    return reference_key(stream=stream, needs=objective.needs, head_moves=full, **values)


def build(
    module: Any, stream: Stream, objective: Objective, folder: Path, *, full: bool = False, **more: Any
) -> ReferenceCache:
    key = more.pop("key", None) or key_of(stream, objective, full=full)
    return build_reference_cache(module, stream, objective.needs, folder, key=key, world=ALONE, **more)
