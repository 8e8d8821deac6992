"""The adapter an original was loaded with and the one that unlearned on top of it, saved as one.

    W + s1 B1 A1 + s2 B2 A2 = W + B A    with A = [A1; A2], B = [s1 B1, s2 B2]

An unlearning adapter alone, on the base both belong to, would be a model that never knew anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from clear_dist.models.vision_files import read_json
from clear_dist.types import UserError

Pairs = dict[str, tuple[Tensor, Tensor]]  # layer -> (A [r, I], s B [O, r]), on the CPU
# Fields of adapter_config.json with which an adapter is more than s B A.
BEYOND = "use_dora modules_to_save lora_bias target_parameters trainable_token_indices layer_replication use_qalora"


def check_plain(adapter: Path) -> None:
    """Raises UserError for an adapter that is not W + s B A throughout, to be joined with another."""
    file = adapter / "adapter_config.json"
    config = read_json(file)
    kind = str(config.get("peft_type", "LORA"))
    odd = [f"peft_type {kind}"] * (kind != "LORA") + [name for name in BEYOND.split() if config.get(name)]
    odd += ["bias"] * (config.get("bias", "none") != "none")
    if odd:
        raise UserError(
            f"{file}: {', '.join(odd)}: this is more than plain LoRA, and cannot be saved as one adapter with what is "
            "trained on top of it. Merge it into its base (PEFT's merge_and_unload) and name the merged directory"
        )


def pairs_of(module: nn.Module, adapter: str) -> Pairs:
    """An adapter's matrices by layer, as they are now; no copies where they are on the CPU."""
    return {
        name: (layer.lora_A[adapter].weight.detach().cpu(), _scaled(layer, adapter, layer.lora_B[adapter].weight))
        for name, layer in _layers(module, adapter)
    }


def save_joint(module: PeftModel, state: Mapping[str, Tensor] | None, beneath: Pairs, out: Path) -> None:
    """Write adapter ``default`` of ``module`` and the one ``beneath`` as one of the summed rank, with scale 1.

    Nothing is rounded but s B to the precision of B; layers with less than the largest rank are filled up with zeros.

    Args:
        state: full parameters by their name in ``module``; what it lacks is the module's own.
    """
    named = {n: p.detach() for n, p in module.named_parameters()} | dict(state or {})
    pairs = dict(beneath)
    for name, layer in _layers(module, "default"):
        a = named[f"{name}.lora_A.default.weight"].cpu()
        b = _scaled(layer, "default", named[f"{name}.lora_B.default.weight"])
        below = pairs.get(name)
        pairs[name] = (a, b) if below is None else (torch.cat([below[0], a]), torch.cat([below[1], b], dim=1))
    rank = max(len(a) for a, _ in pairs.values())
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in pairs.items():
        missing = rank - len(a)
        tensors[f"{name}.lora_A.weight"] = nn.functional.pad(a, (0, 0, 0, missing)).contiguous()
        tensors[f"{name}.lora_B.weight"] = nn.functional.pad(b, (0, missing)).contiguous()
    config = replace(
        module.peft_config["default"],
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(name.removeprefix("base_model.model.") for name in pairs),
        inference_mode=True,
    )
    out.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(out))
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})


def _layers(module: nn.Module, adapter: str) -> Iterator[tuple[str, Any]]:
    return ((n, m) for n, m in module.named_modules() if isinstance(m, LoraLayer) and adapter in m.lora_A)


def _scaled(layer: Any, adapter: str, b: Tensor) -> Tensor:
    return layer.scaling[adapter] * b.detach().cpu()
