"""Memory of one GPU by part, at the moment of a step when it is fullest.

A step has six high points, and the plan is the highest of them. Weights, optimiser, reference and buffers are there
at all:

    before    the tower or the reference runs; nothing is kept for backward yet
    arrival   ZeRO-3's last gathering of forward: weights in the buffer they came in and in their own, and activations
              of the blocks that did not wait for them
    turn      the end of forward: all activations, and the head's workspace
    last      backward enters the last block: all activations, a block's gradients passing through
    first     backward is in the first block: its activations, and all gradients
    step      gradients, and fp32 copies of those the optimiser steps on

``gradients`` are those alive at that moment: at stages 0 to 2, without accumulation, there are none before backward,
and the optimiser's copies count among them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from clear_dist.planner.activations import activations_of
from clear_dist.planner.head import head_bytes, head_trained
from clear_dist.planner.job import Job
from clear_dist.planner.state import state_of

_FP32 = 4
MAX_LIVE = 1_000_000_000  # elements ZeRO-3 keeps gathered (stage3_max_live_parameters)
_FLAT = 500_000_000  # elements of one all-reduce at stage 0
_NVME_BUFFERS = 5 * 100_000_000  # elements: buffer_count x buffer_size of z3_nvme
_ALLOCATOR = 0.03  # of what comes and goes on a GPU, lost between blocks of its caching allocator
_CONTEXT = 600 << 20  # CUDA context, cuBLAS workspaces and NCCL channels of a process on a GPU


@dataclass(frozen=True)
class Memory:
    """Bytes per GPU at the highest point of a step; host: bytes per rank in CPU memory."""

    weights: int
    gradients: int
    optimizer: int
    reference: int
    activations: int
    workspace: int
    communication: int
    fragmentation: int
    host: int

    @property
    def state(self) -> int:
        """Weights, gradients and optimiser. Exact at stage 3; at others gradients come and go."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        return self.state + self.reference + self.activations + self.workspace + self.communication + self.fragmentation


@dataclass(frozen=True)
class _Point:
    """A moment of a step: bytes of gradients, of the head's workspace, of all that is passing, of weights on their
    way."""

    gradients: int
    workspace: int
    activations: int
    arriving: int = 0

    @property
    def total(self) -> int:
        return self.gradients + self.workspace + self.activations + self.arriving


def memory_of(job: Job) -> Memory:
    """Raises nothing: a job that cannot fit has a plan too, see ``advice``."""
    state = state_of(job)
    weights = state.weights + state.whole + secondary_bytes(job)
    gradients, optimizer, host = state.gradients, state.optimizer, 0
    if job.offload_optimizer:
        host += gradients + optimizer + offload_buffers(job) if job.offload_optimizer == "cpu" else 0
        gradients, optimizer = offloaded_gradients(job), 0
    if job.offload_parameters:
        host += state.weights if job.offload_parameters == "cpu" else _NVME_BUFFERS * job.width
        weights -= state.weights
    peak = max(_points(job, gradients), key=lambda point: point.total)
    moving = peak.activations + peak.workspace
    return Memory(
        weights=weights,
        gradients=peak.gradients,
        optimizer=optimizer,
        reference=reference_weights(job),
        activations=peak.activations,
        workspace=peak.workspace,
        communication=communication_bytes(job) + peak.arriving,
        fragmentation=int(_ALLOCATOR * moving) + _CONTEXT if job.bf16 else 0,
        host=host,
    )


def _points(job: Job, gradients: int) -> tuple[_Point, ...]:
    """The six of the module's docstring; gradients: of a rank when backward is done."""
    found = activations_of(job)
    head = head_bytes(job)
    early = gradients if job.stage == 3 or job.accumulation > 1 else 0
    shape = job.shape
    own = shape.vocab * shape.hidden * job.width if head_trained(job) and job.depth is None else 0
    last = early if early else own  # a trained head has its gradient by then
    rest = found.kept - job.blocks * found.block
    copies = step_bytes(job)
    gathered = gathered_bytes(job) if job.stage == 3 else 0
    arriving = min(job.prefetch_bucket * job.width, gathered)
    return (
        _Point(early, 0, found.before),
        _Point(early, 0, int(found.kept * (1 - arriving / gathered)) if gathered else 0, arriving),
        _Point(early, head, found.kept),
        # What passes takes the place of the head's workspace, and is shown there as far as that goes.
        _Point(last, min(head, found.passing), found.kept + max(0, found.passing - head) + (own if early else 0)),
        _Point(gradients, 0, rest + found.block + found.passing),
        _Point(gradients, 0, copies) if job.stage == 3 else _Point(gradients + copies, 0, 0),
    )


def step_bytes(job: Job) -> int:
    """What the optimiser's step copies."""
    trained = job.shape.count(trainable=True)
    mine = ceil(trained / job.gpus)
    if job.offload_optimizer:
        return 0
    if job.stage == 0:  # gradients are flattened to be reduced; then bf16 ones are widened
        return max(min(trained, _FLAT) * job.width, trained * _FP32 if job.bf16 else 0)
    if job.stage == 3:
        return min(mine, 1_000_000_000) * _FP32 if job.bf16 else 0
    return mine * _FP32 * (2 if job.bf16 else 1)


def offloaded_gradients(job: Job) -> int:
    """On the GPU where the optimiser is not: the largest gradient, on its way."""
    return max((t.numel for t in job.shape.tensors if t.trainable), default=0) * job.width if job.stage < 3 else 0


def offload_buffers(job: Job) -> int:
    """On the host beside states and gradients. Stage 3: the shard's gradients in fp32, for the optimiser. Stages 1 and
    2: stepped weights on their way back, and the largest gradient on its way in."""
    trained = [t.numel for t in job.shape.tensors if t.trainable]
    if job.stage == 3:
        return _FP32 * sum(ceil(n / job.gpus) for n in trained)
    return job.width * (ceil(sum(trained) / job.gpus) + max(trained, default=0))


def secondary_bytes(job: Job) -> int:
    """ZeRO++'s second copy of the weights, sharded over a node only."""
    if job.stage != 3 or not job.hpz:
        return 0
    return sum(ceil(ceil(t.numel / job.gpus) * job.gpus / job.hpz) for t in job.shape.tensors) * job.width


def reference_weights(job: Job) -> int:
    """A second model, frozen, sharded like the first; or its head where a cache is read and the student's moves."""
    shape = job.shape
    head = shape.vocab * shape.hidden * job.width
    if job.reference == "cache":
        return head if head_trained(job) else 0
    if job.reference != "copy":
        return 0
    frozen = replace(
        shape,
        parts=tuple(
            replace(p, tensors=tuple(t._replace(trainable=False) for t in p.tensors if not t.lora)) for p in shape.parts
        ),
    )
    copy = replace(job, shape=frozen)
    state = state_of(copy)
    here = 0 if job.offload_parameters else state.weights
    return here + state.whole + (head if job.depth is None else 0)


def communication_bytes(job: Job) -> int:
    """Buckets of gradients, and parameters that ZeRO-3 has gathered."""
    buckets = job.reduce_bucket * job.width
    if job.stage == 0:
        return 0
    if job.stage < 3:
        return buckets * (2 if job.overlap else 1) if job.contiguous else 0
    return (buckets if job.contiguous else 0) + gathered_bytes(job)


def gathered_bytes(job: Job) -> int:
    """At most: all that is sharded, or what ``stage3_max_live_parameters`` allows and the largest tensor on top."""
    if job.gpus == 1 and not job.offload_parameters:
        return 0
    sizes = [t.numel for t in job.shape.tensors if t.numel > job.persistence]
    return min(sum(sizes), max(MAX_LIVE, max(sizes, default=0) + job.prefetch_bucket)) * job.width
