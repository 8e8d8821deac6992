"""A model as memory and FLOPs see it: every tensor with its size, and the widths of what flows between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from clear_dist.models.info import family_of
from clear_dist.models.meta import picture_load

PARTS = ("vision", "projector", "embedding", "blocks", "norm", "head")


class Weight(NamedTuple):
    """One parameter. block: of the decoder, counted from 0, or None. inputs: columns of a matrix that multiplies
    activations, 0 for everything else (norms, biases, tables). lora: rank where it is one of an adapter's two matrices,
    else 0."""

    numel: int
    trainable: bool
    block: int | None
    inputs: int = 0
    lora: int = 0


@dataclass(frozen=True)
class Part:
    """name: one of ``PARTS``. tensors: in the module's order, so that per-tensor padding is exact."""

    name: str
    tensors: tuple[Weight, ...]


@dataclass(frozen=True)
class Shape:
    """image_tokens: what a picture takes in the decoder. vision_tokens: what it takes in the tower, all its patches
    together; vision_span: of these, how many a token attends to. lora_inputs: of one decoder block, the widths of
    distinct inputs of its adapters. repeats: whether keys and values are repeated for every query head."""

    name: str
    parts: tuple[Part, ...]
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    image_tokens: int
    vision_layers: int
    vision_hidden: int
    vision_intermediate: int
    vision_heads: int
    vision_tokens: int
    vision_span: int
    projector_tokens: int
    projector_width: int
    lora_r: int

    @property
    def tensors(self) -> Iterator[Weight]:
        """All of them, in the order of ``PARTS``."""
        return (tensor for part in self.parts for tensor in part.tensors)

    def part(self, name: str) -> tuple[Weight, ...]:
        return next((part.tensors for part in self.parts if part.name == name), ())

    def count(self, name: str | None = None, *, trainable: bool = False) -> int:
        """Parameters of a part, or of all."""
        tensors = self.tensors if name is None else self.part(name)
        return sum(t.numel for t in tensors if t.trainable or not trainable)


def shape_of(module: nn.Module, config: Any, name: str) -> Shape:
    """Read off a model, usually on the meta device; trainability is that of its parameters, LoRA included."""
    family = family_of(config, Path(name))
    tower, projector = family.tower(module), family.projector(module)
    homes: dict[int, str] = {}
    inside: dict[int, int | None] = {}
    for part, root in (
        ("projector", projector),
        ("vision", tower),
        ("head", family.head(module)),
    ):
        for p in root.parameters() if root is not None else ():
            homes.setdefault(id(p), part)
    decoder: Any = family.decoder(module)
    for p in decoder.get_input_embeddings().parameters():
        homes[id(p)] = "embedding"  # tied to the head: the table counts once, here
    for number, block in enumerate(family.blocks(module)):
        for p in block.parameters():
            homes[id(p)], inside[id(p)] = "blocks", number
    for p in decoder.parameters():
        homes.setdefault(id(p), "norm")
    columns = {
        id(m.weight): (m.in_features if isinstance(m, nn.Linear) else m.weight[0].numel())
        for m in module.modules()
        if isinstance(m, nn.Linear | nn.Conv2d | nn.Conv3d)
    }
    found: dict[str, list[Weight]] = {part: [] for part in PARTS}
    rank = 0
    for path, p in module.named_parameters():
        r = min(p.shape) if ".lora_" in path else 0
        rank = max(rank, r)
        part = homes.get(id(p), "projector")
        found[part].append(Weight(p.numel(), p.requires_grad, inside.get(id(p)), columns.get(id(p), 0), r))
    text: Any = family.text_config(config)
    vision: Any = getattr(config, "vision_config", None)
    load = picture_load(config)
    heads = text.num_attention_heads
    return Shape(
        name=name,
        parts=tuple(Part(part, tuple(found[part])) for part in PARTS if found[part]),
        hidden=text.hidden_size,
        layers=len(family.blocks(module)),
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        intermediate=text.intermediate_size,
        vocab=text.vocab_size,
        tied=id(family.head(module).weight) == id(decoder.get_input_embeddings().weight),
        image_tokens=load.tokens,
        vision_layers=0 if vision is None else getattr(vision, "depth", None) or vision.num_hidden_layers,
        vision_hidden=0 if vision is None else vision.hidden_size,
        vision_intermediate=0 if vision is None else vision.intermediate_size,
        vision_heads=0 if vision is None else getattr(vision, "num_heads", None) or vision.num_attention_heads,
        vision_tokens=load.tower_tokens,
        vision_span=load.tower_span,
        projector_tokens=load.projected,
        projector_width=load.width,
        lora_r=rank,
    )
