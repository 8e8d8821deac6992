"""One rank of measured points: the real engine on random weights and random examples.

Started by ``scale_measure`` as ``python -m clear_dist.recipes.scale_worker POINTS.json FOLDER PARENT`` (the number of
its process) with RANK, WORLD_SIZE and their like in the environment. Rank 0 writes FOLDER/N.json for point N.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch

from clear_dist.config import PlanConfig
from clear_dist.engine.ds_shipped import shipped
from clear_dist.engine.export import release
from clear_dist.engine.loop import TrainSettings, train
from clear_dist.engine.peak import alive, following
from clear_dist.engine.reference_build import build_reference_cache
from clear_dist.engine.reference_key import reference_key
from clear_dist.engine.step import StepModule
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.engine.world import World, barrier, close_world, gather, init_world
from clear_dist.methods import Objective
from clear_dist.models import Family, add_lora, enable_checkpointing, freeze_but_blocks, freeze_tower, meta_model
from clear_dist.models.random_weights import NumberProcessor, random_model
from clear_dist.services.parent import leave_with

from .plan_job import examples_per_step, planned_objective
from .scale_data import make_pools
from .training import ROW_BOUNDS, primary_view

LR = 1e-6  # weights are random: they are to move, not to learn
PRODUCT, ROUNDS = 1024, 7  # side of the matrices whose product says what a CPU can do, and how often it is asked


def main() -> None:
    points = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = Path(sys.argv[2])
    leave_with(int(sys.argv[3]))
    world = init_world()
    for number, asked in enumerate(points):
        folder = out / f"run-{number}"
        found = measure(asked, world, folder)
        if world.main:
            part = out / f"{number}.part"
            part.write_text(json.dumps(found), encoding="utf-8")
            os.replace(part, out / f"{number}.json")
            shutil.rmtree(folder, ignore_errors=True)
    close_world()


def measure(asked: Mapping[str, Any], world: World, folder: Path) -> dict[str, Any]:
    """Seconds, tokens and pictures of a step, and the highest peak of a rank; a collective.

    Args:
        asked: a point (``scale_points.point_of``) and its ``model``, a named shape or a directory.
        folder: for what the engine writes.
    Returns: seconds of every timed step; tokens and pictures of one, over all ranks; peak_bytes of the rank that needs
        most; peak_flops of a rank, on a CPU, measured while all ranks compute.
    """
    config = PlanConfig(**{**asked["plan"], "model": asked["model"]})
    objective = planned_objective(config)
    before = alive(world.device)  # of earlier points, if anything
    rate = product_rate(world)
    module, stream, settings = _prepared(asked, config, objective, world, folder)
    first, last = asked["warmup"], asked["warmup"] + asked["steps"]
    seconds: list[float] = []
    tokens: list[int] = []
    peak: list[Callable[[], int]] = []

    def prepare(engine: Any) -> None:
        if asked["reference"] == "cache":
            moves = config.full and objective.train_layers is None and objective.needs.depth is None
            _ask_reference(engine, module, stream, objective, world, folder, steps=last + 1, head_moves=moves)

    with ExitStack() as followed:

        def on_step(done: int, line: Mapping[str, Any]) -> None:
            if first < done <= last:
                seconds.append(line["seconds"])
                tokens.append(line["real_tokens"])
            elif done > last:
                followed.close()
            if done == last:  # one step more: following memory takes time
                kept = alive(world.device) - before
                risen = followed.enter_context(following(world.device))
                peak.append(lambda: kept + risen())

        trained = train(module, objective, stream, settings, world, prepare=prepare, on_step=on_step)
    release(trained)
    return {
        "seconds": seconds,
        "step_s": median(seconds),
        "tokens": median(tokens),
        "pictures": len(stream.pictures(0)),
        "peak_bytes": max(gather(world, peak[0]())),
        "peak_flops": rate,
    }


def product_rate(world: World) -> float:
    """FLOP/s of a rank's best fp32 matrix product, all ranks at it together; 0 on GPUs, whose makers say it."""
    if world.device.type == "cuda":
        return 0.0
    a, b = torch.randn(2, PRODUCT, PRODUCT)
    barrier(world)
    best = min(_seconds_of_product(a, b) for _ in range(ROUNDS))
    rates = gather(world, 2.0 * PRODUCT**3 / best)
    return sum(rates) / len(rates)


def _seconds_of_product(a: torch.Tensor, b: torch.Tensor) -> float:
    began = time.perf_counter()
    torch.mm(a, b)
    return time.perf_counter() - began


def _prepared(
    asked: Mapping[str, Any], config: PlanConfig, objective: Objective, world: World, folder: Path
) -> tuple[StepModule, Stream, TrainSettings]:
    """Model, examples and settings, as ``unlearn`` would have them."""
    _, model_config, family = meta_model(asked["model"], lora_r=None, full=False)
    student = _student(asked, config, objective, family, model_config, world)
    reference = None
    if asked["reference"] == "copy":
        reference = _random(asked, family, model_config, world).requires_grad_(False)
    batch = examples_per_step(config, objective)
    processor = NumberProcessor(model_config, family)
    pools = make_pools(batch, config, processor, asked["seed"])
    text: Any = family.text_config(model_config)
    stream = Stream(
        pools.student,
        processor,
        StreamSettings(
            batch=batch,
            seed=asked["seed"],
            questions_per_picture=1,
            max_length=1 << 20,
            row_length=min(max(text.hidden_size, ROW_BOUNDS[0]), ROW_BOUNDS[1]),
            accumulation=asked["accumulation"],
        ),
        world.rank,
        world.size,
        needs=objective.needs,
        reference=pools.reference,
    )
    settings = TrainSettings(
        run_dir=folder / "run",
        total_steps=asked["warmup"] + asked["steps"] + 1,
        lr=LR,
        weight_decay=0.0,
        warmup=0.0,
        schedule="constant",
        bf16=asked["bf16"],
        global_batch=batch[primary_view(batch)],
        accumulation=asked["accumulation"],
        ds_config=ds_config(asked["stage"], world.device.type),
        ds_source=asked["stage"],
    )
    return StepModule(student, family, reference), stream, settings


def ds_config(stage: str, device: str) -> dict[str, Any]:
    """A shipped file; on a CPU nothing is pinned, for there is no GPU to copy to."""
    found = shipped(stage)
    for entry in found["zero_optimization"].values():
        if device == "cpu" and isinstance(entry, dict) and "pin_memory" in entry:
            entry["pin_memory"] = False
    return found


def _random(asked: Mapping[str, Any], family: Family, model_config: Any, world: World) -> torch.nn.Module:
    """On its GPU where it leaves half of it free, for a CPU draws large models slowly; else as runs load theirs."""
    dtype = torch.bfloat16 if asked["bf16"] else torch.float32
    device = torch.device("cpu")
    if world.device.type == "cuda":
        empty, _, _ = meta_model(asked["model"], lora_r=None, full=False)
        size = sum(p.numel() for p in empty.parameters()) * dtype.itemsize
        if 2 * size <= torch.cuda.get_device_properties(world.device).total_memory:
            device = world.device
    return random_model(model_config, family, dtype=dtype, device=device, seed=asked["seed"])


def _student(
    asked: Mapping[str, Any], config: PlanConfig, objective: Objective, family: Family, model_config: Any, world: World
) -> torch.nn.Module:
    """Trainable as ``plan_job.planned_shape`` counts it."""
    layers = objective.train_layers
    if layers is None and objective.needs.depth is not None:
        layers = tuple(range(objective.needs.depth))
    module = _random(asked, family, model_config, world)
    if config.full:
        freeze_tower(family, module)
        if layers is not None:
            freeze_but_blocks(family, module, layers)
    else:
        module = add_lora(module, config.lora_r, 2.0 * config.lora_r, family, seed=asked["seed"], layers=layers)
    if asked["checkpointing"]:
        enable_checkpointing(module)
    return module.train()


def _ask_reference(
    engine: Any,
    module: StepModule,
    stream: Stream,
    objective: Objective,
    world: World,
    folder: Path,
    *,
    steps: int,
    head_moves: bool,
) -> None:
    """States of the reference on disk, as a run with all weights in training keeps them."""
    dtype = next(module.parameters()).dtype
    key = reference_key("random weights", "numbers", stream, objective.needs, dtype, head_moves=head_moves)
    wanted = {view: stream.drawn(view, steps) for view in key.kept}
    cache = build_reference_cache(
        engine, stream, objective.needs, folder / "reference", key=key, world=world, wanted=wanted
    )
    stream.cache = cache
    head = cache.head()
    module.reference_head = [] if head is None else [head.to(world.device)]


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
