"""Loading a model: weights in the wanted precision, an adapter merged or kept, everything checked before."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils.import_utils import is_flash_attn_2_available

from clear_dist.models.family import FLASH, Family
from clear_dist.models.files import fetch_weights
from clear_dist.models.info import ModelInfo, check_weights, inspect_model
from clear_dist.models.lora import ORIGINAL, cast_adapter
from clear_dist.models.lora_joint import Pairs, pairs_of
from clear_dist.models.model import Model
from clear_dist.models.nf4 import quantise_blocks
from clear_dist.models.quiet import quiet
from clear_dist.types import UserError

Dtype = Literal["auto", "fp32", "bf16"]
Attention = Literal["auto", "sdpa", "flash_attention_2", "eager"]

SHOW_PROGRESS = 1 << 30  # bytes of weights from which a progress bar is worth showing


def load_model(
    name_or_dir: str | Path | ModelInfo,
    dtype: Dtype = "auto",
    attention: Attention = "auto",
    device: torch.device | str | None = None,
) -> Model:
    """Load a model directory, a Hub name, a PEFT adapter directory (merged into its base; beside it, where that is kept
    in 4 bits) or ``tiny``.

    Args:
        dtype: ``auto`` is bf16 on a GPU and fp32 on a CPU.
        attention: ``auto`` is flash-attention where it is installed and fits (GPU, bf16), sdpa otherwise.
        device: where the weights go; None leaves them where they were loaded (under ``zero.Init``, partitioned).
    Raises:
        UserError: see ``inspect_model``; weights that do not fit the configuration; flash-attention not there.
    """
    info = name_or_dir if isinstance(name_or_dir, ModelInfo) else inspect_model(name_or_dir)
    on_gpu = torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
    precision = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(dtype, torch.bfloat16 if on_gpu else torch.float32)
    chosen = choose_attention(attention, precision, on_gpu)
    fetch_weights(info.name if info.adapter is None else str(info.path), info.path)
    check_weights(info.path)
    vision = info.family.image_id(info.config) is not None
    auto: Any = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    try:
        with quiet() if info.bytes < SHOW_PROGRESS else nullcontext():
            module, report = auto.from_pretrained(
                info.path,
                config=info.config,
                dtype=precision,
                attn_implementation=chosen,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{info.path}: the weights do not fit config.json: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{info.path}: the weights lack {len(missing)} tensors config.json asks for (first: {missing[0]}); "
            "configuration and weights do not belong together"
        )
    beneath: Pairs = {}
    if info.base_weights == "nf4":
        # On the GPU wherever there is one, also for training, which loads on the CPU: the two need not round alike, and
        # what is evaluated shall be what was trained.
        there = "cuda" if torch.cuda.is_available() else None
        module = quantise_blocks(info.family, module, device if on_gpu else there)
        if info.adapter is not None:
            module, beneath = keep_adapter(module, info.adapter)
    elif info.adapter is not None:
        module, beneath = merge_adapter(module, info.adapter)
    if device is not None:
        module = module.to(device)
    return Model(module.eval(), info.processor, info.family, info, beneath)


def merge_adapter(module: nn.Module, adapter: Path) -> tuple[nn.Module, Pairs]:
    """Add a PEFT adapter's weights to the model's own; a plain model, and what was added."""
    peft = _adapted(module, adapter, ORIGINAL)
    beneath = pairs_of(peft, ORIGINAL)
    return peft.merge_and_unload(), beneath


def keep_adapter(module: nn.Module, adapter: Path) -> tuple[nn.Module, Pairs]:
    """A PEFT adapter beside the model's weights, frozen: with it, the model is the original. And what it holds."""
    peft = _adapted(module, adapter, ORIGINAL)
    beneath = pairs_of(peft, ORIGINAL)
    peft.requires_grad_(False)
    return cast_adapter(peft, ORIGINAL), beneath


def _adapted(module: nn.Module, adapter: Path, name: str) -> Any:
    if not (adapter / "adapter_model.safetensors").is_file():
        raise UserError(f"{adapter}: no adapter_model.safetensors beside adapter_config.json")
    try:
        with quiet():
            return PeftModel.from_pretrained(module, str(adapter), adapter_name=name, use_safetensors=True)  # type: ignore[arg-type]
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{adapter}: the adapter does not fit its base model: {error}") from error


def choose_attention(attention: Attention, dtype: torch.dtype, on_gpu: bool) -> str:
    """The attention implementation a run gets; ``flash_attention_2`` needs its package, a GPU and bf16."""
    fits = on_gpu and dtype == torch.bfloat16 and is_flash_attn_2_available()
    if attention == "auto":
        return FLASH if fits else "sdpa"
    if attention == FLASH and not fits:
        raise UserError(
            "attention flash_attention_2 needs the flash-attn package, a GPU and dtype bf16; use sdpa instead"
        )
    return attention


def freeze_tower(family: Family, module: nn.Module) -> None:
    """No gradients for the vision tower (the projector keeps its own); nothing to do for a text-only model."""
    tower, projector = family.tower(module), family.projector(module)
    kept = set() if projector is None else {id(p) for p in projector.parameters()}
    for parameter in tower.parameters() if tower is not None else ():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)


def freeze_but_blocks(family: Family, module: nn.Module, layers: Sequence[int]) -> None:
    """Of what is trainable, only the decoder blocks ``layers`` (counted from 0) stay so."""
    blocks = family.blocks(module)
    kept = {id(p) for layer in layers for p in blocks[layer].parameters()}
    for parameter in module.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)
