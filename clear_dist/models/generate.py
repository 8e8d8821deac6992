"""Greedy generation for prompts of one length: KV cache, early stop, no padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from clear_dist.models.family import unwrap
from clear_dist.models.model import Model


@torch.no_grad()
def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    pixel_values: Tensor | None,
    max_new_tokens: int,
    *,
    synced: bool = False,
) -> list[list[int]]:
    """Greedy continuations, EOS removed.

    Args:
        model: its module plain or wrapped by PEFT; runs in eval mode.
        prompts: n lists of ids, all of one length (so nothing is padded and no mask can be wrong).
        pixel_values: [n, 3, H, W] float32, one picture a prompt, or None.
        max_new_tokens: at most so many new tokens.
        synced: every rank keeps stepping until all are done (ZeRO-3, where a step gathers parameters).
    """
    if not prompts:
        return []
    assert len({len(p) for p in prompts}) == 1, "prompts of one call must have one length"
    module: Any = unwrap(model.module)
    device, eos_id, image_id = model.device, model.processor.eos_id, model.processor.image_id
    ids = torch.tensor([list(p) for p in prompts], dtype=torch.long, device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if pixel_values is not None:
        assert pixel_values.shape[0] == ids.shape[0], (pixel_values.shape, ids.shape)
        inputs["pixel_values"] = pixel_values.to(device=device, dtype=module.dtype)
    # A configuration of our own: a directory's sampling settings would make generation random, or warn.
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_id,
        pad_token_id=model.processor.pad_id,
        use_cache=True,
        suppress_tokens=None if image_id is None else [image_id],  # a placeholder is never an answer
    )
    kept, module.generation_config = module.generation_config, config
    training = module.training
    module.eval()
    try:
        out = module.generate(**inputs, generation_config=config, synced_gpus=synced)
    finally:
        module.generation_config = kept
        module.train(training)
    return [_until(row, eos_id) for row in out[:, ids.shape[1] :].tolist()]


def _until(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
