"""Greedy continuations that start from what a packed forward pass has computed already.

A pass over trees (``data.tree``) leaves keys and values of every prompt in its cache. Those of each question, its
picture's included, are gathered into rows of their own, and decoding goes on from there: no prompt is read twice.
Rows of unequal length stand flush left; the places between a short prompt and the new tokens are masked, so nothing
is padded on the left and no position shifts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from clear_dist.models.family import Family, decoder_mask, unwrap


@dataclass
class Decoding:
    """B continuations under way. cache: keys and values [B, H, width + new, d]; lengths [B]: tokens of each prompt;
    last [B]: the token said last; shift [B]: by how much rotary positions behind a prompt differ from places in the
    sequence, where they do; new: how many tokens the cache holds behind the prompts."""

    cache: DynamicCache
    lengths: Tensor
    width: int
    last: Tensor
    shift: Tensor | None = None
    new: int = 0

    def keep(self, rows: Tensor) -> None:
        """Only these rows [b] go on."""
        for layer in _layers(self.cache):
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        self.lengths, self.last = self.lengths[rows], self.last[rows]
        self.shift = None if self.shift is None else self.shift[rows]


def empty_cache() -> DynamicCache:
    """A cache that keeps every token, whatever window a layer looks through: masks see to that."""
    return DynamicCache()


def prompt_places(rows: Sequence[int], places: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, ...]:
    """(row [B], place [B, P], length [B]) of prompts in a packed batch; short ones are filled up with place 0."""
    width = max((len(p) for p in places), default=1)
    index = torch.zeros(len(rows), width, dtype=torch.long)
    for b, own in enumerate(places):
        index[b, : len(own)] = torch.as_tensor(own)
    lengths = torch.tensor([len(p) for p in places], dtype=torch.long)
    return torch.tensor(list(rows), dtype=torch.long).to(device), index.to(device), lengths.to(device)


def start(
    family: Family,
    module: nn.Module,
    cache: DynamicCache,
    final_RLD: Tensor,
    prompts: tuple[Tensor, ...],
    never: int | None,
    rotary_ids: Tensor | None = None,
) -> Decoding:
    """The first token of every prompt, from a pass that filled ``cache`` and gave the hidden states ``final_RLD``.

    prompts: see ``prompt_places``. never: a token that is never said (the picture's placeholder). rotary_ids: the
    batch's.
    """
    row, index, lengths = prompts
    own = empty_cache()
    for number, layer in enumerate(_layers(cache)):
        keys, values = (
            torch.stack([kv[r].index_select(1, i) for r, i in zip(row.tolist(), index, strict=True)])
            for kv in (layer.keys, layer.values)
        )
        own.update(keys, values, number)
        layer.keys = layer.values = None  # freed as we go: both caches whole would be twice the memory
    last_BD = final_RLD[row, index.gather(1, lengths[:, None] - 1)[:, 0]]
    shift = None if rotary_ids is None else rotary_ids[:, row[:, None], index].amax((0, 2)) + 1 - lengths
    return Decoding(own, lengths, index.shape[1], _likeliest(family, module, last_BD, never), shift)


def step(family: Family, module: nn.Module, decoding: Decoding, never: int | None) -> None:
    """One more token for every row: ``last`` is read and replaced."""
    decoder = family.decoder(module)
    embeds = unwrap(module).get_input_embeddings()(decoding.last[:, None])
    decoding.new += 1
    place = torch.arange(decoding.width + decoding.new, device=embeds.device)[None]
    lengths = decoding.lengths[:, None]
    said = place >= decoding.width
    keys = torch.where(said, lengths + place - decoding.width, place)
    queries = lengths + decoding.new - 1
    rotary = None if decoding.shift is None else (queries + decoding.shift[:, None]).expand(3, -1, -1)
    full = (said | (place < lengths))[:, None, None]
    hidden = decoder(
        inputs_embeds=embeds,
        attention_mask=decoder_mask(decoder, full, queries, keys, embeds.dtype),
        position_ids=family.rotary(queries, rotary),
        past_key_values=decoding.cache,
        use_cache=True,
        return_dict=True,
    ).last_hidden_state
    decoding.last = _likeliest(family, module, hidden[:, -1], never)


def _layers(cache: DynamicCache) -> list[Any]:
    """A cache's layers, each with ``keys`` and ``values`` [B, H, K, d]; the library's types know of others too."""
    return list(cache.layers)


def _likeliest(family: Family, module: nn.Module, h_BD: Tensor, never: int | None) -> Tensor:
    logits = family.head(module)(h_BD)
    if never is not None:
        logits[:, never] = -torch.inf
    return logits.argmax(-1)
