"""The plan of a training run that is about to start, on this machine's devices: for ``--ds auto`` and ``--dry-run``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class DsChoice:
    """The DeepSpeed configuration of a run before its gaps are filled. name: as the planner calls it; source: as
    messages call it; why: one line, for the log."""

    name: str
    config: dict[str, Any]
    source: str
    why: str


def resolved_ds(choice: DsChoice, numbers: RunNumbers) -> tuple[dict[str, Any], list[str]]:
    """What DeepSpeed will be given, and what was filled in. Raises UserError where it contradicts flags or machines."""
    return resolve_ds_config(dict(choice.config), numbers, choice.source)


def choose_ds(config: TrainFields, info: ModelInfo, objective: Objective, stream: Stream, world: World) -> DsChoice:
    """The file of ``--ds``; with ``auto`` the first shipped stage that fits this device. A collective with ``auto``,
    where the ranks have joined: rank 0 decides for all.

    Raises:
        UserError: with ``auto``, where no stage fits, or only one that needs a path of yours.
    """
    if config.ds is None:
        default = "the default DeepSpeed configuration"
        return DsChoice("z0", load_ds_config(None), default, "ZeRO stage 0")
    if config.ds != AUTO:
        return DsChoice(str(config.ds), load_ds_config(config.ds), f"--ds {config.ds}", str(config.ds))
    if world.device.type != "cuda":
        why = "auto: z0, since ranks on CPUs share their memory and sharding buys nothing"
        return DsChoice("z0", shipped("z0"), "--ds auto (z0)", why)

    def pick() -> tuple[str, str]:
        return fitting(job_of_run(config, info, objective, stream, world), this_gpu(world))

    name, why = only_on_main(world, pick) if torch.distributed.is_initialized() else pick()
    return DsChoice(name, shipped(name), f"--ds auto ({name})", f"auto: {name}, {why}")


def fitting(job: Job, gpu: Gpu) -> tuple[str, str]:
    """(shipped file, why it): the first stage that fits. Raises UserError where none does, or only NVMe."""
    from clear_dist.planner.advice import choose_stage, judge
    from clear_dist.planner.memory import memory_of

    from .plan_outlook import name_of, not_fitting, outlook, size, with_ds

    name = name_of(choose_stage(job, gpu))
    found = with_ds(job, shipped(name), name)
    if not judge(found, gpu).fits:
        raise not_fitting(outlook(found, gpu, name, ""))
    if name == "z3_nvme":
        raise UserError(
            f"--ds auto: only {FOLDER}/z3_nvme.json fits {gpu.name}, and it needs a fast local folder: copy the file, "
            "set nvme_path, and name it with --ds."
        )
    return name, f"the first that fits: {size(memory_of(found).total)} of {size(gpu.memory)} on {gpu.name}"


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
        checkpointing=config.gradient_checkpointing,
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
    )


def _counts(batch: Batch) -> tuple[int, int, int, int]:
    """(real tokens, rows, scored tokens, pictures)."""
    inputs = next(iter(batch.image_inputs.values()), batch.pixel_values)  # a row a picture
    pictures = 0 if inputs is None else len(inputs)
    return batch.real_tokens, len(batch.input_ids), len(batch.targets), pictures
