"""A few steps of ordinary training on a few rows, and what the model says after each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from clear_dist.data.encode import encode_all
from clear_dist.data.packing import PixelCache, pack
from clear_dist.engine.optimizer import adamw
from clear_dist.models import Model, add_lora, final_hidden
from clear_dist.ops import token_stats
from clear_dist.types import Batch, Example, UserError, View

LORA_R, LORA_ALPHA = 8, 16.0  # small, so that a 7B model fits one GPU; CLEAR's own rank
CLIP = 1.0  # norm of a step's gradient
ROW_LENGTH = 512


def relearn(
    model: Model,
    rows: Sequence[Example],
    steps: Sequence[int],
    lr: float,
    seed: int,
    *,
    max_length: int,
) -> Iterator[int]:
    """Train a fresh adapter on ``rows``, all of them in every step; yields each of ``steps`` once it is done, so that
    the model can be asked before training goes on.

    The loss is the mean over rows of the mean negative log-likelihood of their answer tokens; AdamW at a constant
    learning rate, no weight decay, gradients clipped to a norm of 1. The same rows, seed and lr give the same weights.

    Args:
        model: as loaded, without an adapter; it is used up (wrapped by PEFT, its adapter trained).
        steps: going up.
    Raises:
        UserError: a loss that is not finite.
    """
    model.module = add_lora(model.module, LORA_R, LORA_ALPHA, model.family, seed=seed)
    batch = pack(
        {View.RETAIN: encode_all(rows, model.processor, max_length)},
        model.processor,
        row_length=ROW_LENGTH,
        pixels=PixelCache(model.processor),
        share=model.shares_prefixes,
    ).to(model.device)
    parameters = [p for p in model.module.parameters() if p.requires_grad]
    optimizer = adamw(parameters, lr, 0.0, model.device)
    for step in range(1, max(steps) + 1):
        model.module.eval()  # nothing random: an attack is compared between models
        loss = mean_nll(model, batch)
        if not bool(torch.isfinite(loss)):
            raise UserError(f"--relearn-lr {lr:g}: the loss is not finite at step {step}; give a smaller one")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        if step in steps:
            yield step


def mean_nll(model: Model, batch: Batch) -> torch.Tensor:
    """Scalar: mean over the batch's examples of -log p(y|x) / |y|, EOS included."""
    h_TD = final_hidden(model.family, model.module, batch).flatten(0, 1)[batch.score_index]
    logp_T = token_stats(h_TD, model.family.head(model.module).weight, batch.targets, want=("logp",))["logp"]
    count = len(batch.example_ids)
    sums = logp_T.new_zeros(count).index_add(0, batch.token_example, logp_T)
    return -(sums / torch.bincount(batch.token_example, minlength=count)).mean()
