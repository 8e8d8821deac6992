"""Weights, gradients and optimiser states of one rank, to the byte, as DeepSpeed 0.19 lays them out.

N ranks; n a tensor's elements, e the bytes of a weight; sums run over all tensors or the trainable ones.

    stage   weights                          gradients           master copy          moments (AdamW)
    0       e Σ n                            e Σ n               bf16 only: 4 Σ n     8 Σ n (4 Σ n + 4 Σ n)
    1       e Σ n, trainable ones in one     e Σ n               4 F / N              8 F / N
    2       flat tensor F >= Σ n, a          e F / N             4 F / N              8 F / N
            multiple of 2 N
    3       e Σ ⌈n / N⌉, and whole where     e Σ ⌈n / N⌉         4 Σ ⌈n / N⌉          8 Σ ⌈n / N⌉
            n <= the persistence threshold

Frozen matrices of the decoder's blocks may be packed (``models.nf4``; stages 0 to 2).
A master copy exists in fp32 too, since ZeRO steps on a flat tensor of its own. Frozen parameters have weights only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from clear_dist.planner.job import Job

_FP32 = 4
_MOMENTS = {"adamw": 2, "sgd": 0}


@dataclass(frozen=True)
class State:
    """Bytes of one rank. whole: of weights, those of persistent parameters that ZeRO-3 keeps gathered. The rest is
    where
    it is when nothing runs; ``Memory`` moves what is offloaded."""

    weights: int
    whole: int
    gradients: int
    optimizer: int


def state_of(job: Job) -> State:
    trained = [t.numel for t in job.shape.tensors if t.trainable]
    kept = 1 + _MOMENTS[job.optimizer]  # master and moments
    if job.stage == 3:
        shards = sum(ceil(n / job.gpus) for n in trained)
        weights = sum(ceil(t.numel / job.gpus) for t in job.shape.tensors) * job.width
        return State(weights, persistent_bytes(job), shards * job.width, shards * kept * _FP32)
    count = sum(trained)
    frozen = sum(job.bytes_of(t) for t in job.shape.tensors if not t.trainable)
    if job.stage == 0:
        master = 1 if job.bf16 else 0
        return State(
            frozen + job.width * count,
            0,
            job.width * count,
            count * (master + _MOMENTS[job.optimizer]) * _FP32,
        )
    flat = ceil(count / (2 * job.gpus)) * 2 * job.gpus
    mine = flat // job.gpus
    gradients = job.width * (mine if job.stage == 2 else count)
    return State(frozen + job.width * flat, 0, gradients, mine * kept * _FP32)


def persistent_bytes(job: Job) -> int:
    """Parameters too small to be worth gathering: whole on every rank beside their shards."""
    small = [t.numel for t in job.shape.tensors if t.numel <= job.persistence]
    return sum(ceil(n / job.gpus) * job.gpus for n in small) * job.width if job.gpus > 1 else 0
