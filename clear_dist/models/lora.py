"""LoRA on the language model: adding it, leaving it out (the reference), merging it, saving it.

The reference of unlearning is the *original*. Its own adapter is merged before the unlearning adapter is added,
so that switching the latter off gives exactly the original. Into 4-bit weights nothing can be merged: there the
original's adapter stays, frozen, beneath the unlearning adapter (W + s1 B1 A1 + s2 B2 A2), and only the latter is
switched off. Either way the two are saved as one (``lora_joint``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from clear_dist.models.family import Family, unwrap
from clear_dist.models.info import BASE_WEIGHTS_FILE
from clear_dist.models.lora_joint import Pairs, save_joint
from clear_dist.models.nf4 import is_quantised
from clear_dist.models.processor import TokenProcessor
from clear_dist.models.quiet import quiet
from clear_dist.types import UserError

ORIGINAL = "original"  # the adapter of an original whose weights are in 4 bits


def add_lora(
    module: nn.Module,
    r: int,
    alpha: float,
    family: Family,
    *,
    seed: int | None = None,
    layers: Sequence[int] | None = None,
) -> PeftModel:
    """Wrap a plain model with a fresh adapter (W + alpha/r * B A, B = 0) on the language model's projections.

    Only the adapter is trainable afterwards; no dropout. ``seed`` fixes A without touching the global state.
    ``layers``: only on these decoder blocks, counted from 0.
    LoRA: arXiv 2106.09685.
    Raises UserError if the model has no projection of a known name.
    """
    beneath = isinstance(module, PeftModel)
    assert not beneath or list(module.peft_config) == [ORIGINAL], "merge the present adapter first"
    targets = family.lora_targets
    if layers is not None:
        targets = rf"(?=.*\.layers\.(?:{'|'.join(map(str, layers))})\.){targets}"
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=targets,
    )
    with quiet(), torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            return cast_adapter(
                _stacked(module, config) if beneath else get_peft_model(unwrap(module), config), "default"
            )
        except ValueError as error:
            names = sorted({n.rsplit(".", 1)[-1] for n, m in module.named_modules() if isinstance(m, nn.Linear)})
            raise UserError(
                f"LoRA finds no projection it knows in this model (its linear layers: {', '.join(names)}); "
                "train all weights instead (--full)"
            ) from error


def _stacked(module: Any, config: LoraConfig) -> PeftModel:
    """The unlearning adapter on top of the original's: both count in a forward pass, only the new one trains."""
    module.add_adapter("default", config)
    module.base_model.set_adapter([ORIGINAL, "default"])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(".default." in name)
    return module


def cast_adapter(module: Any, adapter: str) -> PeftModel:
    """The adapter in the precision of the embeddings: PEFT takes it from the weight beneath, which may be packed."""
    dtype = unwrap(module).get_input_embeddings().weight.dtype  # type: ignore[union-attr]
    for layer in _adapted_layers(module):
        for matrices in (layer.lora_A, layer.lora_B):
            if adapter in matrices:
                matrices[adapter].to(dtype)
    return module


def _adapted_layers(module: nn.Module) -> Iterator[Any]:
    return (layer for layer in module.modules() if isinstance(layer, LoraLayer))


@contextmanager
def reference_mode(module: nn.Module) -> Iterator[None]:
    """The model without its unlearning adapter, i.e. the original, and without gradients."""
    assert isinstance(module, PeftModel), "a reference by switching off needs an adapter"
    if ORIGINAL not in module.peft_config:
        with torch.no_grad(), module.disable_adapter():
            yield
        return
    # By hand: PEFT's own switch also says who is trained, which DeepSpeed has settled.
    layers = list(_adapted_layers(module))
    active = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = [ORIGINAL]
    try:
        with torch.no_grad():
            yield
    finally:
        for layer, before in zip(layers, active, strict=True):
            layer._active_adapter = before


def merge_lora(module: nn.Module) -> nn.Module:
    """The plain model with the adapter's weights added to its own (the wrapper is used up)."""
    assert isinstance(module, PeftModel) and not is_quantised(module), type(module)
    merged: Any = module
    return merged.merge_and_unload()


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of what is trained: what a checkpoint has to keep."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def save_adapter(
    module: nn.Module,
    state: Mapping[str, Tensor] | None,
    out: Path,
    processor: TokenProcessor | None = None,
    base: str | Path | None = None,
    beneath: Pairs | None = None,
) -> Path:
    """Write an adapter directory that plain ``PeftModel.from_pretrained`` loads.

    Args:
        state: full parameters by their name in ``module`` (under ZeRO-3 gathered by the engine: the module's own
            are empty then); None takes the module's own.
        processor: saved along, so that the directory is complete.
        base: what ``base_model_name_or_path`` shall say; by default where the base was loaded from.
        beneath: the adapter the model was loaded with (``Model.beneath``), which is not in its base; saved along.
    """
    assert isinstance(module, PeftModel), type(module)
    assert beneath or ORIGINAL not in module.peft_config, "what lies beneath belongs to the result"
    out = Path(out)
    if is_quantised(module):
        out.mkdir(parents=True, exist_ok=True)
        (out / BASE_WEIGHTS_FILE).write_text(json.dumps({"v": 1, "base_weights": "nf4"}) + "\n", encoding="utf-8")
    if base is not None:
        module.peft_config["default"].base_model_name_or_path = str(base)
    if beneath:
        save_joint(module, state, beneath, out)
        if processor is not None:
            processor.save(out)
        return out
    full = dict(state) if state is not None else None
    tensors = get_peft_model_state_dict(module, state_dict=full, save_embedding_layers=False)
    assert tensors, "the state holds no adapter tensor"
    assert all(t.numel() for t in tensors.values()), "partitioned tensors: gather them first"
    with quiet():
        # Embeddings are never trained; left to itself PEFT would ask the Hub whether they were.
        module.save_pretrained(str(out), state_dict=full, save_embedding_layers=False)
    if processor is not None:
        processor.save(out)
    return out


def save_merged(module: nn.Module, state: Mapping[str, Tensor] | None, out: Path, processor: TokenProcessor) -> Path:
    """Write a complete directory (weights, configuration, tokenizer, processor) that plain transformers loads.

    With an adapter on it, W + alpha/r * B A is written and the module keeps its adapter as it was.

    Args:
        state: full parameters by their name in ``module`` (gathered, under ZeRO-3); None takes the module's own.
    """
    assert not is_quantised(module), "nothing is merged into 4-bit weights"
    full = {k: v.detach() for k, v in (state or module.state_dict()).items()}
    if isinstance(module, PeftModel):
        full = merged_state(module, full)
    assert all(t.numel() for t in full.values()), "partitioned tensors: gather them first"
    with quiet():
        unwrap(module).save_pretrained(str(out), state_dict={k: v.contiguous() for k, v in full.items()})
    processor.save(Path(out))
    return Path(out)


def merged_state(module: PeftModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain names -> tensors with the active adapter added; works on the given state alone, in fp32."""
    adapter: Any = module.active_adapter
    config: Any = module.peft_config[adapter]
    scaling = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    prefix = "base_model.model."
    out: dict[str, Tensor] = {}
    for name, stored in state.items():
        value = stored
        assert name.startswith(prefix), name
        plain = name.removeprefix(prefix)
        if ".lora_" in plain:
            continue
        if plain.endswith(".base_layer.weight"):
            stem = name.removesuffix(".base_layer.weight")
            a, b = state[f"{stem}.lora_A.{adapter}.weight"], state[f"{stem}.lora_B.{adapter}.weight"]
            value = (value.float() + scaling * (b.float() @ a.float())).to(value.dtype)
        out[plain.replace(".base_layer.", ".")] = value
    return out
