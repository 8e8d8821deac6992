"""What the reference says, asked once before training and kept on disk: no second model is needed.

Full fine-tuning changes the very model the reference is; asked before the first step, it answers for all epochs.
Ranks share the examples; each writes a shard (see ``reference_files``), any number of ranks reads them back, mapped
into memory, an example at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from clear_dist.types import ReferenceStates, View

from .reference_files import check_shards, on_main, read_index
from .reference_key import ReferenceKey
from .step import FINAL
from .world import World

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class _Place:
    """Where a view's examples are, each array [N] by example: shard (-1: in none), first row and number of rows, of
    answer tokens, of sequences, and of sequences without image tokens. image: [S_shard] bool of each shard."""

    shard: Numbers
    token: Numbers
    tokens: Numbers
    row: Numbers
    rows: Numbers
    text: Numbers
    texts: Numbers
    image: list[Tensor]


class ReferenceCache:
    """The reference's states of the examples it was asked about, read from disk when they are asked for
    (``stream.Cache``)."""

    def __init__(self, folder: Path, index: dict[str, Any], key: ReferenceKey) -> None:
        self.folder, self.key = folder, key
        self.shards: list[dict[str, Any]] = index["shards"]
        self.files = [folder / shard["file"] for shard in self.shards]
        self._empty = {name: (getattr(torch, t["dtype"]), t["width"]) for name, t in index["tensors"].items()}
        self._examples: dict[str, int] = index["examples"]
        self._open: dict[int, Any] = {}
        self._slices: dict[tuple[int, str], Any] = {}
        self._places: dict[View, _Place] = {}

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(file.stat().st_size for file in self.files)

    def head(self) -> Tensor | None:
        """[V, D] head of the reference, where it is kept."""
        return self._shard(0).get_tensor("head") if self.key.head else None

    def lacking(self, view: View, indices: Sequence[int]) -> list[int]:
        """Those of these examples that the reference was not asked about."""
        at = np.asarray(indices, dtype=np.int64)
        return at[self._place(view).shard[at] < 0].tolist()

    def states(self, view: View, indices: Sequence[int]) -> ReferenceStates:
        """What the reference said of these examples of a view, in this order, on the CPU.

        Rows of image tokens that were left out are zero.
        """
        kept, place = self.key.kept[view], self._place(view)
        at = np.asarray(indices, dtype=np.int64)
        assert (place.shard[at] >= 0).all(), f"{self.folder}: the reference was not asked about every example of {view}"
        out = ReferenceStates()
        if kept.logp:
            out.logp = self._rows(f"{view}.logp", place.shard[at], place.token[at], place.tokens[at])
        if kept.hidden:
            out.hidden = self._rows(f"{view}.hidden", place.shard[at], place.token[at], place.tokens[at])
        for layer, images in kept.layers.items():
            name = layer_name(view, layer)
            if images:
                out.layers[layer] = self._rows(name, place.shard[at], place.row[at], place.rows[at])
                continue
            found = self._rows(name, place.shard[at], place.text[at], place.texts[at])
            runs = zip(place.shard[at].tolist(), place.row[at].tolist(), place.rows[at].tolist(), strict=True)
            masks = [place.image[shard][row : row + rows] for shard, row, rows in runs]
            image = torch.cat(masks) if masks else torch.zeros(0, dtype=torch.bool)
            out.layers[layer] = found.new_zeros(len(image), found.shape[1])
            out.layers[layer][~image] = found
        return out

    def _rows(self, name: str, shard: Numbers, start: Numbers, count: Numbers) -> Tensor:
        """The rows of some examples, read in the order they have on disk, returned in the order asked for."""
        dtype, width = self._empty[name]
        pieces = [torch.empty(0, *width, dtype=dtype)] * len(shard)
        for i in np.lexsort((start, shard)).tolist():
            if count[i]:
                pieces[i] = self._slice(int(shard[i]), name)[int(start[i]) : int(start[i] + count[i])]
        return torch.cat(pieces) if pieces else torch.empty(0, *width, dtype=dtype)

    def _shard(self, number: int) -> Any:
        if number not in self._open:
            self._open[number] = safe_open(self.files[number], framework="pt", device="cpu")
        return self._open[number]

    def _slice(self, shard: int, name: str) -> Any:
        if (shard, name) not in self._slices:
            self._slices[shard, name] = self._shard(shard).get_slice(name)
        return self._slices[shard, name]

    def _place(self, view: View) -> _Place:
        if view not in self._places:
            self._places[view] = self._find(view)
        return self._places[view]

    def _find(self, view: View) -> _Place:
        kept, total = self.key.kept[view], self._examples[view]
        found = {name: np.full(total, -1, dtype=np.int64) for name in _Place.__annotations__ if name != "image"}
        images: list[Tensor] = []
        for number in range(len(self.files)):
            shard = self._shard(number)
            examples = shard.get_tensor(f"{view}.examples").numpy()
            found["shard"][examples] = number
            lengths = {"token": shard.get_tensor(f"{view}.tokens").numpy()}
            if kept.layers:
                lengths["row"] = shard.get_tensor(f"{view}.rows").numpy()
            if kept.without_images:
                images.append(shard.get_tensor(f"{view}.image").clone())
                ends = np.cumsum(lengths["row"])
                text = np.concatenate([[0], np.cumsum(~images[-1].numpy())])
                lengths["text"] = text[ends] - text[ends - lengths["row"]]
            for name, length in lengths.items():
                found[name][examples] = np.cumsum(length) - length
                found[f"{name}s"][examples] = length
        return _Place(**found, image=images)


def open_reference_cache(
    folder: Path, *, key: ReferenceKey, world: World, hashes: bool = True
) -> ReferenceCache | None:
    """A complete cache of this key; None where ``folder`` holds none. A collective.

    Raises UserError: a cache of another model, data, tokenisation, statistics or precision (named), or a shard that is
    missing, cut off or damaged.
    """
    index = on_main(world, lambda: read_index(folder, key))
    if index is None:
        return None
    check_shards(folder, index["shards"], world, hashes=hashes)
    return ReferenceCache(folder, index, key)


def layer_name(view: View, layer: int) -> str:
    """The tensor of a block's states, or of the final ones."""
    return f"{view}.final" if layer == FINAL else f"{view}.layer.{layer}"
