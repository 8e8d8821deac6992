"""LoRA on the language model: adding it, leaving it out (the reference), merging it, saving it.

The reference of unlearning is the *original*. Its own adapter is merged before the unlearning adapter is added,
so that switching the latter off gives exactly the original.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from clear_dist.models.family import Family, unwrap
from clear_dist.models.processor import TokenProcessor
from clear_dist.models.quiet import quiet
from clear_dist.types import UserError


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
    assert not isinstance(module, PeftModel), "merge the present adapter first"
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
            return get_peft_model(unwrap(module), config)  # type: ignore[return-value]
        except ValueError as error:
            names = sorted({n.rsplit(".", 1)[-1] for n, m in module.named_modules() if isinstance(m, nn.Linear)})
            raise UserError(
                f"LoRA finds no projection it knows in this model (its linear layers: {', '.join(names)}); "
                "train all weights instead (--full)"
            ) from error


@contextmanager
def reference_mode(module: nn.Module) -> Iterator[None]:
    """The model without its adapter, i.e. the original, and without gradients."""
    assert isinstance(module, PeftModel), "a reference by switching off needs an adapter"
    with torch.no_grad(), module.disable_adapter():
        yield


def merge_lora(module: nn.Module) -> nn.Module:
    """The plain model with the adapter's weights added to its own (the wrapper is used up)."""
    assert isinstance(module, PeftModel), type(module)
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
) -> Path:
    """Write an adapter directory that plain ``PeftModel.from_pretrained`` loads.

    Args:
        state: full parameters by their name in ``module`` (under ZeRO-3 gathered by the engine: the module's own
            are empty then); None takes the module's own.
        processor: saved along, so that the directory is complete.
        base: what ``base_model_name_or_path`` shall say; by default where the base was loaded from.
    """
    assert isinstance(module, PeftModel), type(module)
    if base is not None:
        module.peft_config["default"].base_model_name_or_path = str(base)
    full = dict(state) if state is not None else None
    tensors = get_peft_model_state_dict(module, state_dict=full, save_embedding_layers=False)
    assert tensors, "the state holds no adapter tensor"
    assert all(t.numel() for t in tensors.values()), "partitioned tensors: gather them first"
    with quiet():
        # Embeddings are never trained; left to itself PEFT would ask the Hub whether they were.
        module.save_pretrained(str(out), state_dict=full, save_embedding_layers=False)
    if processor is not None:
        processor.save(Path(out))
    return Path(out)


def save_merged(module: nn.Module, state: Mapping[str, Tensor] | None, out: Path, processor: TokenProcessor) -> Path:
    """Write a complete directory (weights, configuration, tokenizer, processor) that plain transformers loads.

    With an adapter on it, W + alpha/r * B A is written and the module keeps its adapter as it was.

    Args:
        state: full parameters by their name in ``module`` (gathered, under ZeRO-3); None takes the module's own.
    """
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
