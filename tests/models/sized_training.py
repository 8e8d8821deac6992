"""Whole models of the families that cut pictures by their size, trained for a few steps on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sized_models import MIXED
from torch import Tensor

from clear_dist.engine.export import all_tensors, release
from clear_dist.engine.loop import TrainSettings, train
from clear_dist.engine.step import StepModule
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.engine.world import World
from clear_dist.methods import RETAIN, nll
from clear_dist.models import Model, load_model
from clear_dist.types import View

ZERO_3 = {"stage": 3, "stage3_param_persistence_threshold": 0}  # or parameters as small as these are never cut
STEPS = 3


def stream_of(model: Model, world: World) -> Stream:
    """Micro-batches of one example: pictures of three sizes, and texts."""
    settings = StreamSettings({View.RETAIN: 6}, 0, 3, 200, 96, 6 // world.size)
    return Stream({View.RETAIN: MIXED}, model.processor, settings, world.rank, world.size)


def with_pictures(directory: Path, world: World) -> list[bool]:
    """Of every micro-batch of this rank: whether a picture is in it."""
    stream = stream_of(load_model(directory, dtype="fp32", device="cpu"), world)
    return [batch.image_slots.numel() > 0 for step in range(STEPS) for batch in stream.micro_batches(step)]


def after_training(directory: Path, world: World, run_dir: Path, zero: dict[str, Any]) -> dict[str, Tensor]:
    """All weights by their names, the tower's too."""
    model = load_model(directory, dtype="fp32", device="cpu")
    settings = TrainSettings(
        run_dir=run_dir,
        total_steps=STEPS,
        lr=1e-2,
        weight_decay=0.0,
        warmup=0.0,
        schedule="constant",
        bf16=False,
        global_batch=6,
        accumulation=6 // world.size,
        ds_config={"gradient_clipping": 0.0, "zero_optimization": zero},
        ds_source="test",
        optimizer="sgd",
    )
    trained = train(StepModule(model.module, model.family), nll(RETAIN), stream_of(model, world), settings, world)
    tensors = {n: t.clone() for n, t in all_tensors(trained, world).items()}
    release(trained)
    return tensors
