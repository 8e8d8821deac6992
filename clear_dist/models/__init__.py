"""Models: one small interface over model families, their tokens and pixels, LoRA, loading and making.

The only importer of ``transformers``, ``peft`` and ``diffusers``. Symbols: R rows of a packed batch, L tokens of a row,
P pictures, D hidden size, V vocabulary.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clear_dist.models.causal_lm import CAUSAL_LM
    from clear_dist.models.compile import check_compile, compile_blocks
    from clear_dist.models.family import (
        Family,
        enable_checkpointing,
        final_hidden,
        hidden_states,
        parameter_counts,
        unwrap,
    )
    from clear_dist.models.files import weights_digest
    from clear_dist.models.info import ModelInfo, inspect_model, with_base_weights
    from clear_dist.models.llava import LLAVA
    from clear_dist.models.llava_next import LLAVA_NEXT
    from clear_dist.models.load import freeze_but_blocks, freeze_tower, load_model
    from clear_dist.models.lora import (
        add_lora,
        merge_lora,
        reference_mode,
        save_adapter,
        save_merged,
        trainable_state,
    )
    from clear_dist.models.lora_joint import check_plain
    from clear_dist.models.meta import meta_model, named_shapes
    from clear_dist.models.model import Model
    from clear_dist.models.new import new_model
    from clear_dist.models.nf4 import Nf4Linear, check_nf4, packed_bytes
    from clear_dist.models.photo_faces import FacePipeline
    from clear_dist.models.photo_pipeline import PhotoPipeline
    from clear_dist.models.picture_classifier import PictureClassifier, RealnessDetector
    from clear_dist.models.picture_estimator import FaceEstimator
    from clear_dist.models.processor import TokenProcessor
    from clear_dist.models.qwen_vl import QWEN_VL
    from clear_dist.models.tiny import llava_processor, save_model_dir, tiny_llava, word_tokenizer

__all__ = [
    "CAUSAL_LM",
    "LLAVA",
    "LLAVA_NEXT",
    "QWEN_VL",
    "FaceEstimator",
    "FacePipeline",
    "Family",
    "Model",
    "ModelInfo",
    "Nf4Linear",
    "PhotoPipeline",
    "PictureClassifier",
    "RealnessDetector",
    "TokenProcessor",
    "add_lora",
    "check_compile",
    "check_nf4",
    "check_plain",
    "compile_blocks",
    "enable_checkpointing",
    "final_hidden",
    "freeze_but_blocks",
    "freeze_tower",
    "hidden_states",
    "inspect_model",
    "llava_processor",
    "load_model",
    "merge_lora",
    "meta_model",
    "named_shapes",
    "new_model",
    "packed_bytes",
    "parameter_counts",
    "reference_mode",
    "save_adapter",
    "save_merged",
    "save_model_dir",
    "tiny_llava",
    "trainable_state",
    "unwrap",
    "weights_digest",
    "with_base_weights",
    "word_tokenizer",
]

# PEFT imports bitsandbytes where it is installed, which then tells of kernels that nobody here asks for.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

# Imported when first asked for: transformers takes seconds, and workers of a farm of ResNets never need it.
_MODULES = {
    "causal_lm": ("CAUSAL_LM",),
    "compile": ("check_compile", "compile_blocks"),
    "family": ("Family", "enable_checkpointing", "final_hidden", "hidden_states", "parameter_counts", "unwrap"),
    "files": ("weights_digest",),
    "info": ("ModelInfo", "inspect_model", "with_base_weights"),
    "llava": ("LLAVA",),
    "llava_next": ("LLAVA_NEXT",),
    "load": ("freeze_but_blocks", "freeze_tower", "load_model"),
    "lora": ("add_lora", "merge_lora", "reference_mode", "save_adapter", "save_merged", "trainable_state"),
    "lora_joint": ("check_plain",),
    "meta": ("meta_model", "named_shapes"),
    "model": ("Model",),
    "new": ("new_model",),
    "nf4": ("Nf4Linear", "check_nf4", "packed_bytes"),
    "photo_faces": ("FacePipeline",),
    "photo_pipeline": ("PhotoPipeline",),
    "picture_classifier": ("PictureClassifier", "RealnessDetector"),
    "picture_estimator": ("FaceEstimator",),
    "processor": ("TokenProcessor",),
    "qwen_vl": ("QWEN_VL",),
    "tiny": ("llava_processor", "save_model_dir", "tiny_llava", "word_tokenizer"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
