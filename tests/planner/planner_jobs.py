"""Jobs of the tests: a measured case as the planner sees it, and named shapes on GPUs."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from measure import Case, config_of, student_of

from clear_dist.models import meta_model
from clear_dist.planner.job import Job
from clear_dist.planner.shape import Shape, shape_of


def job_of(case: Case, ranks: int) -> Job:
    """What ``measure`` runs. On a CPU DeepSpeed does not overlap, so there is one gradient bucket."""
    with torch.device("meta"):
        module = student_of(case)
    ds = case.ds
    return Job(
        shape=shape_of(module, config_of(case.size), case.size),
        gpus=ranks,
        tokens=case.rows * case.length,
        rows=case.rows,
        scored=2 * case.answers,
        pictures=case.pictures,
        stage=ds["stage"],
        offload_optimizer=_device(ds, "offload_optimizer"),
        offload_parameters=_device(ds, "offload_param"),
        full=case.full,
        bf16=case.bf16,
        checkpointing=case.checkpointing,
        reduce_bucket=ds.get("reduce_bucket_size", 0),
        persistence=ds.get("stage3_param_persistence_threshold", 0),
        overlap=False,
        reference="adapter" if "kl" in case.objective else "none",
    )


def _device(ds: dict[str, Any], key: str) -> str | None:
    return (ds.get(key) or {}).get("device")


@cache
def shape(name: str, *, full: bool = False, lora_r: int = 8) -> Shape:
    module, config, _ = meta_model(name, lora_r=None if full else lora_r, full=full)
    return shape_of(module, config, name)


def job(name: str = "llava-1.5-7b", *, full: bool = False, **changes: Any) -> Job:
    """8 GPUs, two rows of 2048 tokens each."""
    values: dict[str, Any] = {"gpus": 8, "tokens": 4096, "rows": 2, "scored": 512, "pictures": 4}
    return Job(shape=shape(name, full=full), full=full, **{**values, **changes})
