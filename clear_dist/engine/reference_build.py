"""Asking the reference once about every example a run will compare with it: ranks share the examples, each writes a
shard. What an earlier run has asked is not asked again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clear_dist.data.encode import Encoded, Ids
from clear_dist.methods import Needs
from clear_dist.ops import token_stats
from clear_dist.types import Batch, ReferenceStates, UserError, View

from .reference_cache import ReferenceCache, layer_name, open_reference_cache
from .reference_files import ShardWriter, claimed, on_main, raise_together, remove_remains, shard_name, write_index
from .reference_key import Kept, ReferenceKey, kept_of
from .stream import Stream
from .world import World, gather

TOKENS_PER_PASS = 16_384
_LOGITS = 1024  # tokens whose logits are formed at a time, where the op would form all at once
Chosen = dict[View, list[int]]


def build_reference_cache(
    engine: Any,
    stream: Stream,
    needs: Needs,
    folder: Path,
    *,
    key: ReferenceKey,
    world: World,
    wanted: Mapping[View, Sequence[int]] | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    progress: Callable[[int, int], None] | None = None,
) -> ReferenceCache:
    """Ask the reference about examples of the views that compare with it, once; a collective.

    What ``folder`` holds already is not computed; what it lacks is added to it, so that runs which draw other examples
    of the same data share one cache. The weights must be those training starts from.

    Args:
        engine: a ``StepModule``, or the DeepSpeed engine around it (any ZeRO stage).
        stream: the examples, and the layout of the passes.
        key: :func:`reference_key` of the same stream and needs.
        wanted: view -> numbers of its examples, see ``Stream.drawn``; None is all of them.
        progress: called with (passes done, passes in all) of this rank.

    Raises:
        UserError: on every rank; see :func:`open_reference_cache`; a picture that cannot be read; no room on the disk.
    """
    assert kept_of(needs) == key.kept and key.kept, "the key is of other statistics"
    with claimed(folder, world):
        found = open_reference_cache(folder, key=key, world=world)
        every = {v: range(len(stream.encoded(v, reference=True))) for v in key.kept}
        asked = {v: list(every[v] if wanted is None else wanted[v]) for v in key.kept}
        lacking = asked if found is None else {v: found.lacking(v, indices) for v, indices in asked.items()}
        if found is not None and not any(lacking.values()):
            return found
        remove_remains(folder, world, [] if found is None else found.files)
        module = getattr(engine, "module", engine)
        training = module.training
        engine.eval()
        try:
            _Build(engine, stream, needs, folder, key, world, found).run(lacking, tokens_per_pass, progress)
        finally:
            engine.train(training)
        made = open_reference_cache(folder, key=key, world=world, hashes=False)
        assert made is not None
        return made


class _Build:
    """One rank's part. All ranks run equally many passes, whatever befalls one of them: under ZeRO-3 a pass is a
    collective. What went wrong is remembered and raised by all of them together."""

    def __init__(
        self,
        engine: Any,
        stream: Stream,
        needs: Needs,
        folder: Path,
        key: ReferenceKey,
        world: World,
        found: ReferenceCache | None,
    ) -> None:
        self.engine, self.stream, self.needs = engine, stream, needs
        self.folder, self.key, self.world, self.found = folder, key, world, found
        self.views = list(key.kept)
        self.writer: ShardWriter | None = None
        self.problem: str | None = None

    def run(self, asked: Chosen, tokens_per_pass: int, progress: Callable[[int, int], None] | None) -> None:
        mine = passes(self.stream, asked, self.world.size, tokens_per_pass)[self.world.rank]
        tensors: dict[str, Any] = {}
        try:
            for number, chosen in enumerate(mine):
                batch = self._packed(chosen)
                with torch.no_grad():
                    states, head = self.engine(batch.to(self.world.device), self.needs, collect=True)
                    found = {v: self._of_view(v, states[v], head, batch) for v in self.views}
                if number == 0:
                    shapes = {name: t for view in found.values() for name, t in view.items()}
                    tensors = {n: {"dtype": _dtype(t), "width": list(t.shape[1:])} for n, t in shapes.items()}
                    self._start(mine, shapes, head)
                self._write(chosen, found)
                if progress is not None:
                    progress(number + 1, len(mine))
            shard = self._finish()
        except BaseException:
            self._abandon()
            raise
        shards = [*([] if self.found is None else self.found.shards), *gather(self.world, shard)]
        examples = {v: len(self.stream.encoded(v, reference=True)) for v in self.views}
        write_index(self.folder, self.key, self.world, tensors=tensors, examples=examples, shards=shards)

    def _packed(self, chosen: Chosen) -> Batch:
        try:
            return self.stream.packed_reference(chosen)
        except UserError as error:  # a picture
            self.problem = self.problem or str(error)
            return self.stream.packed_reference({view: [] for view in chosen})

    def _of_view(self, view: View, states: ReferenceStates, head: Tensor, batch: Batch) -> dict[str, Tensor]:
        """name -> rows of one pass."""
        kept = self.key.kept[view]
        out: dict[str, Tensor] = {}
        if kept.logp:
            assert states.hidden is not None
            targets = batch.targets[batch.view_tokens[view]].to(head.device)
            pieces = zip(states.hidden.split(_LOGITS), targets.split(_LOGITS), strict=True)
            found = [token_stats(h, head, y, want=("logp",), wide=True)["logp"] for h, y in pieces]
            out[f"{view}.logp"] = torch.cat(found)
        if kept.hidden:
            assert states.hidden is not None
            out[f"{view}.hidden"] = states.hidden
        if kept.layers:
            assert batch.sequence_image is not None
            image = batch.sequence_image[batch.view_sequence[view]]
            if kept.without_images:
                out[f"{view}.image"] = image
            for layer, images in kept.layers.items():
                rows = states.layers[layer]
                out[layer_name(view, layer)] = rows if images else rows[~image.to(rows.device)]
        return out

    def _start(self, mine: Sequence[Chosen], found: dict[str, Tensor], head: Tensor) -> None:
        """Open the shard, now that types and widths are known, if it has room. A collective."""
        tensors: dict[str, tuple[torch.dtype, Sequence[int]]] = {}
        image_id = self.stream.processor.image_id
        for view in self.views:
            kept, encoded = self.key.kept[view], self.stream.encoded(view, reference=True)
            rows = _count([encoded[i] for chosen in mine for i in chosen[view]], image_id)
            for name in ("examples", "tokens", *["rows"] * bool(kept.layers)):
                tensors[f"{view}.{name}"] = (torch.int64, (rows["examples"],))
            for name, kind in _kinds(view, kept).items():
                tensors[name] = (found[name].dtype, (rows[kind], *found[name].shape[1:]))
        if self.key.head and self.world.main and self.found is None:
            tensors["head"] = (head.dtype, head.shape)
        size = sum(int(np.prod(shape)) * dtype.itemsize for dtype, shape in tensors.values())
        check_room(self.folder, sum(gather(self.world, size)), self.world)
        build = 0 if self.found is None else len(self.found.shards)  # above the number of every earlier build
        try:
            self.writer = ShardWriter(self.folder / shard_name(self.world.rank, self.world.size, build), tensors)
            if "head" in tensors:
                self.writer.append("head", head)
        except OSError as error:
            self._failed(error)

    def _write(self, chosen: Chosen, found: dict[View, dict[str, Tensor]]) -> None:
        if self.writer is None or self.problem is not None:
            return
        try:
            for view in self.views:
                encoded = self.stream.encoded(view, reference=True)
                picked = [encoded[i] for i in chosen[view]]
                self.writer.append(f"{view}.examples", torch.tensor(chosen[view], dtype=torch.int64))
                self.writer.append(f"{view}.tokens", torch.tensor([len(e.answer) for e in picked], dtype=torch.int64))
                if self.key.kept[view].layers:
                    self.writer.append(f"{view}.rows", torch.tensor([e.length for e in picked], dtype=torch.int64))
                for name, rows in found[view].items():
                    self.writer.append(name, rows)
        except OSError as error:
            self._failed(error)

    def _finish(self) -> dict[str, Any]:
        """This rank's shard, complete; a collective. Raises UserError on every rank if one has failed."""
        shard: dict[str, Any] = {}
        if self.problem is None and self.writer is not None:
            try:
                shard = self.writer.finish()
            except OSError as error:
                self._failed(error)
        raise_together(self.world, self.problem)
        return shard

    def _failed(self, error: OSError) -> None:
        self.problem = self.problem or (
            f"{self.folder}: the reference's statistics cannot be written ({error.strerror or error}); "
            "make room, or name another directory"
        )

    def _abandon(self) -> None:
        if self.writer is not None:
            self.writer.abandon()


def passes(
    stream: Stream, asked: Mapping[View, Sequence[int]], ranks: int, tokens: int = TOKENS_PER_PASS
) -> list[list[Chosen]]:
    """rank -> its passes, equally many for each, of about ``tokens`` tokens: view -> examples, for every view.

    Examples on one picture stand together, and on one prompt, whatever their view: packing then shares it.
    """
    groups: dict[Hashable, list[tuple[View, int]]] = {}
    encoded = {view: stream.encoded(view, reference=True) for view in asked}
    for view, indices in asked.items():
        for i in indices:
            example = encoded[view][i]
            shared = example.rest if example.digest is None else example.prefix
            groups.setdefault((example.digest, shared.tobytes()), []).append((view, i))
    ordered = [item for group in groups.values() for item in group]
    share = stream.settings.layout == "dense"
    seen: set[tuple[str | None, bytes, bytes]] = set()
    costs: list[int] = []
    for view, i in ordered:
        e = encoded[view][i]
        parts = {
            (e.digest, e.prefix.tobytes(), b""): e.prefix,
            (e.digest, e.prefix.tobytes(), e.rest.tobytes()): e.rest,
        }
        costs.append(len(e.answer) + sum(len(ids) for key, ids in parts.items() if not (share and key in seen)))
        seen.update(parts)
    total = sum(costs)
    count = ranks * max(1, -(-total // (tokens * ranks)))
    chosen: list[Chosen] = [{view: [] for view in asked} for _ in range(count)]
    start = 0
    for (view, i), cost in zip(ordered, costs, strict=True):
        chosen[start * count // total][view].append(i)
        start += cost
    return [chosen[rank::ranks] for rank in range(ranks)]


def estimate_bytes(stream: Stream, needs: Needs, hidden_size: int, *, itemsize: int = 2, vocabulary: int = 0) -> int:
    """Bytes a cache takes on disk, to within its headers.

    itemsize: bytes of one element of the model's states. vocabulary: rows of the head, where it is kept, else 0.
    """
    total = vocabulary * hidden_size * itemsize
    for view, kept in kept_of(needs).items():
        rows = _count(stream.encoded(view, reference=True), stream.processor.image_id)
        total += rows["examples"] * 8 * (3 if kept.layers else 2)
        for name, kind in _kinds(view, kept).items():
            total += rows[kind] * {"logp": 4, "image": 1}.get(name.rpartition(".")[2], hidden_size * itemsize)
    return total


def check_room(folder: Path, size: int, world: World) -> None:
    """Raise UserError, on every rank, where the disk of ``folder`` cannot take ``size`` bytes. A collective."""

    def check() -> None:
        free = shutil.disk_usage(folder).free
        if size > free:
            raise UserError(
                f"{folder}: the reference's statistics take {size / 1e9:.2f} GB, the disk has {free / 1e9:.2f}; "
                "make room, name a directory on another disk, or use a second copy of the model as the reference"
            )

    on_main(world, check)


def _kinds(view: View, kept: Kept) -> dict[str, str]:
    """Tensor -> what its rows are: answer tokens, tokens of sequences, or those less image tokens."""
    out = {f"{view}.logp": "tokens"} if kept.logp else {}
    if kept.hidden:
        out[f"{view}.hidden"] = "tokens"
    if kept.without_images:
        out[f"{view}.image"] = "rows"
    return out | {layer_name(view, layer): "rows" if images else "text" for layer, images in kept.layers.items()}


def _count(encoded: Sequence[Encoded], image_id: int | None) -> dict[str, int]:
    rows = sum(e.length for e in encoded)
    image = 0 if image_id is None else sum(int((x == image_id).sum()) for e in encoded for x in _runs(e))
    return {
        "examples": len(encoded),
        "tokens": sum(len(e.answer) for e in encoded),
        "rows": rows,
        "text": rows - image,
    }


def _runs(example: Encoded) -> tuple[Ids, Ids, Ids]:
    return example.prefix, example.rest, example.answer


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
