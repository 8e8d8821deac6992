"""Activations of one micro-batch: what forward keeps for backward, and what comes and goes around it.

Counted tensor by tensor on the blocks as transformers writes them, with e the bytes of a number, per token of a block:

    norms      inputs (fp32 copies where e is 2) and outputs, 2 each; a trained norm keeps the normalised input too
    attention  rotated queries, keys, values, output (e) and the log of the sum of exponentials (fp32) of every head
    gated MLP  gate, activation, up, product: 4 times the intermediate width
    LoRA       r numbers behind each of its A matrices; inputs of projections are kept as the norms' outputs already

sdpa is given the packing mask, which it widens from bool in every block. A frozen projection without LoRA keeps
nothing, and neither does a frozen tower.
"""

from __future__ import annotations

from dataclasses import dataclass

from clear_dist.planner.job import Job
from clear_dist.planner.shape import Shape

_FP32 = 4
_STATES = 3  # [tokens, hidden] gradients alive at once where backward enters the last block


@dataclass(frozen=True)
class Activations:
    """Bytes. kept: alive when the last block is done, by the end of forward; block: of these, one decoder block's.
    passing: what backward needs on top while it is in a block. before: the highest point of what runs before the
    decoder keeps anything (the tower, the reference)."""

    kept: int
    block: int
    passing: int
    before: int


def activations_of(job: Job) -> Activations:
    tokens = job.rows * job.row_length
    shape = job.shape
    block = block_bytes(job)
    trained = any(t.trainable for t in shape.part("blocks"))
    kept_block = tokens * shape.hidden * job.width if job.checkpointing else block
    kept = (job.blocks * kept_block if trained else 0) + projector_bytes(job) + shared_bytes(job)
    passing = tokens * job.width * (_STATES * shape.hidden + 2 * shape.intermediate) + unpacked_bytes(job)
    if job.checkpointing:
        passing += block
    return Activations(kept, kept_block, passing, max(tower_bytes(job), reference_bytes(job)))


def block_bytes(job: Job) -> int:
    """What one decoder block keeps without checkpointing."""
    shape, e = job.shape, job.width
    tokens = job.rows * job.row_length
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if job.attention == "sdpa":  # with a mask, keys and values are repeated for every query head
        keys = queries
    norms = 2 * shape.hidden * (_FP32 + e) + 2 * _FP32
    if trained_norms(shape):
        norms += 2 * shape.hidden * e
    attention = e * (2 * queries + 2 * keys) + _FP32 * shape.heads
    mlp = e * 4 * shape.intermediate
    adapters = e * sum(t.lora for t in shape.part("blocks") if t.block == 0 and t.inputs == t.numel // max(t.lora, 1))
    return tokens * (norms + attention + mlp + adapters) + mask_bytes(job)


def trained_norms(shape: Shape) -> bool:
    return any(t.trainable and not t.inputs for t in shape.part("blocks"))


def mask_bytes(job: Job) -> int:
    """The additive mask that sdpa makes in every block of the bool one."""
    return job.rows * job.row_length**2 * job.width if job.attention == "sdpa" else 0


def shared_bytes(job: Job) -> int:
    """Beside the blocks: the mask, rotations, the final norm and its output, states at scored tokens."""
    shape, tokens = job.shape, job.rows * job.row_length
    mask = job.rows * job.row_length**2 if job.attention == "sdpa" else 0
    rotary = 2 * tokens * shape.head_dim * job.width
    norm = tokens * shape.hidden * (_FP32 + job.width) if job.depth is None else 0
    return mask + rotary + norm + tokens * 8 * 4


def projector_bytes(job: Job) -> int:
    """A trained projector: its input, and both sides of its activation."""
    shape = job.shape
    if not any(t.trainable for t in shape.part("projector")):
        return 0
    rows = max(job.pictures, 1) * shape.projector_tokens
    return rows * job.width * (shape.projector_width + 2 * shape.hidden)


def tower_bytes(job: Job) -> int:
    """The frozen tower at its highest point: the outputs of all its blocks, which the library keeps, and one MLP."""
    shape = job.shape
    if job.frozen_tower_cached or not shape.vision_layers:
        return 0
    tokens = max(job.pictures, 1) * shape.vision_tokens
    states = (shape.vision_layers + 2) * shape.vision_hidden
    return tokens * job.width * (states + 3 * shape.vision_intermediate)


def unpacked_bytes(job: Job) -> int:
    """The largest 4-bit matrix as it is multiplied with: one at a time."""
    if not job.nf4:
        return 0
    return max((t.numel for t in job.shape.part("blocks") if t.inputs and not t.lora), default=0) * job.width


def reference_bytes(job: Job) -> int:
    """A forward pass without gradients."""
    if job.reference not in ("adapter", "copy"):
        return 0
    shape, tokens = job.shape, job.rows * job.row_length
    return tokens * job.width * (4 * shape.hidden + 3 * shape.intermediate) + 2 * mask_bytes(job) + unpacked_bytes(job)
