"""Pipelines and classifiers with random weights, small enough that a picture takes a blink; as directories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from clear_dist.models.photo_quiet import diffusers_module, quiet_diffusers
from clear_dist.models.picture_bytes import png

diffusers = diffusers_module()

LIMIT = 77
SIZE = 32
EMBEDDED, CROSS = 24, 32  # widths: of an embedded picture, of what the network attends to
SMALL: dict[str, Any] = {"hidden_size": CROSS, "intermediate_size": 37}
SMALL |= {"num_hidden_layers": 2, "num_attention_heads": 4}


def tiny_parts(seed: int = 0) -> dict[str, Any]:
    """The parts of a Stable Diffusion of 32 x 32 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64), layers_per_block=1, sample_size=SIZE // 2, in_channels=4, out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=CROSS, attention_head_dim=4,
            norm_num_groups=8,
        )  # fmt: skip
        vae = diffusers.AutoencoderKL(
            block_out_channels=(16, 32), in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
        tokenizer = letter_tokenizer()
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=LIMIT,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            **SMALL,
        )
        text_encoder = CLIPTextModel(config)
    return {
        "unet": unet.eval(),
        "vae": vae.eval(),
        "text_encoder": text_encoder.eval(),
        "tokenizer": tokenizer,
        "scheduler": diffusers.DDIMScheduler(
            beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
    }


def letter_tokenizer() -> CLIPTokenizer:
    """CLIP's, without merges: a token a letter."""
    letters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=LIMIT)


def write_diffusion(out: Path, seed: int = 0) -> Path:
    """A text-to-image directory, as they are published."""
    pipeline = diffusers.StableDiffusionPipeline(**tiny_parts(seed), requires_safety_checker=False)
    return _saved(pipeline, out)


def write_adapter(out: Path, seed: int = 0) -> Path:
    """An IP-Adapter for ``tiny_parts``: a projection of the picture, and keys and values for every cross-attention."""
    out.mkdir()
    parts = tiny_parts()
    names = [name for name in parts["unet"].attn_processors if name.endswith("attn2.processor")]
    order = list(parts["unet"].attn_processors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors = {
            "image_proj.proj.weight": torch.randn(4 * CROSS, EMBEDDED),
            "image_proj.proj.bias": torch.zeros(4 * CROSS),
            "image_proj.norm.weight": torch.ones(CROSS),
            "image_proj.norm.bias": torch.zeros(CROSS),
        }
        for name in names:
            width = parts["unet"].get_submodule(name.removesuffix(".processor")).inner_dim
            for part in ("to_k_ip", "to_v_ip"):
                tensors[f"ip_adapter.{order.index(name)}.{part}.weight"] = torch.randn(width, CROSS)
        config = CLIPVisionConfig(image_size=SIZE, patch_size=8, projection_dim=EMBEDDED, **SMALL)
        encoder = CLIPVisionModelWithProjection(config)
    _saved(encoder, out / "image_encoder")
    save_file(tensors, out / "adapter.safetensors")
    return out


def write_faces(out: Path, seed: int = 0) -> Path:
    """An unconditional directory of 8 x 8 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DModel(
            block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, sample_size=8, in_channels=3,
            out_channels=3, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
    return _saved(diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()), out)


def write_classifier(out: Path, labels: Sequence[str], seed: int = 0) -> Path:
    """A ViT of 32 x 32 pixels with these labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        names = dict(enumerate(labels))
        model: Any = ViTForImageClassification(ViTConfig(image_size=SIZE, patch_size=8, id2label=names, **SMALL))
        torch.nn.init.normal_(model.classifier.weight, std=2.0)  # so that pictures differ in their labels
    _saved(model, out)
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(out)
    return out


def noise(seed: int, height: int = 40, width: int = 40) -> bytes:
    """PNG of noise: a face as good as any to random weights."""
    return png(torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed)).numpy())


def _saved(model: Any, out: Path) -> Path:
    with quiet_diffusers():
        model.save_pretrained(out, safe_serialization=True)
    return out


def edit(file: Path, **changes: Any) -> None:
    """Other values for keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
