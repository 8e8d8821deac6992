"""All that is said of one job on one kind of GPU: memory by part at every stage, traffic, time, and what to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from clear_dist.engine.ds_config import check_ds_config
from clear_dist.engine.ds_shipped import SHIPPED, shipped
from clear_dist.engine.ds_zeropp import HPZ, fill_zeropp
from clear_dist.planner.advice import Verdict, judge
from clear_dist.planner.hardware import Gpu
from clear_dist.planner.job import Job
from clear_dist.planner.memory import Memory, memory_of
from clear_dist.planner.shape import Shape
from clear_dist.planner.speed import Speed, speed_of
from clear_dist.planner.traffic import Traffic, traffic_of
from clear_dist.types import UserError

PARTS = (
    "weights",
    "gradients",
    "optimizer",
    "reference",
    "activations",
    "workspace",
    "communication",
    "fragmentation",
)
FOLDS = (1, 2, 4)  # times the GPUs, for what grows with ranks


@dataclass(frozen=True)
class Outlook:
    """ds: the DeepSpeed file in force, and why it. stages: shipped file -> memory with it, in the order to try them;
    ranks: number of GPUs -> memory with as many, each with the same micro-batch."""

    job: Job
    gpu: Gpu
    ds: str
    why: str
    memory: Memory
    traffic: Traffic
    speed: Speed
    verdict: Verdict
    stages: Mapping[str, Memory]
    ranks: Mapping[int, Memory]

    @property
    def columns(self) -> dict[str, Memory]:
        """file -> memory: every shipped one, and before them the one in force where it is another."""
        return {**({} if self.ds in self.stages else {self.ds: self.memory}), **self.stages}

    @property
    def grows(self) -> dict[str, int]:
        """part -> bytes per GPU that four times the GPUs add to it, host memory included; empty where nothing grows."""
        first, *_, last = self.ranks.values()
        found = {part: getattr(last, part) - getattr(first, part) for part in (*PARTS, "host")}
        return {part: more for part, more in found.items() if more > 0}

    def to_json(self) -> dict[str, Any]:
        """Bytes, seconds and FLOPs as plain numbers."""
        job = {k: v for k, v in vars(self.job).items() if k != "shape"}
        return {
            "v": 1,
            "model": shape_facts(self.job.shape),
            "gpu": asdict(self.gpu),
            "ds": self.ds,
            "why": self.why,
            "job": job,
            "memory": memory_json(self.memory),
            "stages": {k: memory_json(m) | {"fits": m.total <= self.gpu.memory} for k, m in self.columns.items()},
            "ranks": {str(n): memory_json(m) for n, m in self.ranks.items()},
            "grows": self.grows,
            "traffic": asdict(self.traffic),
            "speed": asdict(self.speed),
            "verdict": {**asdict(self.verdict), "changes": list(self.verdict.changes)},
        }


def outlook(job: Job, gpu: Gpu, ds: str, why: str) -> Outlook:
    """Every number of a plan. ``job`` has stage and offloads of the DeepSpeed file ``ds`` already."""
    return Outlook(
        job,
        gpu,
        ds,
        why,
        memory_of(job),
        traffic_of(job),
        speed_of(job, gpu),
        judge(job, gpu),
        {name: memory_of(other) for name, other in alternatives(job).items()},
        {n * job.gpus: memory_of(replace(job, gpus=n * job.gpus)) for n in FOLDS},
    )


def alternatives(job: Job) -> dict[str, Job]:
    """The same job under every shipped file that its machines can run; ZeRO++ where there are several nodes."""
    names = [name for name in SHIPPED if name != "zpp" or several_nodes(job)]
    if job.nf4:
        names = [name for name in names if check_ds_config(shipped(name), name) < 3]
    return {name: with_ds(job, shipped(name), name) for name in names}


def several_nodes(job: Job) -> bool:
    return job.gpus > job.gpus_per_node


def with_ds(job: Job, ds: Mapping[str, Any], source: str, device: str = "cuda") -> Job:
    """The job with what a DeepSpeed configuration says of stage, offload and ZeRO++.

    Raises:
        UserError: a configuration that contradicts itself, or these machines.
    """
    stage = check_ds_config(dict(ds), source)
    if job.nf4 and stage == 3:
        raise UserError(
            f"{source}: ZeRO stage 3 does not shard 4-bit weights (--base-weights nf4): use stage 0, 1 or 2"
        )
    zero = dict(ds.get("zero_optimization", {}))
    per_node = min(job.gpus, job.gpus_per_node)
    fill_zeropp(zero, world_size=job.gpus, ranks_per_node=per_node, device=device, source=source)
    return replace(
        job,
        stage=stage,
        offload_optimizer=_device(zero, "offload_optimizer"),
        offload_parameters=_device(zero, "offload_param"),
        hpz=int(zero.get(HPZ) or 0) if (zero.get(HPZ) or 0) > 1 else 0,
        quantized_weights=zero.get("zero_quantized_weights") is True,
        quantized_gradients=zero.get("zero_quantized_gradients") is True,
        contiguous=zero.get("contiguous_gradients", True) is True,
        overlap=zero.get("overlap_comm", stage == 3) is True,
        **{field: _number(zero, key, default) for field, (key, default) in _ELEMENTS.items()},
    )


# Field of a job -> key of the file, and what DeepSpeed takes where the file says nothing or "auto".
_ELEMENTS = {
    "reduce_bucket": ("reduce_bucket_size", 500_000_000),
    "allgather_bucket": ("allgather_bucket_size", 500_000_000),
    "prefetch_bucket": ("stage3_prefetch_bucket_size", 50_000_000),
    "persistence": ("stage3_param_persistence_threshold", 100_000),
}


def _number(zero: Mapping[str, Any], key: str, default: int) -> int:
    value = zero.get(key, default)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


def _device(zero: Mapping[str, Any], key: str) -> str | None:
    entry = zero.get(key) or {}
    device = entry.get("device", "cpu") if entry else None
    return None if device in (None, "none") else str(device)


def name_of(job: Job) -> str:
    """The shipped file that says what the job does. KeyError: none does."""
    wanted = _settings(job)
    return {_settings(other): name for name, other in alternatives(job).items()}[wanted]


def _settings(job: Job) -> tuple[object, ...]:
    zero = (job.stage, job.offload_optimizer, job.offload_parameters)
    return (*zero, job.hpz, job.quantized_weights, job.quantized_gradients)


def not_fitting(outlook: Outlook) -> UserError:
    """What to say where no stage fits."""
    advice = "; ".join(outlook.verdict.changes[:3])
    return UserError(
        f"--ds auto: no shipped stage fits {outlook.gpu.name}: {outlook.ds} is short by {size(outlook.verdict.short)}. "
        f"{f'What would help: {advice}. ' if advice else ''}Or name a file with --ds to try it all the same."
    )


def memory_json(memory: Memory) -> dict[str, int]:
    """Bytes by part, with ``state`` (weights, gradients, optimiser), ``total`` (a GPU's) and ``host``."""
    parts = {part: int(getattr(memory, part)) for part in PARTS}
    return {**parts, "state": int(memory.state), "total": int(memory.total), "host": int(memory.host)}


def shape_facts(shape: Shape) -> dict[str, Any]:
    """name, and how many parameters the model has and trains."""
    return {"name": shape.name, "parameters": shape.count(), "trainable": shape.count(trainable=True)}


def size(count: float) -> str:
    """Bytes in words: 12.3 GB, 840 MB (decimal units, as memory is sold)."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= scale:
            return f"{count / scale:.3g} {unit}" if abs(count) < 1000 * scale else f"{count / scale:,.0f} {unit}"
    return f"{count:.0f} B"
