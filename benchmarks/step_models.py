"""What ``bench_step`` runs on: LLaVA shapes with random weights, and a batch with the dataset's mix of lengths.

Pictures are noise and words are numbers: what a step costs depends on shapes and lengths alone. Lengths of questions
and answers are those of TOFU, CLEAR's text half (4,000 rows), counted as sub-words. Captions are taken to be as long as
answers, for want of their text. Rows with a picture are 3,768 of 7,768, and a row is an example, so that of 16
examples 8 have a picture of their own.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from clear_dist.models import LLAVA, Family, add_lora, unwrap
from clear_dist.models.tiny import build_llava, llava_config
from clear_dist.types import Example, Kind, Picture, SetName, View

if TYPE_CHECKING:
    from PIL import Image

PAD, BOS, EOS, IMAGE, USER, ASSISTANT, FIRST = 0, 1, 2, 3, 4, 5, 6  # ids; words begin at FIRST
_CLIP_L = {  # the tower of LLaVA-1.5
    "vocab": 32_064,
    "image_size": 336,
    "patch": 14,
    "vision_hidden": 1024,
    "vision_layers": 24,
    "vision_heads": 16,
    "vision_intermediate": 4096,
    "positions": 4096,
    "feature_layer": -2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab": 1024},
    "cpu-8x256": {
        "vocab": 32_000,
        "image_size": 112,  # 64 image tokens
        "patch": 14,
        "vision_hidden": 256,
        "vision_layers": 4,
        "vision_intermediate": 1024,
        "hidden": 256,
        "layers": 8,
        "intermediate": 704,
        "positions": 2048,
        "feature_layer": -2,
    },
    "llava-1.5-7b": {**_CLIP_L, "hidden": 4096, "layers": 32, "heads": 32, "intermediate": 11_008},
    "llava-1.5-13b": {**_CLIP_L, "hidden": 5120, "layers": 40, "heads": 40, "intermediate": 13_824},
}
LORA_R, LORA_ALPHA = 8, 32.0  # the paper's
BATCH = 16  # examples of every view a step

# Sub-words at these quantiles of TOFU's 4,000 questions and answers.
_AT = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_QUESTION, _ANSWER = (5, 11, 13, 15, 18, 22, 51), (5, 18, 27, 37, 47, 56, 96)
_CAPTION_QUESTION, _REFUSAL, _SAFE, _INSTRUCTION = 8, (4, 6, 8, 10), 28, 56
_WITH_PICTURE = 3768 / 7768


@dataclass
class Student:
    """A model in training, and a second one as the loops of others keep it.

    copy: the model without its adapter; None where it found no room, for the reason ``no_copy``.
    """

    module: nn.Module
    copy: nn.Module | None
    no_copy: str
    family: Family
    device: torch.device
    dtype: torch.dtype

    @property
    def config(self) -> Any:
        return unwrap(self.module).config

    @property
    def layers(self) -> int:
        return self.family.text_config(self.config).num_hidden_layers

    def adapter(self) -> list[nn.Parameter]:
        return [p for name, p in self.module.named_parameters() if "lora_" in name]


def build_student(
    shape: str, device: torch.device, dtype: torch.dtype, *, seed: int = 0, copied: bool = True
) -> Student:
    """Random weights made on the device, LoRA r=8 on the language model, its B moved away from zero so that student
    and reference differ."""
    config = llava_config(image_id=IMAGE, special=(PAD, BOS, EOS), **SHAPES[shape])
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            module = build_llava(config, seed)
    finally:
        torch.set_default_dtype(before)
    second, why = None, "" if copied else "not asked for"
    if copied:
        try:
            second = copy.deepcopy(module).requires_grad_(False).eval()
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            why = "the second copy of the model does not fit"
    student = Student(add_lora(module, LORA_R, LORA_ALPHA, LLAVA, seed=seed), second, why, LLAVA, device, dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in student.module.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    student.module.train()
    return student


class NumberProcessor:
    """A ``Processor`` of texts that are token ids written out: ``"17 4031 9"``."""

    eos_id, pad_id = EOS, PAD
    image_id: int | None = IMAGE
    layout_of: Any = None

    def __init__(self, config: Any) -> None:
        side = config.vision_config.image_size
        self.image_tokens: int = config.image_seq_length
        self.image_shape: tuple[int, ...] = (3, side, side)

    def encode_prompt(self, question: str, with_picture: bool) -> tuple[list[int], list[int]]:
        words = [*map(int, question.split()), ASSISTANT]
        return ([BOS, USER, *[IMAGE] * self.image_tokens], words) if with_picture else ([], [BOS, USER, *words])

    def encode_answer(self, answer: str) -> list[int]:
        return [*map(int, answer.split()), EOS]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def pixels(self, image: Image.Image) -> Tensor:
        """[3, H, W] in [-1, 1]."""
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1.0).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Pools:
    """view -> what the student reads; view -> what the reference reads instead."""

    student: dict[View, list[Example]]
    reference: dict[View, list[Example]]


def make_pools(views: Sequence[View], config: Any, *, questions: int = 1, batch: int = BATCH, seed: int = 0) -> Pools:
    """``batch`` examples of every view; a picture has ``questions`` of them."""
    side, words = config.vision_config.image_size, config.text_config.vocab_size
    draw = partial(_examples, side=side, words=words, questions=questions, batch=batch)
    forget = draw("forget", np.random.default_rng([seed, 1]))
    rng = np.random.default_rng([seed, 2])
    guided = _answering(forget, [_SAFE], words, rng)
    told = [replace(e, question=f"{_words(_INSTRUCTION, words, rng)} {e.question}") for e in guided]
    made = {
        View.FORGET: forget,
        View.RETAIN: draw("retain", np.random.default_rng([seed, 3])),
        View.IDK: _answering(forget, _REFUSAL, words, rng),
        View.PRIVATE: forget,
        View.GUIDE: guided,
    }
    return Pools({v: made[v] for v in views}, {v: told for v in views if v is View.GUIDE})


def _examples(
    name: SetName, rng: np.random.Generator, *, side: int, words: int, questions: int, batch: int
) -> list[Example]:
    pictures = max(1, round(batch * _WITH_PICTURE / questions))
    with_picture = min(pictures * questions, batch)
    asked, answered = _lengths(_QUESTION, batch, rng), _lengths(_ANSWER, batch, rng)
    out: list[Example] = []
    picture: Picture | None = None
    for i in range(batch):
        visual = i < with_picture
        if visual and i % questions == 0:
            picture = _noise(f"{name}[{i}]", side, rng)
        kind: Kind = "caption" if visual else "qa"
        question = _words(_CAPTION_QUESTION if visual else asked[i], words, rng)
        answer = _words(answered[i], words, rng)
        out.append(Example(f"{name}/{i}", name, kind, question, answer, picture if visual else None))
    return out


def _answering(
    examples: Sequence[Example], lengths: Sequence[int], words: int, rng: np.random.Generator
) -> list[Example]:
    return [
        replace(example, answer=_words(lengths[i % len(lengths)], words, rng)) for i, example in enumerate(examples)
    ]


def _lengths(quantiles: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """One length from each of ``count`` equal parts of a distribution, in random order."""
    places = (np.arange(count) + 0.5) / count
    return rng.permutation(np.rint(np.interp(places, _AT, quantiles)).astype(int)).tolist()


def _words(count: int, words: int, rng: np.random.Generator) -> str:
    return " ".join(map(str, rng.integers(FIRST, words, count).tolist()))


def _noise(source: str, side: int, rng: np.random.Generator) -> Picture:
    """A picture in the plainest format there is (PPM)."""
    data = f"P6 {side} {side} 255\n".encode() + rng.integers(0, 256, (side, side, 3), dtype=np.uint8).tobytes()
    return Picture(hashlib.sha256(data).hexdigest(), source, lambda: data)
