"""The tiny LLaVA: under a million parameters, a standard Hugging Face directory, minutes on two cores.

CLIP of 3 layers (width 96, 48 px, patch 12: 16 image tokens), Llama of 3 layers (width 128), a tokenizer of
whole words. Small enough to ship, complete enough for every code path a 7B LLaVA takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from clear_dist.models.processor import IMAGE_TOKEN, TokenProcessor
from clear_dist.models.quiet import quiet

SPECIAL = ("<pad>", "<s>", "</s>", IMAGE_TOKEN, "<unk>")  # ids 0..4
CHAT = ("USER: ", " ASSISTANT:")  # one token each
IMAGE_SIZE, PATCH = 48, 12
BILINEAR = 2  # PIL.Image.Resampling.BILINEAR, which averages when it shrinks


def word_tokenizer(texts: Iterable[str], max_length: int = 512) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words and single punctuation marks; deterministic, vocabulary sorted.

    A word carries the space before it (``▁Anna``), the first of a text or a line as well, so a word has one
    form wherever it stands; a word glued to punctuation (``(see``) has a form of its own. Words not in
    ``texts`` become ``<unk>``. Single-spaced text comes back as it was, but for a space in front.
    """
    pre = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Metaspace("▁", "always", split=False),
            pre_tokenizers.Split(Regex(r"▁?\w+|▁?[^\w▁]|▁"), "isolated"),
        ]
    )
    words = {"▁", "▁\n"}
    for text in texts:
        for chunk in _without_chat(text):
            words.update(piece for piece, _ in pre.pre_tokenize_str(chunk))
    vocab = {word: i for i, word in enumerate([*SPECIAL, *CHAT, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre  # type: ignore[assignment]
    tokenizer.decoder = decoders.Sequence(  # type: ignore[assignment]
        [
            decoders.Fuse(),
            decoders.Replace("▁\n", "\n"),
            decoders.Replace("\n▁", "\n"),
            decoders.Replace(" ▁", "▁"),  # the space "USER: " ends with and the one its next word carries
            decoders.Replace("▁", " "),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    tokenizer.add_tokens([AddedToken(s, normalized=False) for s in CHAT])
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[IMAGE_TOKEN],
        model_max_length=max_length,
    )


def _without_chat(text: str) -> list[str]:
    chunks = [text]
    for mark in (*CHAT, *SPECIAL):
        chunks = [piece for chunk in chunks for piece in chunk.split(mark)]
    return [chunk for chunk in chunks if chunk]


def llava_config(
    vocab: int,
    *,
    image_id: int,
    image_size: int = IMAGE_SIZE,
    patch: int = PATCH,
    vision_hidden: int = 96,
    vision_layers: int = 3,
    vision_heads: int = 4,
    vision_intermediate: int = 192,
    hidden: int = 128,
    layers: int = 3,
    heads: int = 4,
    kv_heads: int | None = None,
    intermediate: int = 320,
    positions: int = 512,
    feature_layer: int = -1,
    special: tuple[int, int, int] = (0, 1, 2),
) -> LlavaConfig:
    """A LLaVA configuration; ``special`` are the ids of pad, BOS and EOS."""
    ids = dict(zip(("pad_token_id", "bos_token_id", "eos_token_id"), special, strict=True))
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision_hidden,
            intermediate_size=vision_intermediate,
            num_hidden_layers=vision_layers,
            num_attention_heads=vision_heads,
            image_size=image_size,
            patch_size=patch,
            projection_dim=vision_hidden,
        ),
        text_config=LlamaConfig(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads or heads,
            max_position_embeddings=positions,
            tie_word_embeddings=False,
            **ids,
        ),
        image_token_index=image_id,
        image_seq_length=(image_size // patch) ** 2,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **ids,
    )


def tiny_llava(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlavaForConditionalGeneration:
    """The tiny LLaVA with random weights (about 0.93 M with 256 words), fp32, the same for the same seed."""
    vocab = -(-len(tokenizer) // 8) * 8
    return build_llava(llava_config(vocab, image_id=SPECIAL.index(IMAGE_TOKEN)), seed)


def build_llava(config: LlavaConfig, seed: int) -> LlavaForConditionalGeneration:
    """Random weights of a configuration; leaves the global random state as it was."""
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config).eval()


def llava_processor(config: LlavaConfig, tokenizer: PreTrainedTokenizerFast) -> TokenProcessor:
    """The processor of a LLaVA made here: pictures resized to a square, values in [-1, 1]."""
    vision = config.vision_config
    side = {"height": vision.image_size, "width": vision.image_size}  # type: ignore[union-attr]
    half = [0.5, 0.5, 0.5]
    images = CLIPImageProcessorPil(
        size=side, crop_size=side, do_center_crop=False, resample=BILINEAR, image_mean=half, image_std=half
    )
    return TokenProcessor(
        tokenizer,
        images,
        image_id=config.image_token_index,
        image_tokens=config.image_seq_length,
        image_shape=(3, vision.image_size, vision.image_size),  # type: ignore[union-attr]
        patch_size=vision.patch_size,  # type: ignore[union-attr]
        extra_tokens=1,
    )


def save_model_dir(module: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> Path:
    """Write a complete Hugging Face directory of a model made here (LLaVA or text-only).

    Configuration, generation configuration, weights (safetensors), tokenizer, and for LLaVA the processor.
    """
    config = module.config
    text = config.get_text_config()
    module.generation_config = GenerationConfig(
        pad_token_id=text.pad_token_id, bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id
    )
    with quiet():
        module.save_pretrained(out)
    processor = llava_processor(config, tokenizer) if isinstance(config, LlavaConfig) else TokenProcessor(tokenizer)
    processor.save(out)
    return out
