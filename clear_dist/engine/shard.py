"""A model cut into shards over the ranks (ZeRO-3), for models that no single rank can hold. Nothing is trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from clear_dist.models import Model

from .world import World, import_deepspeed

T = TypeVar("T")
# Of a run's DeepSpeed file, what matters where nothing is trained.
_KEPT = ("offload_param", "stage3_param_persistence_threshold", "stage3_prefetch_bucket_size")


class _Inside(nn.Module):
    """A module whose forward does any work with the model: weights are whole only inside it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, work: Callable[[nn.Module], T]) -> T:
        return work(self.inner)


def stage_of(ds_config: Mapping[str, Any]) -> int:
    """The ZeRO stage of a DeepSpeed configuration."""
    return int(ds_config.get("zero_optimization", {}).get("stage", 0))


def shard_model(model: Model, world: World, ds_config: Mapping[str, Any]) -> Callable[[Callable[[nn.Module], T]], T]:
    """Cut ``model`` into shards; returns what runs a function of its module with the weights in reach.

    Every rank must make the same calls, in the same order, and in each run the same modules. Of ``ds_config`` the
    ZeRO-3 settings that concern parameters count (offload, persistence, prefetching).
    """
    zero = {k: v for k, v in ds_config.get("zero_optimization", {}).items() if k in _KEPT and v != "auto"}
    bf16 = next(model.module.parameters()).dtype == torch.bfloat16
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": bf16},
        # Scoring and decoding run the modules in different orders; DeepSpeed would say so at every change.
        "zero_optimization": {"stage": 3, "log_trace_cache_warnings": False, **zero},
    }
    model.module.requires_grad_(False)
    deepspeed = import_deepspeed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside DeepSpeed
        engine, *_ = deepspeed.initialize(model=_Inside(model.module.to(world.device)), config=config)
    engine.eval()
    return engine
