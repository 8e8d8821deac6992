"""Greedy generation for prompts of one length: KV cache, early stop, no padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from clear_dist.models.family import unwrap


@torch.no_grad()
def generate(
    module: nn.Module,
    prompts: Sequence[Sequence[int]],
    pixel_values: Tensor | None,
    max_new_tokens: int,
    *,
    eos_id: int,
    pad_id: int | None = None,
    synced: bool = False,
) -> list[list[int]]:
    """Greedy continuations, EOS removed.

    Args:
        module: the model, plain or wrapped by PEFT; put into eval mode for the call.
        prompts: n lists of ids, all of one length (so nothing is padded and no mask can be wrong).
        pixel_values: [n, 3, H, W] float32, one picture a prompt, or None.
        max_new_tokens: at most so many new tokens.
        synced: every rank keeps stepping until all are done (ZeRO-3, where a step gathers parameters).
    """
    if not prompts:
        return []
    assert len({len(p) for p in prompts}) == 1, "prompts of one call must have one length"
    model: Any = unwrap(module)
    device = next(model.parameters()).device
    ids = torch.tensor([list(p) for p in prompts], dtype=torch.long, device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if pixel_values is not None:
        assert pixel_values.shape[0] == ids.shape[0], (pixel_values.shape, ids.shape)
        inputs["pixel_values"] = pixel_values.to(device=device, dtype=model.dtype)
    # A configuration of our own: a directory's sampling settings would make generation random, or warn.
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_id,
        pad_token_id=eos_id if pad_id is None else pad_id,
        use_cache=True,
    )
    kept, model.generation_config = model.generation_config, config
    training = model.training
    model.eval()
    try:
        out = model.generate(**inputs, generation_config=config, synced_gpus=synced)
    finally:
        model.generation_config = kept
        model.train(training)
    return [_until(row, eos_id) for row in out[:, ids.shape[1] :].tolist()]


def _until(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
