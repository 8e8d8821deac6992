"""Evaluation during training: what is still known of each set, on the sharded model, without generating.

Every rank runs the same number of forward passes (empty ones if need be): under ZeRO-3 a pass is a collective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clear_dist.data.encode import Encoded, encode_all
from clear_dist.data.packing import Layout, PixelCache, pack
from clear_dist.methods import Needs
from clear_dist.types import Batch, Example, Picture, Processor, TokenStats, View

from .world import World

PER_BATCH = 32  # examples of a forward pass on one rank
KINDS = {"name": "name", "qa": "fact"}  # kinds of examples with a figure of their own -> what it is called
NEEDS = Needs((View.RETAIN,), {View.RETAIN: frozenset({"logp", "top1"})}, frozenset())


class Monitor:
    """Of named sets: the mean probability of the true answer, and the share of answers found word for word.

    * ``probability/SET``: mean of p(y|x)^(1/|y|), EOS included.
    * ``exact/SET``: share of the examples of which every answer token is the model's likeliest, given the true tokens
      before it: greedy decoding would say just this answer.
    * ``name/SET``, ``fact/SET``: the same over the questions for a name (kind ``name``) and for a fact (``qa``), where
      the set has some.
    """

    def __init__(
        self,
        sets: Mapping[str, Sequence[Example]],
        processor: Processor,
        row_length: int,
        max_length: int,
        world: World,
        layout: Layout = "dense",
    ) -> None:
        self._world, self._processor = world, processor
        self._row_length = row_length
        self._layout: Layout = layout
        self._kinds = {name: {e.id: e.kind for e in examples} for name, examples in sets.items()}
        self._mine: dict[str, list[list[Encoded]]] = {}
        self._packed: dict[str, list[Batch]] = {}
        self.pictures = {e.picture.digest: e.picture for rows in sets.values() for e in rows if e.picture is not None}
        self.features: Callable[[Sequence[Picture]], Tensor] | None = None  # as ``Stream.features``
        for name, examples in sets.items():
            mine = encode_all(examples[world.rank :: world.size], processor, max_length)
            passes = -(-len(examples) // (PER_BATCH * world.size))
            self._mine[name] = [mine[i * PER_BATCH : (i + 1) * PER_BATCH] for i in range(passes)]

    @torch.no_grad()
    def measure(self, engine: Any, step: int) -> dict[str, float]:
        """The figures of each set (a set without examples has none); the engine is left in training mode.

        A collective: every rank gets the same figures.
        """
        del step
        engine.eval()
        out: dict[str, float] = {}
        for name in self._mine:
            # Rows: all examples, then each of KINDS; columns: how many, sum of probabilities, of exact answers.
            sums = torch.zeros(1 + len(KINDS), 3, dtype=torch.float64, device=self._world.device)
            for batch in self._batches(name):
                sums += self._sums(engine, batch.to(self._world.device), self._kinds[name])
            if self._world.size > 1:
                torch.distributed.all_reduce(sums)
            for title, (count, probability, exact) in zip(("exact", *KINDS.values()), sums.tolist(), strict=True):
                if count and title == "exact":
                    out[f"probability/{name}"] = probability / count
                if count:
                    out[f"{title}/{name}"] = exact / count
        engine.train()
        return out

    def _batches(self, name: str) -> list[Batch]:
        """This rank's passes over a set: packed when it is first measured, as pictures may be kept by then."""
        if name not in self._packed:
            pixels = PixelCache(self._processor)
            self._packed[name] = [
                pack(
                    {View.RETAIN: mine},
                    self._processor,
                    row_length=self._row_length,
                    pixels=pixels,
                    layout=self._layout,
                    features=self.features,
                )
                for mine in self._mine[name]
            ]
        return self._packed[name]

    def _sums(self, engine: Any, batch: Batch, kinds: Mapping[str, str]) -> Tensor:
        """[1 + KINDS, 3] float64: this rank's part of one pass."""
        values = engine(batch, NEEDS)[View.RETAIN]
        logp = values["logp"]
        count = len(batch.example_ids)
        stats = TokenStats(batch.token_example.to(logp.device), count, count, len(logp), values)
        probability = stats.per_example(logp).exp()
        missed = stats.per_example(1 - values["top1"], "sum")
        columns = torch.stack([torch.ones_like(missed), probability, (missed == 0).to(missed)], 1).double()
        rows = [torch.ones(count, dtype=torch.bool)]
        rows += [torch.tensor([kinds[i] == kind for i in batch.example_ids], dtype=torch.bool) for kind in KINDS]
        return torch.stack([columns[row.to(columns.device)].sum(0) for row in rows])
