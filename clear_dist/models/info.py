"""Looking at a model before any weight is loaded: what it is, and whether it can work here.

Every mistake a directory can hold (no configuration, pickled or cut-off weights, no tokenizer, a picture that
takes another number of tokens than the configuration says) is found here, in a second, and named.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from clear_dist.models.causal_lm import CAUSAL_LM
from clear_dist.models.family import Family
from clear_dist.models.files import is_snapshot, read_header, resolve, weight_files, weight_totals
from clear_dist.models.llava import LLAVA
from clear_dist.models.llava_next import LLAVA_NEXT
from clear_dist.models.processor import TokenProcessor
from clear_dist.models.qwen_vl import QWEN_VL
from clear_dist.models.vision_files import first_line, read_json, vision_processor
from clear_dist.types import UserError

# Layers whose state runs on along the row would mix packed sequences; only attention can be cut by a mask.
PACKABLE_LAYERS = {"full_attention", "sliding_attention"}
# Settings that change logits after the head, which per-token statistics compute from the head alone.
LOGIT_SETTINGS = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}
VISION: dict[str, Family] = {family.name: family for family in (LLAVA, LLAVA_NEXT, QWEN_VL)}  # by model_type
BaseWeights = Literal["full", "nf4"]
BASE_WEIGHTS_FILE = "base_weights.json"  # beside an adapter: what it was trained on top of
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model from its files alone.

    name: as the user gave it. path: the directory with configuration and weights. adapter: a PEFT directory to
    merge into it, or None. parameters, bytes: counted from the headers of the weight files (0 while those of a Hub
    model are not fetched). base_weights: full, or nf4 (``models.nf4``): the adapter then stays beside them.
    """

    name: str
    path: Path
    adapter: Path | None
    family: Family
    config: PreTrainedConfig
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]
    base_weights: BaseWeights = "full"

    @property
    def model_type(self) -> str:
        return self.config.model_type

    @property
    def image_tokens(self) -> int:
        return self.family.image_tokens(self.config)

    @cached_property
    def processor(self) -> TokenProcessor:
        return load_processor(self.adapter, self.path, self.config, self.family)


def inspect_model(name_or_dir: str | Path) -> ModelInfo:
    """Read configuration, tokenizer, processor and weight headers of a model; load no weight.

    Args:
        name_or_dir: ``tiny``, a directory (a model, or a PEFT adapter that names its base), or a Hub name.
    Raises:
        UserError: naming the file and what to do.
    """
    name = str(name_or_dir)
    path = resolve(name)
    adapter: Path | None = None
    if (path / "adapter_config.json").is_file():
        adapter, path = path, _base_of(path)
    config = load_config(path)
    family = family_of(config, path)
    _check_packable(config, family, path)
    parameters, size, dtypes = check_weights(path, complete=not is_snapshot(path))
    kept = "full" if adapter is None else base_weights_of(adapter)
    info = ModelInfo(name, path, adapter, family, config, parameters, size, dtypes, kept)
    _ = info.processor  # its checks belong to the inspection
    return info


def with_base_weights(info: ModelInfo, asked: str) -> ModelInfo:
    """The same model with its weights kept as ``asked``: full, nf4, or auto (as its adapter was made)."""
    return info if asked == "auto" else replace(info, base_weights=asked)  # type: ignore[arg-type]


def base_weights_of(adapter: Path) -> BaseWeights:
    """What an adapter was trained on top of, as ``save_adapter`` notes it. Raises UserError for a note that is none."""
    file = adapter / BASE_WEIGHTS_FILE
    if not file.is_file():
        return "full"
    found = read_json(file).get("base_weights")
    for known in get_args(BaseWeights):
        if found == known:
            return known
    raise UserError(f"{file}: base_weights is {found!r}, expected one of {', '.join(get_args(BaseWeights))}")


def check_weights(path: Path, *, complete: bool = True) -> tuple[int, int, tuple[str, ...]]:
    """(parameters, bytes, dtypes) of a directory's weights, whole and of a kind that works here."""
    files = weight_files(path, complete=complete)
    if any(name.endswith("lm_head.bias") for file in files for name in read_header(file)):
        raise UserError(
            f"{path}: the output head has a bias, which per-token statistics do not take into account; "
            "use a model whose head is a plain matrix"
        )
    return weight_totals(files)


def family_of(config: PreTrainedConfig, path: Path) -> Family:
    """The family a configuration belongs to."""
    if config.model_type in VISION:
        return VISION[config.model_type]
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return CAUSAL_LM
    raise UserError(
        f"{path / 'config.json'}: model_type {config.model_type!r} is not supported; "
        f"use a vision-language model (model_type {', '.join(map(repr, VISION))}) or a causal language model such as "
        "Llama, Mistral or Qwen2"
    )


def load_config(path: Path) -> PreTrainedConfig:
    """The configuration of a model directory."""
    file = path / "config.json"
    if not file.is_file():
        raise UserError(f"{path}: no config.json, so this is not a Hugging Face model directory")
    model_type = read_json(file).get("model_type")
    if not model_type:
        raise UserError(f"{file}: has no model_type; expected one, such as 'llava' or 'llama'")
    if read_json(file).get("quantization_config"):
        raise UserError(
            f"{file}: the weights are stored quantised (quantization_config). Name the model they were made from; "
            "--base-weights nf4 keeps its blocks in 4 bits here"
        )
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        raise UserError(f"{file}: cannot be read as a {model_type!r} configuration: {first_line(error)}") from error


def load_processor(adapter: Path | None, path: Path, config: PreTrainedConfig, family: Family) -> TokenProcessor:
    """Tokenizer and, for a vision-language model, image processor; checked against the configuration."""
    own = adapter is not None and any((adapter / f).is_file() for f in TOKENIZER_FILES)
    tokenizer_dir = adapter if own and adapter is not None else path
    if not any((tokenizer_dir / f).is_file() for f in TOKENIZER_FILES):
        raise UserError(
            f"{tokenizer_dir}: no tokenizer (expected one of {', '.join(TOKENIZER_FILES)}); "
            "copy the tokenizer files of the model it was made from"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"{tokenizer_dir}: the tokenizer cannot be read: {first_line(error)}") from error
    text: Any = family.text_config(config)
    if len(tokenizer) > text.vocab_size:
        raise UserError(
            f"{tokenizer_dir}: the tokenizer has {len(tokenizer)} tokens, the model's vocab_size is {text.vocab_size}; "
            "they do not belong together"
        )
    image_id = family.image_id(config)
    if image_id is None:
        return TokenProcessor(tokenizer)
    return vision_processor(path, tokenizer, config, family, image_id)


def _check_packable(config: PreTrainedConfig, family: Family, path: Path) -> None:
    text: Any = family.text_config(config)
    kinds = set(getattr(text, "layer_types", None) or ()) - PACKABLE_LAYERS
    if kinds:
        raise UserError(
            f"{path / 'config.json'}: layers of kind {', '.join(sorted(kinds))} carry state along a packed row, "
            "so sequences could not be kept apart; use a model with full or sliding-window attention only"
        )
    if family is CAUSAL_LM:
        _check_structure(config, path)
    for key, neutral in LOGIT_SETTINGS.items():
        value = getattr(text, key, neutral)
        if value not in (None, neutral):
            raise UserError(
                f"{path / 'config.json'}: {key} = {value} rescales logits after the head, which is not supported; "
                "use a model with a plain linear head"
            )


def _check_structure(config: PreTrainedConfig, path: Path) -> None:
    """A decoder of attention layers with a linear head, seen on a model without weights (meta device)."""
    with torch.device("meta"):
        module: Any = AutoModelForCausalLM.from_config(config)
    layers, head = getattr(module.get_decoder(), "layers", None), module.get_output_embeddings()
    llama_like = isinstance(layers, nn.ModuleList) and isinstance(getattr(module, "lm_head", None), nn.Linear)
    # Every recurrent layer in use (Mamba, gated delta nets, short convolutions) has a convolution along the row.
    recurrent = any(isinstance(m, nn.Conv1d) for m in module.modules())
    if not llama_like or head is not module.lm_head or recurrent:
        raise UserError(
            f"{path / 'config.json'}: model_type {config.model_type!r} is not supported: it is not a stack of "
            "attention layers with a linear head; use a model such as Llama, Mistral or Qwen2"
        )


def _base_of(adapter: Path) -> Path:
    """The directory of the model a PEFT adapter belongs to."""
    file = adapter / "adapter_config.json"
    base = read_json(file).get("base_model_name_or_path")
    if not base:
        raise UserError(f"{file}: base_model_name_or_path is empty; set it to the model the adapter was trained on")
    beside = adapter / base
    try:
        path = beside if beside.is_dir() else resolve(base)
    except UserError as error:
        raise UserError(f"{file}: base_model_name_or_path: {error}") from error
    if (path / "adapter_config.json").is_file():
        raise UserError(f"{file}: base_model_name_or_path names another adapter ({path}); merge that one first")
    return path
