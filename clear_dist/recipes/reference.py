"""Where the reference inside a loss comes from: the adapter switched off, states kept on disk, or a second model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clear_dist.config import UnlearnConfig
from clear_dist.engine.step import StepModule
from clear_dist.engine.stream import Stream
from clear_dist.engine.world import World
from clear_dist.methods import Objective
from clear_dist.models import Model, ModelInfo, inspect_model

from .common import model_dir
from .training import Plan, frozen_copy

Prepare = Callable[[StepModule, Any], None]


def reference_of(
    config: UnlearnConfig, objective: Objective, info: ModelInfo, stream: Stream, plan: Plan, world: World
) -> tuple[Model | None, Prepare | None]:
    """(a second model, what to do before the first step): both None where the adapter is switched off, or nothing is
    compared."""
    if not objective.needs.reference:
        return None, None
    if config.reference_model is not None:
        other = inspect_model(model_dir(config.reference_model, "--reference-model"))
        return frozen_copy(config, other, plan.bf16), None
    if config.reference == "copy":
        return frozen_copy(config, info, plan.bf16), None
    return None, None
