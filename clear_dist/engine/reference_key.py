"""What a cache of the reference's statistics is a cache of: what is kept of each view, and the key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clear_dist.methods import Needs, needs_reference
from clear_dist.methods.objective import SEQUENCE
from clear_dist.models import ModelInfo, weights_digest
from clear_dist.ops import HIDDEN_STATISTICS
from clear_dist.types import Hidden, View

from .step import FINAL
from .stream import Stream

VERSION = 2  # of the files; part of every key
PARTS = ("model", "data", "tokenisation", "statistics", "precision")
_TOKENIZER_FILES = ("*token*.json", "*token*.model", "spiece.model", "vocab*", "merges.txt", "*processor*.json")
_TEMPLATE_FILES = ("chat_template*", "additional_chat_templates/*")
_VOLATILE = frozenset({"_name_or_path", "name_or_path", "base_model_name_or_path", "transformers_version", "revision"})


@dataclass(frozen=True)
class Kept:
    """What is kept of one view: ``logp`` or ``hidden`` of its answer tokens (or neither), and states of its whole
    sequences: layers: block, or FINAL -> whether rows of image tokens are among them."""

    logp: bool
    hidden: bool
    layers: Mapping[int, bool]

    @property
    def without_images(self) -> bool:
        return not all(self.layers.values())

    def __str__(self) -> str:
        names = ["log-probabilities"] * self.logp + ["final states of answers"] * self.hidden
        for layer, images in self.layers.items():
            name = "final states of sequences" if layer == FINAL else f"states after block {layer}"
            names.append(name + ("" if images else " without image tokens"))
        return ", ".join(names)


def kept_of(needs: Needs) -> dict[View, Kept]:
    """view -> the least that serves everything the objective compares with the reference on it."""
    out: dict[View, Kept] = {}
    for view in needs.views:
        if view not in needs.reference:
            continue
        wants = [w for w in needs.wants[view] if needs_reference(w)]
        answers = {w for w in wants if isinstance(w, str) and not w.startswith(SEQUENCE)}
        layers: dict[int, bool] = {}
        for want in wants:
            if isinstance(want, Hidden):
                layers[want.layer] = layers.get(want.layer, False) or want.images
            elif want.startswith(SEQUENCE):
                layers[FINAL] = True
        only_logp = bool(answers) and answers <= {"logp_ref", "log_ratio"}
        out[view] = Kept(only_logp, bool(answers) and not only_logp, dict(sorted(layers.items())))
    return out


def needs_head(needs: Needs) -> bool:
    """Whether distributions are formed from kept states, which takes the reference's head."""
    for view, kept in kept_of(needs).items():
        names = {w for w in needs.wants[view] if isinstance(w, str) and needs_reference(w)}
        answers = {w for w in names if not w.startswith(SEQUENCE)} if kept.hidden else set()
        everywhere = {w.removeprefix(SEQUENCE) for w in names if w.startswith(SEQUENCE)}
        if (answers | everywhere) - HIDDEN_STATISTICS:
            return True
    return False


@dataclass(frozen=True)
class ReferenceKey:
    """What a cache is a cache of. parts: name (one of PARTS) -> its digest, or itself where it is short."""

    parts: Mapping[str, str]
    kept: Mapping[View, Kept]
    head: bool

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([VERSION, [self.parts[p] for p in PARTS]]).encode()).hexdigest()

    def differences(self, parts: Mapping[str, Any]) -> list[str]:
        """Names of the parts that differ. Other tokens of the same text are a difference of tokenisation alone."""
        names = [p for p in PARTS if parts.get(p) != self.parts[p]]
        return [p for p in names if p != "data" or "tokenisation" not in names]


def reference_key(
    model: str, tokenisation: str, stream: Stream, needs: Needs, dtype: torch.dtype, *, head_moves: bool
) -> ReferenceKey:
    """The key of what ``needs`` asks the reference on the examples of a stream, however they are packed.

    Args:
        model, tokenisation: digests, see :func:`identity_of`.
        dtype: precision the model computes in.
        head_moves: whether training changes the head (full fine-tuning), so that the reference's has to be kept.
    """
    kept = kept_of(needs)
    head = head_moves and needs_head(needs)
    statistics = [f"{view}: {k}" for view, k in kept.items()] + ["head"] * head
    data = hashlib.sha256()
    for view in kept:
        encoded = stream.encoded(view, reference=True)
        data.update(json.dumps([view, len(encoded)]).encode())
        for e in encoded:
            lengths = [len(e.prefix), len(e.rest), len(e.answer)]
            data.update(json.dumps([e.digest, lengths]).encode())
            data.update(np.concatenate([e.prefix, e.rest, e.answer]).astype("<i8").tobytes())
    parts = {
        "model": model,
        "data": data.hexdigest(),
        "tokenisation": tokenisation,
        "statistics": "; ".join(statistics),
        "precision": str(dtype).removeprefix("torch."),
    }
    return ReferenceKey(parts, kept, head)


def identity_of(info: ModelInfo) -> tuple[str, str]:
    """(model, tokenisation) digests of a model's files: weights, adapter and configuration; tokenizer and processor.

    Where the files lie does not matter. Reads every byte of the weights: enough for one rank to do. Raises UserError
    for missing weights.
    """
    model, words = hashlib.sha256(), hashlib.sha256()
    if info.base_weights != "full":
        model.update(info.base_weights.encode())
    for folder, config in ((info.path, "config.json"), (info.adapter, "adapter_config.json")):
        if folder is None:
            continue
        model.update(weights_digest(folder).encode())
        model.update(_content(folder / config))
        files = {f for pattern in (*_TOKENIZER_FILES, *_TEMPLATE_FILES) for f in folder.glob(pattern)}
        for file in sorted(f for f in files if f.is_file()):
            words.update(json.dumps([file.name, hashlib.sha256(_content(file)).hexdigest()]).encode())
    return model.hexdigest(), words.hexdigest()


def _content(file: Path) -> bytes:
    """A file's bytes; of JSON, what it says; of a configuration, less where it was and which release wrote it."""
    data = file.read_bytes()
    if file.suffix != ".json":
        return data
    try:
        value = json.loads(data)
    except ValueError:
        return data
    return json.dumps(_lasting(value) if "config" in file.name else value, sort_keys=True).encode()


def _lasting(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: _lasting(v) for k, v in value.items() if k not in _VOLATILE}
