"""Weights out of a (sharded) engine: state dicts on rank 0 that plain peft and transformers understand."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import Tensor, nn

from .loop import Trained, whole_parameters
from .world import World


def trainable_tensors(trained: Trained, world: World) -> dict[str, Tensor]:
    """name -> CPU tensor of every trainable parameter of the student; empty on ranks other than 0.

    A collective under ZeRO-3: every rank must call it. Gathers one module's parameters at a time.
    """
    return _gather(trained.module.student, world, only_trainable=True)


def all_tensors(trained: Trained, world: World) -> dict[str, Tensor]:
    """name -> CPU tensor of the whole student, buffers excluded; empty on ranks other than 0. A collective."""
    return _gather(trained.module.student, world, only_trainable=False)


def _gather(student: nn.Module, world: World, *, only_trainable: bool) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, parameter in student.named_parameters():
        if only_trainable and not parameter.requires_grad:
            continue
        with whole_parameters([parameter]):
            if world.main:
                out[name] = parameter.detach().to("cpu", copy=True)
    return out


def release(trained: Trained) -> None:
    """Free the engine's memory: hooks, optimiser states and parameters."""
    engine: Any = trained.engine
    engine.destroy()
    trained.engine = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
