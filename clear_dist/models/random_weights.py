"""A model by its configuration alone: random weights where they are to run, and a processor without a tokenizer.

What a step costs depends on shapes and lengths, not on weights or words, so texts are token ids written out
(``"17 4031 9"``) and every picture has the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig

from clear_dist.models.family import Family
from clear_dist.models.llava_next import next_layout
from clear_dist.models.meta import _QWEN_PIXELS
from clear_dist.models.quiet import quiet
from clear_dist.models.qwen_vl import patch_shape, qwen_layout
from clear_dist.types import ImageLayout

if TYPE_CHECKING:
    from PIL.Image import Image

BOS, EOS, PAD, FIRST = 1, 2, 0, 8  # ids; words begin at FIRST


def random_model(
    config: PreTrainedConfig, family: Family, *, dtype: torch.dtype, device: torch.device, seed: int
) -> nn.Module:
    """A plain model with random weights, made on its device, attention by sdpa; the same for the same seed and device.

    The global random state and default dtype are as before afterwards.
    """
    auto: Any = AutoModelForCausalLM if family.image_id(config) is None else AutoModelForImageTextToText
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), quiet():
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            with device:
                return auto.from_config(config, dtype=dtype, attn_implementation="sdpa")
        finally:
            torch.set_default_dtype(before)


class NumberProcessor:
    """A ``Processor`` of texts that are token ids written out. A prompt is BOS (behind a picture's tokens) and the
    question, an answer ends with EOS."""

    eos_id, pad_id = EOS, PAD

    def __init__(self, config: PreTrainedConfig, family: Family) -> None:
        text: Any = family.text_config(config)
        self.vocab: int = text.vocab_size
        self.image_id: int | None = family.image_id(config)
        self.image_tokens: int = family.image_tokens(config)
        self.layout_of: Callable[[int, int], ImageLayout] | None = None
        self.image_shape: tuple[int, ...] = (0, 0, 0)
        vision: Any = getattr(config, "vision_config", None)
        if self.image_id is None:
            return
        if config.model_type == "qwen2_5_vl":
            limits = dict(zip(("shortest_edge", "longest_edge"), _QWEN_PIXELS, strict=True))
            images = SimpleNamespace(patch_size=vision.patch_size, merge_size=vision.spatial_merge_size, size=limits)
            self.layout_of, self.image_shape = partial(qwen_layout, images), patch_shape(config)
            return
        self.image_shape = (3, vision.image_size, vision.image_size)
        if config.model_type == "llava_next":
            self.layout_of = partial(next_layout, config)

    def encode_prompt(self, question: str, with_picture: bool) -> tuple[list[int], list[int]]:
        words = self.encode_words(question)
        if not with_picture:
            return [], [BOS, *words]
        assert self.image_id is not None
        return [BOS, *[self.image_id] * self.image_tokens], words

    def encode_answer(self, answer: str) -> list[int]:
        return [*self.encode_words(answer), EOS]

    def encode_words(self, text: str) -> list[int]:
        """Ids as they stand there, but for the image's, which is no word."""
        return [i if i != self.image_id else FIRST for i in map(int, text.split())]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def pixels(self, image: Image) -> Tensor:
        """The same storage for every picture of a size: caches of pixels then weigh nothing."""
        if self.layout_of is None:
            return _grey(self.image_shape)
        return _grey((self.layout_of(image.height, image.width).patches, *self.image_shape))


_GREY: dict[tuple[int, ...], Tensor] = {}


def _grey(shape: tuple[int, ...]) -> Tensor:
    return _GREY.setdefault(shape, torch.full(shape, 0.1))
