"""Floating-point operations of one micro-batch of one rank: what the job needs, and what is done.

A matrix of n numbers costs 2n a token forward, 2n for the gradient of its input, 2n for its own where it is trained.
Needed: no gradient of frozen weights, attention below the diagonal only, a frozen tower once, a reference's forward
pass. Done besides: blocks recomputed by checkpointing, the tower again for the reference, the masked half of
attention where sdpa computes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clear_dist.planner.job import Job
from clear_dist.planner.shape import Weight

FORMULA = (
    "needed = tokens x blocks x (2n forward + 2n through, + 2n where trained) + attention + scored x head + projector "
    "+ tower forward + reference forward; done adds recomputation and masked attention"
)


@dataclass(frozen=True)
class Flops:
    needed: float
    hardware: float


def flops_of(job: Job) -> Flops:
    shape, tokens = job.shape, job.tokens
    matrices = [t for t in shape.part("blocks") if t.inputs and t.block is not None and t.block < job.blocks]
    forward = 2.0 * tokens * _count(matrices)
    own = 2.0 * tokens * _count(t for t in matrices if t.trainable)
    diagonal = job.blocks * 2.0 * tokens * job.row_length * shape.heads * shape.head_dim
    masked = diagonal if job.attention == "sdpa" else 0.0
    head, head_reference = _head(job)
    projector = _projector(job)
    tower = _tower(job)
    reference = 0.0
    if job.reference in ("adapter", "copy"):
        plain = 2.0 * tokens * _count(t for t in matrices if not t.lora)
        reference = plain + diagonal + 2.0 * _projector_rows(job) * _count(shape.part("projector"))
    needed = 2 * forward + own + 3 * diagonal + head + head_reference + projector + tower + reference
    passes = 3 + (1 if reference else 0)
    extra = passes * masked + (tower if reference else 0.0)
    if job.checkpointing:
        extra += forward + diagonal + masked
    return Flops(needed, needed + extra)


def _head(job: Job) -> tuple[float, float]:
    """(student: forward, through, and its own gradient with the logits formed again where it is trained; reference)."""
    shape = job.shape
    if job.depth is not None:
        return 0.0, 0.0
    one = 2.0 * job.scored * shape.hidden * shape.vocab
    trained = any(t.trainable for t in shape.part("embedding" if shape.tied else "head"))
    return one * (4 if trained else 2), one if job.reference != "none" else 0.0


def _projector_rows(job: Job) -> int:
    return max(job.pictures, 1) * job.shape.projector_tokens


def _projector(job: Job) -> float:
    tensors = [t for t in job.shape.part("projector") if t.inputs]
    passes = 3 if any(t.trainable for t in tensors) else 1
    return 2.0 * passes * _projector_rows(job) * _count(tensors)


def _tower(job: Job) -> float:
    shape = job.shape
    if job.frozen_tower_cached or not shape.vision_layers:
        return 0.0
    tokens = max(job.pictures, 1) * shape.vision_tokens
    attention = shape.vision_layers * 4.0 * tokens * shape.vision_span * shape.vision_hidden
    return 2.0 * tokens * _count(t for t in shape.part("vision") if t.inputs) + attention


def _count(tensors: Iterable[Weight]) -> int:
    return sum(t.numel for t in tensors)
