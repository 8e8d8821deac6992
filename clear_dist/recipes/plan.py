"""Plan an unlearning step on GPUs that need not be there: memory by part, traffic, time, and what to change."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from clear_dist.config import PlanConfig
from clear_dist.engine.ds_config import AUTO, load_ds_config
from clear_dist.engine.ds_shipped import shipped, shipped_name
from clear_dist.planner.advice import choose_stage, judge, recomputing
from clear_dist.planner.hardware import Gpu, gpu_of
from clear_dist.planner.job import Job
from clear_dist.services.progress import Terminal
from clear_dist.types import UserError

from .plan_job import job_of, planned_objective, planned_shape
from .plan_outlook import Outlook, name_of, outlook, size, with_ds
from .plan_table import markdown, tables

DOES_NOT_FIT = 1


def run(config: PlanConfig) -> int:
    """``clear-dist plan``: exit status 0 where the job fits, 1 where it does not."""
    gpu = gpu_of(config.gpu)
    objective = planned_objective(config)
    shape = planned_shape(config.model, config.model, full=config.full, lora_r=config.lora_r, objective=objective)
    may_recompute = config.gradient_checkpointing == "auto" and gpu.name != "cpu"
    job, name, why = chosen(job_of(config, objective, shape, gpu), gpu, config.ds, may_recompute=may_recompute)
    if job.checkpointing and may_recompute:
        why += "; activations are recomputed, since they do not fit"
    found = outlook(job, gpu, name, why)
    what = config.method_name or str(objective)
    if config.out is not None:
        write(found, what, config.out)
    if config.json:
        print(json.dumps(to_json(found, what)))
    else:
        console = Terminal(width=None if sys.stdout.isatty() else 120, highlight=False)
        for block in tables(found, what):
            console.print(block, soft_wrap=isinstance(block, str))
        if config.out is not None:
            console.print(f"written: {config.out}/plan.json, plan.md, plan.png", soft_wrap=True, markup=False)
    return 0 if found.verdict.fits else DOES_NOT_FIT


def chosen(job: Job, gpu: Gpu, ds: Path | None, *, may_recompute: bool = False) -> tuple[Job, str, str]:
    """(the job under its DeepSpeed file, that file's name, why it): the first that fits where ``ds`` is auto.

    may_recompute: activations are recomputed where the job does not fit without.
    Where none fits, the one that comes closest, so that there is something to be said about it.

    Raises:
        UserError: a file that is none, or cannot work on these machines.
    """
    if ds is None:
        return (recomputing(job, gpu) if may_recompute else job), "z0", "no --ds: ZeRO stage 0"
    device = "cpu" if gpu.name == "cpu" else "cuda"
    if ds != AUTO:
        named = with_ds(job, load_ds_config(ds), f"--ds {ds}", device)
        return (recomputing(named, gpu) if may_recompute else named), shipped_name(ds) or str(ds), "as asked"
    if device == "cpu":
        return job, "z0", "on a CPU memory is shared by the ranks, so sharding buys nothing: stage 0"
    taken = choose_stage(job, gpu, may_recompute=may_recompute)
    name = name_of(taken)
    found = with_ds(replace(job, checkpointing=taken.checkpointing), shipped(name), name)
    verdict = judge(found, gpu)
    if not verdict.fits:
        return found, name, f"no stage fits {gpu.name}; this one comes closest, short by {size(verdict.short)}"
    return found, name, f"the first that fits {gpu.name}, with {size(gpu.memory)}"


def to_json(found: Outlook, what: str) -> dict[str, object]:
    return {**found.to_json(), "method": what}


def write(found: Outlook, what: str, out: Path) -> None:
    """plan.json, plan.md, plan.png in ``out``. Raises UserError where it is a file."""
    from clear_dist.report.plan_figure import plan_figure  # matplotlib is slow to import

    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a directory")
    out.mkdir(parents=True, exist_ok=True)
    facts = to_json(found, what)
    (out / "plan.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    command = shlex.join(["clear-dist", *sys.argv[1:]])
    (out / "plan.md").write_text(markdown(found, what, command), encoding="utf-8")
    (out / "plan.png").write_bytes(plan_figure(facts))
