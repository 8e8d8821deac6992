"""Evaluation during training: probabilities of true answers, on the sharded model, without generating.

Every rank runs the same number of forward passes (empty ones if need be): under ZeRO-3 a pass is a collective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from clear_dist.data.encode import encode_all
from clear_dist.data.packing import Layout, PixelCache, pack
from clear_dist.methods import nll
from clear_dist.types import Batch, Example, Processor, TokenStats, View

from .world import World

PER_BATCH = 32  # examples of a forward pass on one rank


class Monitor:
    """Mean p(y|x)^(1/|y|) of named sets."""

    def __init__(
        self,
        sets: Mapping[str, Sequence[Example]],
        processor: Processor,
        row_length: int,
        max_length: int,
        world: World,
        layout: Layout = "dense",
    ) -> None:
        self._world = world
        self._sets: dict[str, list[Batch]] = {}
        pixels = PixelCache(processor)
        for name, examples in sets.items():
            mine = encode_all(examples[world.rank :: world.size], processor, max_length)
            passes = -(-len(examples) // (PER_BATCH * world.size))
            self._sets[name] = [
                pack(
                    {View.RETAIN: mine[i * PER_BATCH : (i + 1) * PER_BATCH]},
                    processor,
                    row_length=row_length,
                    pixels=pixels,
                    layout=layout,
                )
                for i in range(passes)
            ]

    @torch.no_grad()
    def measure(self, engine: Any, step: int) -> dict[str, float]:
        """``probability/SET`` for each set; the engine is left in training mode."""
        del step
        needs = nll(View.RETAIN).needs
        engine.eval()
        out = {}
        for name, batches in self._sets.items():
            sums = torch.zeros(2, dtype=torch.float64, device=self._world.device)
            for batch in batches:
                logp = engine(batch.to(self._world.device), needs)[View.RETAIN]["logp"]
                count = len(batch.example_ids)
                stats = TokenStats(batch.token_example.to(logp.device), count, count, len(logp), {"logp": logp})
                probability = stats.per_example(logp).exp()
                sums += torch.stack([probability.sum(), probability.new_tensor(float(count))]).double()
            if self._world.size > 1:
                torch.distributed.all_reduce(sums)
            out[f"probability/{name}"] = float(sums[0] / sums[1])
        engine.train()
        return out
