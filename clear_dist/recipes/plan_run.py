"""The plan of a training run that is about to start, on this machine's devices: for ``--ds auto`` and ``--dry-run``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import torch

from clear_dist.config import TrainFields
from clear_dist.engine.ds_config import AUTO, RunNumbers, load_ds_config, resolve_ds_config
from clear_dist.engine.ds_shipped import FOLDER, shipped
from clear_dist.engine.stream import Stream
from clear_dist.engine.world import World, only_on_main, ranks_per_node
from clear_dist.methods import Objective
from clear_dist.models import ModelInfo
from clear_dist.types import Batch, UserError

if TYPE_CHECKING:
    from clear_dist.planner.hardware import Gpu
    from clear_dist.planner.job import Job

T = TypeVar("T")


@dataclass(frozen=True)
class DsChoice:
    """The DeepSpeed configuration of a run before its gaps are filled. name: as the planner calls it; source: as
    messages call it; why: one line, for the log; recompute: activations in backward (gradient checkpointing)."""

    name: str
    config: dict[str, Any]
    source: str
    why: str
    recompute: bool = False


def resolved_ds(choice: DsChoice, numbers: RunNumbers) -> tuple[dict[str, Any], list[str]]:
    """What DeepSpeed will be given, and what was filled in. Raises UserError where it contradicts flags or machines."""
    return resolve_ds_config(dict(choice.config), numbers, choice.source)


def choose_ds(config: TrainFields, info: ModelInfo, objective: Objective, stream: Stream, world: World) -> DsChoice:
    """The file of ``--ds``, and whether activations are recomputed. With ``auto`` the first shipped stage that fits
    this device, and recomputation where nothing fits without. A collective on GPUs, where the ranks have joined: rank
    0 decides for all.

    Raises:
        UserError: with ``--ds auto``, where no stage fits, or only one that needs a path of yours.
    """
    asked = config.gradient_checkpointing == "on"
    may_recompute = config.gradient_checkpointing == "auto"
    on_gpu = world.device.type == "cuda"
    if config.ds != AUTO:
        named = _named(config.ds, asked)
        if not (may_recompute and on_gpu):
            return named

        def needed() -> bool:
            from clear_dist.planner.advice import recomputing

            from .plan_outlook import with_ds

            job = with_ds(job_of_run(config, info, objective, stream, world), named.config, named.source)
            return recomputing(job, this_gpu(world)).checkpointing

        return _recomputing(named) if _decided(needed, world) else named
    if not on_gpu:
        why = "auto: z0, since ranks on CPUs share their memory and sharding buys nothing"
        return DsChoice("z0", shipped("z0"), "--ds auto (z0)", why, asked)

    def pick() -> tuple[str, bool, str]:
        job = job_of_run(config, info, objective, stream, world)
        return fitting(job, this_gpu(world), may_recompute=may_recompute)

    name, recompute, why = _decided(pick, world)
    choice = DsChoice(name, shipped(name), f"--ds auto ({name})", f"auto: {name}, {why}", asked)
    return _recomputing(choice) if recompute and not asked else choice


def _named(ds: Path | None, recompute: bool) -> DsChoice:
    if ds is None:
        return DsChoice("z0", load_ds_config(None), "the default DeepSpeed configuration", "ZeRO stage 0", recompute)
    return DsChoice(str(ds), load_ds_config(ds), f"--ds {ds}", str(ds), recompute)


def _recomputing(choice: DsChoice) -> DsChoice:
    why = f"{choice.why}; activations are recomputed, since they do not fit (--gradient-checkpointing off: keep them)"
    return replace(choice, recompute=True, why=why)


def _decided(decide: Callable[[], T], world: World) -> T:
    return only_on_main(world, decide) if torch.distributed.is_initialized() else decide()


def fitting(job: Job, gpu: Gpu, *, may_recompute: bool = False) -> tuple[str, bool, str]:
    """(shipped file, whether activations are recomputed, why): the first stage that fits. Raises UserError where none
    does, or only NVMe."""
    from clear_dist.planner.advice import choose_stage, judge
    from clear_dist.planner.memory import memory_of

    from .plan_outlook import name_of, not_fitting, outlook, size, with_ds

    taken = choose_stage(job, gpu, may_recompute=may_recompute)
    name = name_of(taken)
    found = with_ds(replace(job, checkpointing=taken.checkpointing), shipped(name), name)
    if not judge(found, gpu).fits:
        raise not_fitting(outlook(found, gpu, name, ""))
    if name == "z3_nvme":
        raise UserError(
            f"--ds auto: only {FOLDER}/z3_nvme.json fits {gpu.name}, and it needs a fast local folder: copy the file, "
            "set nvme_path, and name it with --ds."
        )
    why = f"the first that fits: {size(memory_of(found).total)} of {size(gpu.memory)} on {gpu.name}"
    return name, found.checkpointing, why


def this_gpu(world: World) -> Gpu:
    """The device of this rank with the memory it has. Of a GPU that the planner does not know, the speeds are the
    slowest it knows; on a CPU memory is a rank's share of the machine's."""
    from clear_dist.planner.hardware import GPUS

    if world.device.type != "cuda":
        return replace(GPUS["cpu"], memory=psutil.virtual_memory().total // ranks_per_node(world))
    real = torch.cuda.get_device_properties(world.device)
    known = known_gpu(real.name, real.total_memory)
    if known is not None:
        return replace(GPUS[known], memory=real.total_memory)
    slowest = min((gpu for name, gpu in GPUS.items() if name != "cpu"), key=lambda gpu: gpu.flops_bf16)
    return replace(slowest, name=real.name, memory=real.total_memory)


def known_gpu(name: str, memory: int) -> str | None:
    """The planner's name of a device, e.g. ``a100-80g`` of ``NVIDIA A100-SXM4-80GB``: the same chip, and of its sizes
    the one nearest to ``memory`` (bytes); None where the chip is unknown."""
    from clear_dist.planner.hardware import GPUS

    words = name.lower().replace(" ", "").replace("-", "").replace("geforce", "")
    same = [known for known in GPUS if known != "cpu" and known.rpartition("-")[0].replace("-", "") in words]
    return min(same, key=lambda known: abs(GPUS[known].memory - memory), default=None)


def job_of_run(config: TrainFields, info: ModelInfo, objective: Objective, stream: Stream, world: World) -> Job:
    """The planner's job of a run at ZeRO stage 0: the model on the meta device, and the largest micro-batch of the
    first step as it is packed."""
    from clear_dist.planner.job import Job

    from .plan_job import planned_shape, reference_kind

    shape = planned_shape(
        str(info.path),
        info.name,
        full=config.full,
        lora_r=config.lora_r,
        objective=objective,
        layers=getattr(config, "train_layers", None),
    )
    batches = [_counts(batch) for batch in stream.micro_batches(0)]
    tokens, rows, scored, pictures = max(batches)
    return Job(
        shape=shape,
        gpus=world.size,
        gpus_per_node=ranks_per_node(world),
        full=config.full,
        bf16=config.dtype == "bf16" or (config.dtype == "auto" and world.device.type == "cuda"),
        checkpointing=config.gradient_checkpointing == "on",
        tokens=tokens,
        rows=rows,
        scored=scored,
        pictures=pictures,
        accumulation=len(batches),
        reference=reference_kind(
            objective,
            asked=getattr(config, "reference", "auto"),
            full=config.full,
            other_model=getattr(config, "reference_model", None) is not None,
        ),
        depth=objective.needs.depth,
        attention="flash" if config.layout == "varlen" else "sdpa",
        frozen_tower_cached=config.tower_cache == "on",
        nf4=info.base_weights == "nf4",
    )


def _counts(batch: Batch) -> tuple[int, int, int, int]:
    """(real tokens, rows, scored tokens, pictures)."""
    inputs = next(iter(batch.image_inputs.values()), batch.pixel_values)  # a row a picture
    pictures = 0 if inputs is None else len(inputs)
    return batch.real_tokens, len(batch.input_ids), len(batch.targets), pictures
