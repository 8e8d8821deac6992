"""A model of a wanted size with random weights and a tokenizer trained on given text: real-sized jobs, no download."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from clear_dist.models.processor import IMAGE_TOKEN, TokenProcessor
from clear_dist.models.tiny import llava_config, save_model_dir
from clear_dist.types import UserError

Arch = Literal["llava", "llama"]
TOLERANCE = 0.1
POSITIONS = 2048
SPECIAL = ("<pad>", "<s>", "</s>")  # ids 0..2; <image> follows for LLaVA
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


@dataclass(frozen=True)
class Scale:
    """Sizes that follow from the parameter count: vocabulary, pictures, vision tower (CLIP's own from 3b on)."""

    below: float
    vocab: int
    image_size: int
    patch: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int


SCALES = (
    Scale(10e6, 1024, 112, 14, 96, 3, 4),
    Scale(100e6, 4096, 112, 14, 256, 4, 4),
    Scale(500e6, 16000, 336, 14, 512, 8, 8),
    Scale(3e9, 32000, 336, 14, 768, 12, 12),
    Scale(math.inf, 32000, 336, 14, 1024, 24, 16),
)


def new_model(
    arch: Arch,
    params: str,
    *,
    texts: Iterable[str],
    out: Path,
    layers: int | None = None,
    hidden: int | None = None,
    vocab: int | None = None,
    seed: int = 0,
    image_size: int | None = None,
) -> Path:
    """Write a model directory with random weights, within 10% of a parameter count.

    Args:
        arch: ``llava`` (CLIP tower, projector, Llama) or ``llama``.
        params: ``30m``, ``1.5b``, ``800k`` or a plain number.
        texts: what the byte-level BPE tokenizer is trained on, and must be able to spell.
        layers, hidden, vocab, image_size: fixed where given; the rest is searched for or follows the size.
    Raises:
        UserError: an unreadable size, one that cannot be met, an output directory in use, no text, or text that
            the tokenizer cannot spell.
    """
    target = parse_count(params)
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; choose another output directory or remove it")
    scale = next(s for s in SCALES if target < s.below)
    corpus = list(texts)
    tokenizer = train_tokenizer(corpus, vocab or scale.vocab, with_image=arch == "llava")
    config = find_config(arch, target, scale, len(tokenizer), layers, hidden, image_size)
    auto = AutoModelForImageTextToText if arch == "llava" else AutoModelForCausalLM
    # Random weights lose nothing in bf16, and a 7B model in fp32 would not fit many machines.
    dtype = torch.bfloat16 if target >= 1e9 else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = auto.from_config(config, dtype=dtype)
    return save_model_dir(module, tokenizer, out)


def parse_count(text: str) -> int:
    """``30m`` -> 30000000."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmb]?)\s*", text.lower())
    count = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    if count <= 0:
        raise UserError(f"params: {text!r} is not a size; write for example 800k, 30m or 1.5b")
    return count


def train_tokenizer(texts: Sequence[str], vocab: int, *, with_image: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (at most ``vocab`` tokens) that spells every one of ``texts``."""
    if not any(text.strip() for text in texts):
        raise UserError("text: there is no text to train the tokenizer on")
    special = [*SPECIAL, *([IMAGE_TOKEN] if with_image else [])]
    smallest = 256 + len(special)
    if vocab < smallest:
        raise UserError(f"vocab: {vocab} is too small; one token a byte and the special ones make {smallest}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,  # type: ignore[call-arg]
        special_tokens=special,  # type: ignore[call-arg]
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # type: ignore[call-arg]
        show_progress=False,  # type: ignore[call-arg]
    )
    # With the space each would carry in a sentence, so that words have one form.
    tokenizer.train_from_iterator((" " + text for text in texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=[IMAGE_TOKEN] if with_image else [],
        model_max_length=POSITIONS,
    )
    bad = TokenProcessor(made).first_unspellable(texts)
    if bad is not None:
        raise UserError(
            f"text: the tokenizer cannot spell {bad[:80]!r}: what it reads back is different "
            "(does it hold a special token such as </s>, or broken Unicode?); correct or leave out that row"
        )
    return made


def find_config(
    arch: Arch, target: int, scale: Scale, tokens: int, layers: int | None, hidden: int | None, image_size: int | None
) -> PreTrainedConfig:
    """The configuration of the most usual shape within 10% of ``target``.

    Usual: 64 units of width a layer, 128 from 3 billion parameters on (Llama-7B: 4096 / 32).
    """
    aspect = 128 if target >= 3e9 else 64
    best: tuple[float, PreTrainedConfig] | None = None
    nearest = math.inf
    widths = (
        [hidden] if hidden else [64 * k for k in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 40, 48, 64, 80)]
    )
    for width in widths:
        # The count is linear in the number of layers: two small models give it for all.
        one, two = (count(make_config(arch, scale, tokens, width, n, image_size)) for n in (1, 2))
        if best is not None and one > (1 + TOLERANCE) * target:
            break
        depth = layers or max(2, round((target - one) / (two - one)) + 1)
        size = one + (depth - 1) * (two - one)
        nearest = size if abs(size - target) < abs(nearest - target) else nearest
        if abs(size - target) > TOLERANCE * target or depth > 160:
            continue
        shape = abs(math.log(width / depth / aspect))
        if best is None or shape < best[0]:
            best = shape, make_config(arch, scale, tokens, width, depth, image_size)
    if best is None:
        raise UserError(
            f"params: no {arch} of {target:,} parameters (within 10%) with vocabulary {tokens}, layers "
            f"{layers or 'free'}, hidden {hidden or 'free'}; the nearest has {int(nearest):,}: change one of them"
        )
    return best[1]


def make_config(
    arch: Arch, scale: Scale, tokens: int, width: int, depth: int, image_size: int | None
) -> PreTrainedConfig:
    """A Llama or LLaVA configuration of a width and depth; other sizes follow the usual proportions."""
    head = 64 if width % 64 == 0 and width >= 256 else 32
    if width % head:
        raise UserError(f"hidden: {width} is not a multiple of {head}, the width of an attention head")
    vocab = -(-tokens // 64) * 64
    wide = -(-width * 8 // (3 * 64)) * 64
    if arch == "llama":
        return LlamaConfig(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=wide,
            num_hidden_layers=depth,
            num_attention_heads=width // head,
            num_key_value_heads=width // head,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=False,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    side = image_size or scale.image_size
    if side % scale.patch:
        raise UserError(f"image_size: {side} is not a multiple of the patch size {scale.patch}")
    return llava_config(
        vocab,
        image_id=len(SPECIAL),
        image_size=side,
        patch=scale.patch,
        vision_hidden=scale.vision_hidden,
        vision_layers=scale.vision_layers,
        vision_heads=scale.vision_heads,
        vision_intermediate=4 * scale.vision_hidden,
        hidden=width,
        layers=depth,
        heads=width // head,
        intermediate=wide,
        positions=POSITIONS,
        feature_layer=-2,
    )


def count(config: PreTrainedConfig) -> int:
    """Parameters of a configuration; nothing is allocated."""
    auto = AutoModelForCausalLM if isinstance(config, LlamaConfig) else AutoModelForImageTextToText
    with torch.device("meta"):
        module: PreTrainedModel = auto.from_config(config)
    return sum(p.numel() for p in module.parameters())
