"""Where the reference inside a loss comes from: the adapter switched off, states kept on disk, or a second model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from clear_dist.config import UnlearnConfig
from clear_dist.data.clear import cache_directory
from clear_dist.engine.reference_build import build_reference_cache
from clear_dist.engine.reference_key import identity_of, reference_key
from clear_dist.engine.step import StepModule
from clear_dist.engine.stream import Stream
from clear_dist.engine.world import World
from clear_dist.methods import Objective
from clear_dist.models import Model, ModelInfo, inspect_model, with_base_weights
from clear_dist.services.progress import say, task

from .common import model_dir, only_on_main
from .training import Plan, frozen_copy

Prepare = Callable[[StepModule, Any], None]


def reference_of(
    config: UnlearnConfig,
    objective: Objective,
    info: ModelInfo,
    stream: Stream,
    plan: Plan,
    world: World,
    *,
    head_moves: bool,
) -> tuple[Model | None, Prepare | None]:
    """(a second model, what to do before the first step): both None where the adapter is switched off, or nothing is
    compared. ``head_moves``: whether training changes the output projection."""
    if not objective.needs.reference:
        return None, None
    if config.reference_model is not None:
        named = inspect_model(model_dir(config.reference_model, "--reference-model"))
        other = with_base_weights(named, config.base_weights)
        return frozen_copy(config, other, plan.bf16), None
    if config.reference == "copy":
        return frozen_copy(config, info, plan.bf16), None
    if config.reference == "adapter" or (config.reference == "auto" and not config.full):
        return None, None
    model, tokenisation = only_on_main(world, lambda: identity_of(info))
    dtype = torch.bfloat16 if plan.bf16 else torch.float32
    key = reference_key(model, tokenisation, stream, objective.needs, dtype, head_moves=head_moves)
    folder = config.reference_cache or cache_directory() / "reference" / key.digest[:32]

    def prepare(module: StepModule, engine: Any) -> None:
        with task("asking the reference", 100, world.main) as bar:
            cache = build_reference_cache(
                engine,
                stream,
                objective.needs,
                folder,
                key=key,
                world=world,
                wanted={view: stream.drawn(view, plan.total_steps) for view in key.kept},
                progress=None if bar is None else lambda done, total: bar.update(100 * done // total),
            )
        say(f"reference: {cache.bytes / 1e6:,.1f} MB in {folder}", world.main)
        stream.cache = cache
        head = cache.head()
        module.reference_head = [] if head is None else [head.to(world.device)]

    return None, prepare
