"""What one rank sends to others in an optimiser step, and moves to and from its host.

Rings: a collective over N ranks of S bytes sends (N - 1) / N S from each, an all-reduce twice that. Stage 0
all-reduces gradients once a step; stage 1 reduces them to their owners once a step, stage 2 in every micro-batch, and
both gather what was stepped on. Stage 3 gathers weights in every pass that has let go of them. ZeRO++ (arXiv
2306.10209): weights travel as 8 bits, gradients as 4 bits in two hops, and backward gathers within the node.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from clear_dist.planner.job import Job
from clear_dist.planner.memory import MAX_LIVE
from clear_dist.planner.shape import Weight


@dataclass(frozen=True)
class Traffic:
    """Bytes a rank sends, an optimiser step. host: over its link to the CPU, both directions together. inside: of the
    first three, what never leaves a node."""

    all_gather: int
    reduce_scatter: int
    all_reduce: int
    host: int
    inside: int = 0


def traffic_of(job: Job) -> Traffic:
    trained = sum(t.numel for t in job.shape.tensors if t.trainable)
    others = (job.gpus - 1) / job.gpus
    gradients = int(others * trained * job.width)
    if job.stage == 0:
        return _placed(job, 0, 0, 2 * gradients, 0)
    shard = ceil(trained / job.gpus) * job.width
    host = 2 * shard if job.offload_optimizer else 0
    if job.stage < 3:
        times = job.accumulation if job.stage == 2 else 1
        return _placed(job, gradients, times * gradients, 0, host)
    used = [t for t in job.shape.tensors if runs(job, t)]
    small = sum(t.numel for t in used if t.numel <= job.persistence and t.trainable)
    weights = sum(t.numel for t in used if t.numel > job.persistence)
    one = others * weights * (1 if job.quantized_weights else job.width)
    # Few enough weights stay gathered from forward to backward.
    again = 0 if weights <= MAX_LIVE else 1
    reference = 1 if job.reference in ("adapter", "copy") else 0
    forward = job.accumulation * one * (1 + reference)
    backward = job.accumulation * one * again
    inside = 0.0
    if job.hpz:
        backward = job.accumulation * (job.hpz - 1) / job.hpz * weights * job.width * again
        inside = backward
    reduced = job.accumulation * others * trained * (0.5 if job.quantized_gradients else job.width)
    if job.offload_parameters:
        shards = sum(ceil(t.numel / job.gpus) for t in used if t.numel > job.persistence) * job.width
        host += shards * job.accumulation * (1 + reference + again)
    return _placed(job, int(forward + backward + others * small * job.width), int(reduced), 0, host, int(inside))


def runs(job: Job, tensor: Weight) -> bool:
    """Whether a step looks at a tensor: not at blocks above the depth, nor at a tower whose output is kept."""
    if tensor.block is not None:
        return tensor.block < job.blocks
    if job.depth is not None and tensor in job.shape.part("head"):
        return False
    return not (job.frozen_tower_cached and tensor in job.shape.part("vision"))


def _placed(job: Job, gathered: int, scattered: int, reduced: int, host: int, inside: int = 0) -> Traffic:
    everything = gathered + scattered + reduced
    return Traffic(gathered, scattered, reduced, host, everything if job.nodes == 1 else inside)
