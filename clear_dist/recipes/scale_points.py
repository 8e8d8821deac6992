"""The points of a scale study, and what the planner predicts of each.

A row is a combination of the grid. Two rows may ask for the same step (on one GPU strong and weak scaling can be the
same batch): what is measured is a *point*, named by the digest of all that decides the measurement.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from clear_dist import __version__
from clear_dist.config import PlanConfig
from clear_dist.config.scale import Grid
from clear_dist.errors import UserError
from clear_dist.methods import Objective
from clear_dist.planner.hardware import Gpu
from clear_dist.planner.job import Job
from clear_dist.planner.memory import Memory, memory_of
from clear_dist.planner.shape import Shape
from clear_dist.planner.speed import Speed, speed_of

from .plan import chosen
from .plan_job import examples_per_step, job_of, planned_objective, planned_shape
from .plan_outlook import size
from .scale_grid import Study

ANYWHERE = ("json", "out", "ds", "gpu", "model", "gpus_per_node")  # of a plan, what no step on these ranks depends on


@dataclass(frozen=True)
class Row:
    """model, mix: as the report calls them. plan: the same, as ``clear-dist plan`` would be asked. job: the largest
    micro-batch of a GPU. tokens, pictures: of a step, over all GPUs. gpu: with the memory that a rank has."""

    model: str
    gpus: int
    stage: str
    method: str
    mix: str
    scaling: str
    plan: PlanConfig
    job: Job
    memory: Memory
    speed: Speed
    tokens: float
    pictures: float
    gpu: Gpu

    @property
    def key(self) -> dict[str, Any]:
        """The columns that name a row."""
        return {name: getattr(self, name) for name in ("model", "gpus", "stage", "method", "mix", "scaling")}

    @property
    def peak_bytes(self) -> int:
        """Of a GPU; of a rank on a CPU, where what is offloaded stays in the same memory."""
        return int(self.memory.total + (self.memory.host if self.gpu.name == "cpu" else 0))

    @property
    def short(self) -> int:
        """Bytes missing; 0 where it fits."""
        return max(0, self.peak_bytes - self.gpu.memory)

    @property
    def flops(self) -> float:
        """Needed in a step of so many tokens, on all GPUs."""
        planned = self.job.gpus * self.job.accumulation * self.job.tokens * self.job.share
        return self.speed.flops_needed * min(1.0, self.tokens / planned)

    @property
    def peak_flops(self) -> float:
        """FLOP/s of a GPU that the planner's MFU is a share of."""
        return self.speed.flops_needed / (self.speed.mfu * self.speed.step_s * self.job.gpus)

    def predicted(self) -> dict[str, Any]:
        """What the planner says. Where it does not fit there is no speed: None."""
        step = None if self.short else self.speed.step_s
        return {
            **self.rates(step, self.peak_flops),
            "peak_bytes": self.peak_bytes,
            "fits": not self.short,
            "recomputes": self.job.checkpointing,
        }

    def rates(self, step_s: float | None, peak_flops: float) -> dict[str, float | None]:
        """What follows from the seconds of a step and FLOP/s of a GPU."""
        if step_s is None:
            return dict.fromkeys(("step_s", "tokens_per_s", "images_per_s", "mfu"))
        return {
            "step_s": step_s,
            "tokens_per_s": self.tokens / step_s,
            "images_per_s": self.pictures / step_s,
            "mfu": self.flops / (step_s * self.job.gpus * peak_flops),
        }


def rows_of(study: Study, gpu: Gpu, memory_here: int) -> tuple[list[Row], list[str]]:
    """(all rows of the grid that can be; lines on those that cannot, e.g. ZeRO++ on one node).

    memory_here: bytes of this machine, which ranks share where ``gpu`` is the CPU.

    Raises:
        UserError: a method that a model cannot run, naming both.
    """
    grid = study.grid
    objectives = {method: _objective(grid, method) for method in grid.methods}
    rows: list[Row] = []
    left_out: dict[str, None] = {}

    @cache
    def shape(model: str, method: str) -> Shape:
        try:
            return planned_shape(
                study.models[model], model, full=grid.full, lora_r=grid.lora_r, objective=objectives[method]
            )
        except UserError as error:
            raise UserError(f"methods: {method} on {model}: {_in_grid(error, method)}") from None

    axes = (study.models, grid.mixes, grid.methods, grid.stages, grid.scaling, grid.gpus)
    for model, mix, method, stage, scaling, gpus in product(*axes):
        config = _plan(grid, study.models[model], method, mix, scaling, gpus)
        here = replace(gpu, memory=memory_here // min(gpus, grid.gpus_per_node)) if gpu.name == "cpu" else gpu
        may_recompute = grid.gradient_checkpointing == "auto" and gpu.name != "cpu"
        whole = job_of(config, objectives[method], shape(model, method), here)
        try:
            job, _, _ = chosen(whole, here, Path(stage), may_recompute=may_recompute)
        except UserError as error:
            left_out[f"{stage} on {gpus} x {gpu.name}: {str(error).removeprefix(f'--ds {stage}: ')}"] = None
            continue
        examples = sum(examples_per_step(config, objectives[method]).values())
        pictured = config.pictures if job.shape.image_tokens else 0.0
        rows.append(
            Row(
                model, gpus, stage, method, mix, scaling, config, job, memory_of(job), speed_of(job, here),
                tokens=examples * (config.tokens + pictured * job.shape.image_tokens),
                pictures=examples * pictured,
                gpu=here,
            )
        )  # fmt: skip
    return rows, list(left_out)


def _objective(grid: Grid, method: str) -> Objective:
    config = PlanConfig(method=method, set=grid.set.get(method, {}), full=grid.full)
    try:
        return planned_objective(config)
    except UserError as error:
        raise UserError(f"methods: {method}: {_in_grid(error, method)}") from None


def _in_grid(error: UserError, method: str) -> str:
    """A mistake of flags in the words of a grid: ``--set layer=1`` is ``set: {rmu: {layer: 1}}`` there."""
    said = re.sub(r"--set (\w+)=([\w.]*\w)", rf"set: {{{method}: {{\1: \2}}}}", str(error))
    return re.sub(r"--set (\w+):", r"set.\1:", said)


def _plan(grid: Grid, model: str, method: str, mix: str, scaling: str, gpus: int) -> PlanConfig:
    """The row as ``clear-dist plan`` would be asked."""
    kind = grid.mixes[mix]
    return PlanConfig(
        model=model,
        gpus=gpus,
        gpus_per_node=grid.gpus_per_node,
        gpu=grid.gpu,
        dtype=grid.dtype,
        gradient_checkpointing=grid.gradient_checkpointing,
        micro_batch=grid.micro_batch,
        method=method,
        set=grid.set.get(method, {}),
        retain_ratio=grid.retain_ratio,
        reference=grid.reference,
        full=grid.full,
        lora_r=grid.lora_r,
        global_batch=grid.global_batch if scaling == "strong" else grid.per_gpu_batch * gpus,
        tokens=kind.tokens,
        scored=kind.scored,
        pictures=kind.pictures,
    )


def point_of(row: Row, grid: Grid, device: str) -> dict[str, Any]:
    """All that decides a measurement of a row on a device, JSON-ready."""
    return {
        "version": __version__,
        "device": device,
        # A rank's, the same on any number of them, so that scaling compares like with like; a GPU's ranks choose.
        "threads": max(1, (os.cpu_count() or 1) // grid.measure_ranks) if device == "cpu" else 0,
        "config": _config_digest(row.plan.model),
        "stage": row.stage,
        "plan": row.plan.model_dump(mode="json", exclude=set(ANYWHERE)),
        "steps": grid.steps,
        "warmup": grid.warmup,
        "seed": grid.seed,
        "accumulation": row.job.accumulation,
        "checkpointing": row.job.checkpointing,
        "reference": row.job.reference,
        "bf16": row.job.bf16,
    }


def digest_of(point: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()


@cache
def _config_digest(model: str) -> str:
    """Of a directory's config.json, wherever it lies; a named shape is its name."""
    file = Path(model) / "config.json"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else model


def reasons_not_to_measure(row: Row, grid: Grid, device: str, ranks_here: int, free_memory: int) -> Iterator[str]:
    """Why a row is predicted only; nothing where it can be measured.

    Args:
        device: ``cpu`` or the planner's name of this machine's GPU; ranks_here: GPUs, or ranks allowed on the CPU.
        free_memory: bytes, of the CPU.
    """
    if row.short:
        yield f"does not fit: short by {size(row.short)}"
    if grid.measure == "never":
        yield "not measured: measure is never"
    if device != row.gpu.name:
        yield f"not measured: this machine has {device}, the grid asks about {row.gpu.name}"
    elif row.gpus > ranks_here:
        limit = f"measure_ranks is {ranks_here}" if device == "cpu" else f"{ranks_here} of them are here"
        yield f"not measured: it takes {row.gpus} {'ranks' if device == 'cpu' else 'GPUs'}, {limit}"
    if row.stage == "z3_nvme":
        yield "not measured: disk offload needs a path of this machine's"
    if device == "cpu" and row.peak_bytes * row.gpus > free_memory:
        yield f"not measured: {row.gpus} x {size(row.peak_bytes)} are more than the {size(free_memory)} that are free"
