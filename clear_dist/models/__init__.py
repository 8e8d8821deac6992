"""Models: one small interface over model families, their tokens and pixels, LoRA, loading and making.

The only importer of ``transformers`` and ``peft``. Symbols: R rows of a packed batch, L tokens of a row,
P pictures, D hidden size, V vocabulary.
"""

from clear_dist.models.causal_lm import CAUSAL_LM
from clear_dist.models.family import Family, enable_checkpointing, final_hidden, hidden_states, parameter_counts, unwrap
from clear_dist.models.files import weights_digest
from clear_dist.models.generate import generate
from clear_dist.models.info import ModelInfo, inspect_model
from clear_dist.models.llava import LLAVA
from clear_dist.models.load import freeze_but_blocks, freeze_tower, load_model
from clear_dist.models.lora import add_lora, merge_lora, reference_mode, save_adapter, save_merged, trainable_state
from clear_dist.models.model import Model
from clear_dist.models.new import new_model
from clear_dist.models.processor import TokenProcessor
from clear_dist.models.tiny import llava_processor, save_model_dir, tiny_llava, word_tokenizer

__all__ = [
    "CAUSAL_LM",
    "LLAVA",
    "Family",
    "Model",
    "ModelInfo",
    "TokenProcessor",
    "add_lora",
    "enable_checkpointing",
    "final_hidden",
    "freeze_but_blocks",
    "freeze_tower",
    "generate",
    "hidden_states",
    "inspect_model",
    "llava_processor",
    "load_model",
    "merge_lora",
    "new_model",
    "parameter_counts",
    "reference_mode",
    "save_adapter",
    "save_merged",
    "save_model_dir",
    "tiny_llava",
    "trainable_state",
    "unwrap",
    "weights_digest",
    "word_tokenizer",
]
