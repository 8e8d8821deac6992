"""Time of a step by a roofline: matrix products at a share of the peak, the rest at the memory's rate, and the links.

    compute        = FLOPs done / (efficiency x peak) + bytes that element-wise work moves / memory bandwidth
    communication  = bytes / link inside a node, bytes / min(link, network x GPUs of a node) across nodes
    step           = compute + the communication that computing cannot hide + the optimiser

A rank's share of a hierarchical ring crosses the network through all cards of its node at once. Stage 2's reductions
and all of stage 3's traffic run while blocks compute; what stage 0 and 1 reduce and all that is gathered after a step
wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from clear_dist.planner.activations import activations_of
from clear_dist.planner.flops import FORMULA, flops_of
from clear_dist.planner.hardware import Gpu
from clear_dist.planner.job import Job
from clear_dist.planner.state import state_of
from clear_dist.planner.traffic import traffic_of

EFFICIENCY = 0.65  # of the peak, what large matrix products reach
_ELEMENTWISE = 4  # times an activation that is kept is written or read, forward and backward
_FP32_SLOWDOWN = 16  # of the bf16 peak, where tensor cores do not help
_HOST_STEP = 10e9  # bytes of optimiser state a rank's share of a CPU steps through in a second
_NVME = 3e9  # bytes/s of a rank's share of a node's disks


@dataclass(frozen=True)
class Speed:
    """Of an optimiser step. communication_s: (exposed, hidden). tokens_per_s, pictures_per_s: of all GPUs together.
    mfu: FLOPs needed / (step x GPUs x peak). flops: of all GPUs; formula: how they are counted."""

    step_s: float
    compute_s: float
    communication_s: tuple[float, float]
    tokens_per_s: float
    pictures_per_s: float
    mfu: float
    flops_needed: float
    flops_hardware: float
    formula: str


def speed_of(job: Job, gpu: Gpu, efficiency: float = EFFICIENCY) -> Speed:
    """Raises nothing; ``efficiency`` in (0, 1] is what was measured on like matrices."""
    assert 0 < efficiency <= 1, efficiency
    flops = flops_of(job)
    peak = gpu.flops_bf16 if job.bf16 or gpu.name == "cpu" else gpu.flops_bf16 / _FP32_SLOWDOWN
    found = activations_of(job)
    moved = _ELEMENTWISE * (found.block * job.blocks + found.before)
    compute = job.accumulation * (flops.hardware / (efficiency * peak) + moved / gpu.bandwidth)
    beside, waiting = communication_seconds(job, gpu)
    hidden = min(beside, compute)
    exposed = waiting + beside - hidden
    step = compute + exposed + optimizer_seconds(job, gpu)
    everything = job.gpus * job.accumulation * job.share
    return Speed(
        step_s=step,
        compute_s=compute,
        communication_s=(exposed, hidden),
        tokens_per_s=everything * job.tokens / step,
        pictures_per_s=everything * job.pictures / step,
        mfu=everything * flops.needed / (step * job.gpus * peak),
        flops_needed=everything * flops.needed,
        flops_hardware=everything * flops.hardware,
        formula=FORMULA,
    )


def communication_seconds(job: Job, gpu: Gpu) -> tuple[float, float]:
    """(what may run beside computing, what nothing runs beside)."""
    sent = traffic_of(job)
    across = min(gpu.link, gpu.network * job.gpus_per_node) if job.nodes > 1 else gpu.link
    everything = sent.all_gather + sent.reduce_scatter + sent.all_reduce
    host = sent.host / gpu.host_link
    if "nvme" in (job.offload_optimizer, job.offload_parameters):
        host = max(host, sent.host / _NVME)
    if job.stage == 3:
        return sent.inside / gpu.link + (everything - sent.inside) / across + host, 0.0
    if job.stage == 2:
        return sent.reduce_scatter / across + host, sent.all_gather / across
    return 0.0, everything / across + host


def optimizer_seconds(job: Job, gpu: Gpu) -> float:
    """Reading and writing states, master copies and gradients."""
    state = state_of(job)
    size = 2 * state.optimizer + 2 * state.gradients
    if job.offload_optimizer == "nvme":
        return size / _NVME
    return size / (_HOST_STEP if job.offload_optimizer else gpu.bandwidth)
