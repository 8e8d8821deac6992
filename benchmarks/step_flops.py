"""Floating-point operations of one step: those the job cannot do without, and those a loop has the hardware do.

A product of an [N, a] with an [a, b] matrix is 2 N a b. Of the decoder, with N tokens, C pairs of a token and one that
it sees, P weights of a block's projections, A weights of its LoRA, D wide, and T scored tokens over V words:

    block forward     2 P N + 4 D C + 2 A N
    block backward    2 P N + 8 D C + 4 A N      through activations, and LoRA's own; frozen weights get none (no dW)
    head              2 V D T forward, 2 V D T backward, 2 V D T for the reference's distribution where one is compared

*Needed*: N counts each token once and a shared picture once. Left out are blocks above the last that is looked at,
backward below the lowest that is trained (there the inputs of q, k, v take none either), the reference's forward, and
the vision tower, whose results never change. It is one number for all loops: model FLOPs utilisation is needed / time /
peak. *Hardware* counts every position, padding included, every pair of a row, the tower, and the reference's forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.common import seconds_of
from benchmarks.step_loops import Job
from benchmarks.step_models import LORA_R
from clear_dist.types import Batch, View

# Dense bf16 operations a second, as the maker prints them; the first name that fits counts.
NOMINAL = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}


@dataclass(frozen=True)
class Sizes:
    """width D, vocabulary V, decoder blocks; base P and lora A: weights of a block; qkv: those of P that read the
    block's input; projector and tower: operations for an image token and for a picture."""

    width: int
    words: int
    blocks: int
    base: int
    lora: int
    qkv: int
    projector: float
    tower: float

    @classmethod
    def of(cls, config: Any, rank: int = LORA_R) -> Sizes:
        text, eye = config.text_config, config.vision_config
        d, f = text.hidden_size, text.intermediate_size
        kv = text.num_key_value_heads * (d // text.num_attention_heads)
        shapes = [(d, d), (d, kv), (d, kv), (d, d), (d, f), (d, f), (f, d)]
        patches = (eye.image_size // eye.patch_size) ** 2
        v, n = eye.hidden_size, patches + 1
        layer = 2 * (4 * v * v + 2 * v * eye.intermediate_size) * n + 4 * v * n * n
        return cls(
            width=d,
            words=text.vocab_size,
            blocks=text.num_hidden_layers,
            base=sum(a * b for a, b in shapes),
            lora=rank * sum(a + b for a, b in shapes),
            qkv=sum(a * b for a, b in shapes[:3]),
            projector=2.0 * (v * d + d * d),
            tower=eye.num_hidden_layers * layer + 2.0 * 3 * eye.patch_size**2 * v * patches,
        )

    def attention(self, pairs: int) -> float:
        """Forward of one block; backward is twice that."""
        return 4.0 * self.width * pairs

    def forward(self, tokens: int, pairs: int, *, blocks: int, adapted: int) -> float:
        """Of ``blocks``, ``adapted`` of them with LoRA."""
        plain = 2.0 * self.base * tokens + self.attention(pairs)
        return blocks * plain + adapted * 2.0 * self.lora * tokens

    def backward(self, tokens: int, pairs: int, *, blocks: int, trained: int) -> float:
        """Down to the lowest block that is trained."""
        through = 2.0 * self.base * tokens + 2.0 * self.attention(pairs)
        return blocks * through - 2.0 * self.qkv * tokens + trained * 4.0 * self.lora * tokens

    def head(self, tokens: int) -> float:
        return 2.0 * self.words * self.width * tokens


def needed(job: Job, batches: Sequence[Batch]) -> float:
    """Of a step whose packed batches these are."""
    sizes, (lowest, depth, trained) = Sizes.of(job.student.config), _span(job)
    total = 0.0
    for batch in batches:
        seen = batch.attention_mask()[:, 0] & batch.real[:, :, None]
        tokens, pairs = batch.real_tokens, int(seen.sum())
        total += sizes.forward(tokens, pairs, blocks=depth, adapted=trained)
        total += sizes.backward(tokens, pairs, blocks=depth - lowest, trained=trained)
        total += _ours_besides(job, sizes, batch)
    return total


def hardware_ours(job: Job, batches: Sequence[Batch]) -> float:
    sizes, (lowest, depth, trained) = Sizes.of(job.student.config), _span(job)
    total = 0.0
    for batch in batches:
        rows, length = batch.input_ids.shape
        tokens, pairs = rows * length, rows * length**2
        total += sizes.forward(tokens, pairs, blocks=depth, adapted=depth)
        total += sizes.backward(tokens, pairs, blocks=depth - lowest, trained=trained)
        total += _ours_besides(job, sizes, batch)
        if batch.pixel_values is not None:
            total += sizes.tower * len(batch.pixel_values)
    return total


def _ours_besides(job: Job, sizes: Sizes, batch: Batch) -> float:
    """Projector and head: the head on answers of the views that want words, once more where distributions meet."""
    out = sizes.projector * batch.image_slots.numel()
    for view, tokens in batch.view_tokens.items():
        wants = [w for w in job.objective.needs.wants[View(view)] if isinstance(w, str)]
        passes = 2 * bool(wants) + any(w.startswith("kl") for w in wants)
        out += passes * sizes.head(tokens.stop - tokens.start)
    return out


def hardware_padded(job: Job, batches: Sequence[Batch]) -> float:
    """Of a step of the other loops; a batch holds one view."""
    sizes, (lowest, depth, trained) = Sizes.of(job.student.config), _span(job)
    shallow = job.objective.needs.depth is not None
    total = 0.0
    for batch in batches:
        rows, length = batch.input_ids.shape
        tokens, pairs = rows * length, rows * length**2
        (view,) = batch.view_tokens
        total += sizes.forward(tokens, pairs, blocks=sizes.blocks, adapted=sizes.blocks)
        total += sizes.backward(tokens, pairs, blocks=depth - lowest, trained=trained)
        total += sizes.head(tokens) * (1 if shallow else 2) + _eyes(sizes, batch)
        if View(view) in job.objective.needs.reference:
            other = batch.reference or batch
            rows, length = other.input_ids.shape
            total += sizes.forward(rows * length, rows * length**2, blocks=sizes.blocks, adapted=0)
            total += sizes.head(rows * length) + _eyes(sizes, other)
    return total


def _eyes(sizes: Sizes, batch: Batch) -> float:
    """Tower and projector, where the batch has pictures."""
    if not batch.image_slots.numel() or batch.pixel_values is None:
        return 0.0
    return sizes.tower * len(batch.pixel_values) + sizes.projector * batch.image_slots.numel()


def _span(job: Job) -> tuple[int, int, int]:
    """(lowest trained block, blocks that run, trained blocks)."""
    depth = job.objective.needs.depth or job.student.layers
    layers = job.objective.train_layers
    return (0, depth, depth) if layers is None else (min(layers), depth, len(layers))


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """(operations a second, where that number is from): the maker's for a GPU that is known, else a product's."""
    if device.type == "cuda":
        name = torch.cuda.get_device_properties(device).name
        for part, peak in NOMINAL.items():
            if part in name and dtype is torch.bfloat16:
                return peak, f"{part}, dense bf16, nominal"
    size, rounds = (8192, 5) if device.type == "cuda" else (1536, 5)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    best = min(seconds_of(lambda: torch.mm(a, b), device) for _ in range(rounds))
    return 2.0 * size**3 / best, f"{size} x {size} product, the best"
