"""The batches of a training run, step by step: a pure function of (seed, step), whatever the ranks.

Every rank works out the whole step's examples, so the global counts that losses are normalised by are known without
communication; each rank then packs only its own share.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from clear_dist.data.encode import Encoded, encode_all
from clear_dist.data.order import Order, share
from clear_dist.data.packing import Layout, PixelCache, pack
from clear_dist.methods import Needs
from clear_dist.types import Batch, Example, Picture, Processor, ReferenceStates, UserError, View

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


class Cache(Protocol):
    """States of the reference kept from before training; see ``reference_cache``."""

    def states(self, view: View, indices: Sequence[int]) -> ReferenceStates:
        """What the reference said of these examples of a view, in this order, on the CPU."""
        ...


# Views that are other views' examples in another guise, bound to them one by one.
_FOLLOWS = {View.IDK: View.FORGET, View.RANDOM: View.FORGET, View.SAFE: View.PRIVATE}


def leader(view: View) -> View:
    """The view whose order a view follows: two views with one leader are bound example by example."""
    return _FOLLOWS.get(view, view)


class Stream:
    """Micro-batches of any step for one rank.

    needs: what the objective asks for: where the reference is asked, and whether whole sequences are looked at.
    reference: view -> what the reference reads instead of the view's examples, one by one (same answers).
    cache: where the reference's states come from, if they are not computed.
    features: where the vision tower's output comes from, if it is not computed; see ``tower_cache``.
    """

    def __init__(
        self,
        pools: Mapping[View, Sequence[Example]],
        processor: Processor,
        settings: StreamSettings,
        rank: int,
        ranks: int,
        *,
        encoded: Mapping[View, list[Encoded]] | None = None,  # the pools' examples, where they are encoded already
        needs: Needs | None = None,
        reference: Mapping[View, Sequence[Example]] | None = None,
    ) -> None:
        self.settings, self.rank, self.ranks = settings, rank, ranks
        self.needs = needs
        self.cache: Cache | None = None
        self.features: Callable[[Sequence[Picture]], Tensor] | None = None
        self.processor = processor
        self._pixels = PixelCache(processor)
        self._encoded: dict[View, list[Encoded]] = {}
        self._reference: dict[View, list[Encoded]] = {}
        self._orders: dict[View, Order] = {}
        for view, examples in pools.items():
            if not examples:
                raise UserError(
                    f"the {view} set is empty; there is nothing to train on. Check --forget and --modality."
                )
            done = None if encoded is None else encoded.get(view)
            self._encoded[view] = encode_all(examples, processor, settings.max_length) if done is None else done
            lead = leader(view)
            self._orders[view] = Order(
                list(pools.get(lead, examples)),
                seed=settings.seed,
                view=str(lead),
                questions_per_picture=settings.questions_per_picture,
                one_run_per_picture=settings.one_run_per_picture,
            )
        for view, examples in (reference or {}).items():
            self._reference[view] = encode_all(examples, processor, settings.max_length)
            pairs = zip(self._encoded[view], self._reference[view], strict=True)
            assert all((a.answer == b.answer).all() for a, b in pairs), f"{view}: the reference has other answers"
        for view in pools:
            if leader(view) in pools:
                assert len(pools[view]) == len(pools[leader(view)]), f"{view} and {leader(view)} are bound one by one"
                assert settings.batch[view] == settings.batch[leader(view)], f"{view} and {leader(view)} step together"

    def examples_per_epoch(self, view: View) -> int:
        return self._orders[view].examples_per_epoch

    def encoded(self, view: View, *, reference: bool = False) -> list[Encoded]:
        """A view's examples as token ids: the student's, or what the reference reads instead."""
        return self._reference.get(view, self._encoded[view]) if reference else self._encoded[view]

    def totals(self, step: int) -> dict[View, Totals]:
        """Counts of the whole step, over all ranks and accumulation steps."""
        out = {}
        for view, encoded in self._encoded.items():
            chosen = [encoded[i] for i in self._chosen(view, step)]
            out[view] = Totals(len(chosen), sum(len(e.answer) for e in chosen), sum(e.length for e in chosen))
        return out

    def pictures(self, step: int) -> dict[str, Picture]:
        """digest -> picture, of the whole step: what the students of all ranks read, and the reference beside them."""
        out: dict[str, Picture] = {}
        for view in self._encoded:
            told = view in self._reference and self.cache is None
            for pool in (self._encoded[view], self._reference[view]) if told else (self._encoded[view],):
                chosen = [pool[i].picture for i in self._chosen(view, step)]
                out |= {picture.digest: picture for picture in chosen if picture is not None}
        return out

    def drawn(self, view: View, steps: int) -> list[int]:
        """Numbers of a view's examples that steps ``0 .. steps - 1`` come to, in order."""
        seen: set[int] = set()
        for step in range(steps):
            seen.update(self._chosen(view, step))
            if len(seen) == len(self._encoded[view]):
                break
        return sorted(seen)

    def micro_batches(self, step: int, views: Collection[View] | None = None) -> Iterator[Batch]:
        """This rank's packed batches of a step, one per accumulation step; each is packed when it is asked for.

        ``views``: only these (an update rule takes the gradient of one group of terms at a time).
        """
        wanted = [v for v in self._encoded if views is None or v in views]
        parts = self.ranks * self.settings.accumulation
        runs = {view: self._orders[view].runs(self._chosen(view, step)) for view in wanted}
        for micro in range(self.settings.accumulation):
            part = micro * self.ranks + self.rank
            yield self.packed({view: share(runs[view], parts, part) for view in wanted})

    def packed(self, chosen: Mapping[View, Sequence[int]]) -> Batch:
        """One batch of chosen examples of each view, with what the reference reads or has said."""
        batch = self._pack({view: [self._encoded[view][i] for i in indices] for view, indices in chosen.items()})
        asked = [v for v in chosen if self.needs is not None and v in self.needs.reference]
        if asked and self.cache is not None:
            batch.cached = {v: self.cache.states(v, chosen[v]) for v in asked}
        elif asked and (len(asked) < len(chosen) or any(v in self._reference for v in asked)):
            batch.reference = self.packed_reference({v: chosen[v] for v in asked})
        return batch

    def packed_reference(self, chosen: Mapping[View, Sequence[int]]) -> Batch:
        """What the reference reads of chosen examples."""
        return self._pack({v: [self.encoded(v, reference=True)[i] for i in chosen[v]] for v in chosen})

    def _pack(self, encoded: Mapping[View, list[Encoded]]) -> Batch:
        return pack(
            {str(view): examples for view, examples in encoded.items()},
            self.processor,
            row_length=self.settings.row_length,
            pixels=self._pixels,
            layout=self.settings.layout,
            sequences=self.needs is not None and self.needs.sequences,
            features=self.features,
        )

    def _chosen(self, view: View, step: int) -> list[int]:
        count = self.settings.batch[view]
        return self._orders[view].take(step * count, count)
