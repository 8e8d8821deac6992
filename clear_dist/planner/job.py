"""What is to be run, in numbers: the model's shape, ranks and sharding, and what one micro-batch of one rank holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clear_dist.models import packed_bytes
from clear_dist.planner.shape import Shape, Weight


@dataclass(frozen=True)
class Job:
    """One optimiser step.

    gpus: data-parallel ranks. hpz: ranks of ZeRO++'s second partition, 0 without. tokens: of the rows of one
    micro-batch of one rank, those that are no padding; scored: answer tokens among them; pictures: of it;
    accumulation: micro-batches a step. reference: where the original's statistics come from. depth: decoder blocks
    that run (RMU), None for all. Buckets and thresholds are DeepSpeed's, in elements; the defaults are those of the
    shipped files. nf4: frozen matrices of the decoder's blocks are in 4 bits. share: of the tokens that all ranks could
    hold, those a step has: below 1 where there are fewer examples than ranks.
    """

    shape: Shape
    gpus: int
    tokens: int
    rows: int
    scored: int
    pictures: int
    gpus_per_node: int = 8
    stage: int = 0
    offload_optimizer: str | None = None
    offload_parameters: str | None = None
    hpz: int = 0
    quantized_weights: bool = False
    quantized_gradients: bool = False
    full: bool = False
    bf16: bool = True
    optimizer: Literal["adamw", "sgd"] = "adamw"
    checkpointing: bool = False
    accumulation: int = 1
    reference: Literal["none", "adapter", "cache", "copy"] = "none"
    depth: int | None = None
    impl: Literal["fused", "logits"] = "fused"
    attention: Literal["flash", "sdpa"] = "sdpa"
    frozen_tower_cached: bool = False
    nf4: bool = False
    share: float = 1.0
    reduce_bucket: int = 50_000_000
    allgather_bucket: int = 50_000_000
    prefetch_bucket: int = 50_000_000
    persistence: int = 10_000
    contiguous: bool = True
    overlap: bool = True

    @property
    def width(self) -> int:
        """Bytes of a number in weights and activations."""
        return 2 if self.bf16 else 4

    def bytes_of(self, tensor: Weight) -> int:
        """Of one parameter, whole."""
        packed = self.nf4 and tensor.block is not None and tensor.inputs and not tensor.lora and not tensor.trainable
        return packed_bytes(tensor.numel) if packed else tensor.numel * self.width

    @property
    def blocks(self) -> int:
        """Decoder blocks that run."""
        return self.shape.layers if self.depth is None else min(self.depth, self.shape.layers)

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.gpus_per_node)

    @property
    def row_length(self) -> int:
        return -(-self.tokens // self.rows)
