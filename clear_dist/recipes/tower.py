"""Whether a training keeps what the frozen vision tower makes of its pictures, and making it before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from clear_dist.config import TrainFields
from clear_dist.engine.monitor import Monitor
from clear_dist.engine.step import StepModule
from clear_dist.engine.stream import Stream
from clear_dist.engine.tower_cache import SHARE, build_tower_cache, parked, pictures_of, why_not
from clear_dist.engine.world import World
from clear_dist.models import ModelInfo
from clear_dist.services.progress import say, task
from clear_dist.types import UserError

MOST = 0.9  # of a host's free memory, where the cache was asked for


def check_tower(config: TrainFields, info: ModelInfo) -> None:
    """What can be said before weights are loaded. Raises UserError where the cache was asked for and cannot be."""
    if config.tower_cache == "on" and not info.family.cached_tower:
        why = "has no vision tower" if not info.image_tokens else "has a vision tower whose output differs in size"
        raise UserError(f"--tower-cache on: {info.name} {why}. Leave it at auto, or set it to off.")


def keeps_tower(config: TrainFields, module: StepModule) -> bool:
    """Whether it can be done and may be worth it. Raises UserError where it was asked for and cannot be done."""
    if config.tower_cache == "off":
        return False
    problem = why_not(module)
    if problem is not None and config.tower_cache == "on":
        raise UserError(f"--tower-cache on: {problem}, so nothing can be kept. Leave it at auto, or set it to off.")
    return problem is None


def keep_tower(
    config: TrainFields,
    module: StepModule,
    engine: Any,
    stream: Stream,
    monitor: Monitor | None,
    steps: range,
    world: World,
    inside: ExitStack,
) -> Mapping[str, float]:
    """Fill the cache and hand it to ``stream`` and ``monitor``; until ``inside`` is left the tower is off the GPU. A
    collective. Returns how long it took; nothing where steps would see hardly a picture again, or memory is short.

    Raises UserError on every rank: a picture that cannot be read; memory, where the cache was asked for.
    """
    asked = config.tower_cache == "on"
    pictures, uses = pictures_of(stream, steps)
    forwards = 2 if stream.needs is not None and stream.needs.reference and stream.cache is None else 1
    if not pictures or (uses * forwards <= len(pictures) and not asked):
        return {}
    if monitor is not None:
        pictures |= monitor.pictures
    share = MOST if asked else SHARE
    with task("vision tower", len(pictures), world.main) as bar:
        cache = build_tower_cache(
            engine,
            pictures,
            stream.processor,
            world,
            share=share,
            progress=None if bar is None else lambda done, total: bar.update(done),
        )
    if cache is None:
        short = f"what it makes of {len(pictures)} pictures takes more than {share:.0%} of the free memory of a host"
        if asked:
            raise UserError(f"--tower-cache on: {short}. Set it to off, or train on fewer pictures.")
        say(f"vision tower: {short}; it runs in every step", world.main)
        return {}
    stream.features = cache
    if monitor is not None:
        monitor.features = cache
    inside.enter_context(parked(module, world.device))
    say(f"vision tower: {len(cache)} pictures, {cache.bytes / 1e6:,.1f} MB kept, {cache.seconds:.1f} s", world.main)
    return {"tower_seconds": cache.seconds}
