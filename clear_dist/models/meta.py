"""A model without weights: the shapes of its tensors on the meta device, from a directory or a known name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from clear_dist.errors import UserError, nearest
from clear_dist.models.family import Family
from clear_dist.models.files import TINY
from clear_dist.models.info import _base_of, family_of, load_config
from clear_dist.models.llava import TOWER_EXTRA_TOKENS
from clear_dist.models.llava_next import next_layout
from clear_dist.models.load import freeze_tower
from clear_dist.models.lora import add_lora
from clear_dist.models.quiet import quiet

PICTURE = 512  # side of CLEAR's pictures, for models whose tokens follow from a picture's size
_QWEN_PIXELS = (56 * 56, 28 * 28 * 1280)  # of a picture, as the released processors scale it
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


@dataclass(frozen=True)
class PictureLoad:
    """One picture. tokens: in the decoder. tower_tokens: in the tower; tower_span: of these, those one attends to (the
    mean over blocks). projected: rows the projector computes; width: what it reads."""

    tokens: int = 0
    tower_tokens: int = 0
    tower_span: int = 0
    projected: int = 0
    width: int = 0


def named_shapes() -> tuple[str, ...]:
    """Names ``meta_model`` knows beside directories."""
    return ("tiny", *_CONFIGS)


def meta_model(name_or_dir: str, *, lora_r: int | None, full: bool) -> tuple[nn.Module, PreTrainedConfig, Family]:
    """(module on the meta device, its configuration, its family), trainable as a run makes it.

    Args:
        lora_r: rank of an adapter to put on the language model; None without. full: everything but the vision tower
            trains. With neither nothing does.
    Raises:
        UserError: an unknown name (with near matches), a directory without a usable config.json.
    """
    assert lora_r is None or not full, "LoRA or full, not both"
    path = TINY if name_or_dir == "tiny" else Path(name_or_dir).expanduser()
    if name_or_dir in _CONFIGS:
        config = _CONFIGS[name_or_dir]()
    elif path.is_dir():
        path = _base_of(path) if (path / "adapter_config.json").is_file() else path
        config = load_config(path)
    else:
        raise UserError(
            f"--model {name_or_dir}: is neither a directory nor a known name{nearest(name_or_dir, named_shapes())}; "
            f"known names: {', '.join(named_shapes())}"
        )
    family = family_of(config, path)
    auto: Any = AutoModelForCausalLM if family.image_id(config) is None else AutoModelForImageTextToText
    with torch.device("meta"), quiet():
        module: nn.Module = auto.from_config(config, attn_implementation="sdpa")
        module.requires_grad_(full)
        if full:
            freeze_tower(family, module)
        if lora_r is not None:
            module = add_lora(module, lora_r, 2.0 * lora_r, family)
    return module, config, family


def picture_load(config: PreTrainedConfig) -> PictureLoad:
    """What one picture costs; a square one of ``PICTURE`` pixels where that depends on its size."""
    c: Any = config
    vision = getattr(c, "vision_config", None)
    if vision is None:
        return PictureLoad()
    if c.model_type == "qwen2_5_vl":
        merge, patch = vision.spatial_merge_size, vision.patch_size
        tall, wide = smart_resize(PICTURE, PICTURE, patch * merge, *_QWEN_PIXELS)
        patches = (tall // patch) * (wide // patch)
        window = (vision.window_size // patch) ** 2
        whole = len(vision.fullatt_block_indexes)
        span = (whole * patches + (vision.depth - whole) * min(window, patches)) // vision.depth
        return PictureLoad(patches // merge**2, patches, span, patches // merge**2, vision.hidden_size * merge**2)
    each = (vision.image_size // vision.patch_size) ** 2
    extra = TOWER_EXTRA_TOKENS.get(vision.model_type, 0)
    kept = each + extra - (c.vision_feature_select_strategy == "default")
    if c.model_type == "llava_next":
        layout = next_layout(config, PICTURE, PICTURE)
        pieces = layout.patches
        tokens = layout.tokens
    else:
        pieces, tokens = 1, kept
    chosen = c.vision_feature_layer
    width = vision.hidden_size * (len(chosen) if isinstance(chosen, list | tuple) else 1)
    return PictureLoad(tokens, pieces * (each + extra), each + extra, pieces * kept, width)


def _clip_large() -> CLIPVisionConfig:
    """openai/clip-vit-large-patch14-336, the tower of LLaVA."""
    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )


def _llava(**text: int) -> PreTrainedConfig:
    return LlavaConfig(
        vision_config=_clip_large(),
        text_config=LlamaConfig(vocab_size=32064, max_position_embeddings=4096, tie_word_embeddings=False, **text),  # type: ignore[arg-type] image_token_index=32000,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def _next(text: type[LlamaConfig] | type[MistralConfig], **sizes: int) -> PreTrainedConfig:
    return LlavaNextConfig(
        vision_config=_clip_large(),
        text_config=text(max_position_embeddings=4096, tie_word_embeddings=False, **sizes),  # type: ignore[arg-type]
        image_token_index=sizes["vocab_size"] - 64,
        image_grid_pinpoints=_PINPOINTS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def _qwen(text: Mapping[str, int], tower_intermediate: int = 3420, *, tied: bool = False) -> PreTrainedConfig:
    return Qwen2_5_VLConfig(
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": tower_intermediate,
            "num_heads": 16,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": text["hidden_size"],
        },
        text_config={
            **text,
            "tie_word_embeddings": tied,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        tie_word_embeddings=tied,
    )


def _sizes(hidden: int, intermediate: int, layers: int, heads: int, kv: int, **more: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        **more,
    }


_VICUNA_7B = _sizes(4096, 11008, 32, 32, 32)
_MISTRAL_7B = _sizes(4096, 14336, 32, 32, 8)

# Hyperparameters as in the released config.json files.
_CONFIGS: Mapping[str, Callable[[], PreTrainedConfig]] = {
    "llava-1.5-7b": lambda: _llava(**_VICUNA_7B),
    "llava-1.5-13b": lambda: _llava(**_sizes(5120, 13824, 40, 40, 40)),
    "llava-next-mistral-7b": lambda: _next(MistralConfig, vocab_size=32064, **_MISTRAL_7B),
    "llava-next-vicuna-7b": lambda: _next(LlamaConfig, vocab_size=32064, **_VICUNA_7B),
    "llava-next-34b": lambda: _next(LlamaConfig, vocab_size=64064, **_sizes(7168, 20480, 60, 56, 8)),
    "qwen2.5-vl-3b": lambda: _qwen(_sizes(2048, 11008, 36, 16, 2, vocab_size=151936), tied=True),
    "qwen2.5-vl-7b": lambda: _qwen(_sizes(3584, 18944, 28, 28, 4, vocab_size=152064)),
    "qwen2.5-vl-32b": lambda: _qwen(_sizes(5120, 27648, 64, 40, 8, vocab_size=152064), 3456),
    "qwen2.5-vl-72b": lambda: _qwen(_sizes(8192, 29568, 80, 64, 8, vocab_size=152064), 3456),
    "llama-3.1-8b": lambda: LlamaConfig(vocab_size=128256, tie_word_embeddings=False, **_MISTRAL_7B),  # type: ignore[arg-type]
}
