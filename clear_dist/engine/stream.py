"""The batches of a training run, step by step: a pure function of (seed, step), whatever the ranks.

Every rank works out the whole step's examples, so the global counts that losses are normalised by are known without
communication; each rank then packs only its own share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from clear_dist.data.encode import Encoded, encode_all
from clear_dist.data.order import Order, share
from clear_dist.data.packing import Layout, PixelCache, pack
from clear_dist.types import Batch, Example, Processor, UserError, View

from .step import Totals


@dataclass(frozen=True)
class StreamSettings:
    """batch: view -> examples per optimiser step (all ranks); see the training flags for the rest."""

    batch: Mapping[View, int]
    seed: int
    questions_per_picture: int
    max_length: int
    row_length: int
    accumulation: int
    layout: Layout = "dense"
    one_run_per_picture: bool = False


# Views whose examples are the forget examples in another guise, bound to them one by one.
_FOLLOWS = {View.IDK: View.FORGET}


class Stream:
    """Micro-batches of any step for one rank."""

    def __init__(
        self,
        pools: Mapping[View, Sequence[Example]],
        processor: Processor,
        settings: StreamSettings,
        rank: int,
        ranks: int,
        *,
        encoded: Mapping[View, list[Encoded]] | None = None,  # the pools' examples, where they are encoded already
    ) -> None:
        self.settings, self.rank, self.ranks = settings, rank, ranks
        self._processor = processor
        self._pixels = PixelCache(processor)
        self._encoded: dict[View, list[Encoded]] = {}
        self._orders: dict[View, Order] = {}
        for view, examples in pools.items():
            if not examples:
                raise UserError(
                    f"the {view} set is empty; there is nothing to train on. Check --forget and --modality."
                )
            done = None if encoded is None else encoded[view]
            self._encoded[view] = encode_all(examples, processor, settings.max_length) if done is None else done
            leader = _FOLLOWS.get(view, view)
            self._orders[view] = Order(
                list(pools.get(leader, examples)),
                seed=settings.seed,
                view=str(leader),
                questions_per_picture=settings.questions_per_picture,
                one_run_per_picture=settings.one_run_per_picture,
            )
        for view, leader in _FOLLOWS.items():
            if view in pools and leader in pools:
                assert len(pools[view]) == len(pools[leader]), f"{view} and {leader} are bound one by one"
                assert settings.batch[view] == settings.batch[leader], f"{view} and {leader} step together"

    def examples_per_epoch(self, view: View) -> int:
        return self._orders[view].examples_per_epoch

    def totals(self, step: int) -> dict[View, Totals]:
        """Counts of the whole step, over all ranks and accumulation steps."""
        out = {}
        for view in self._encoded:
            chosen = self._chosen(view, step)
            out[view] = Totals(len(chosen), sum(len(self._encoded[view][i].answer) for i in chosen))
        return out

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """This rank's packed batches of a step, one per accumulation step; each is packed when it is asked for."""
        parts = self.ranks * self.settings.accumulation
        runs = {view: self._orders[view].runs(self._chosen(view, step)) for view in self._encoded}
        for micro in range(self.settings.accumulation):
            part = micro * self.ranks + self.rank
            yield pack(
                {
                    str(view): [encoded[i] for i in share(runs[view], parts, part)]
                    for view, encoded in self._encoded.items()
                },
                self._processor,
                row_length=self.settings.row_length,
                pixels=self._pixels,
                layout=self.settings.layout,
            )

    def _chosen(self, view: View, step: int) -> list[int]:
        count = self.settings.batch[view]
        return self._orders[view].take(step * count, count)
