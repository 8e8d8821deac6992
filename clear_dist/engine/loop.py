"""The training loop: pack, forward once, backward once, step; the same on any ranks, at any ZeRO stage.

An update rule may want a gradient of its own for each of several groups of terms: then every group has its forward
and backward passes, on the views it needs, and ``gradients`` weighs the results on the shards of each rank.

Normalisation: every loss is a sum over examples divided by global counts, so the gradient wanted is the plain
sum over ranks and accumulation steps. DeepSpeed averages over both; multiplying the loss by their product undoes it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from clear_dist.errors import Preempted
from clear_dist.methods import Objective

from .checkpoint import Checkpoints
from .ds_config import RunNumbers, resolve_ds_config
from .metrics_log import metrics_log
from .one_step import Run, batches_of, one_step
from .optimizer import OptimizerName, make_optimizer
from .preempt import notice
from .prefetch import prefetched
from .schedule import ScheduleName, lr_factor
from .step import StepModule
from .stream import Stream
from .trackers import TrackerName
from .watchdog import Watchdog
from .world import World, import_deepspeed, ranks_per_node

_SLOW = 4.0  # evaluating and saving may take so many times longer than a step before they count as hanging
OnStep = Callable[[int, Mapping[str, Any]], None]


@dataclass(frozen=True)
class TrainSettings:
    """What the loop needs beyond model, data and objective; fields mean what the flags of the same name say."""

    run_dir: Path
    total_steps: int
    lr: float
    weight_decay: float
    warmup: float
    schedule: ScheduleName
    bf16: bool
    global_batch: int
    accumulation: int
    ds_config: Mapping[str, Any]
    ds_source: str
    resume: bool = False
    checkpoint_every: int = 0  # steps; 0 = never
    keep_checkpoints: int = 2  # good ones that stay
    stop_after: int | None = None  # stop early (--max-steps), keeping the schedule of total_steps
    tracker: TrackerName = "none"
    eval_every: int = 0
    optimizer: OptimizerName = "adamw"
    prefetch: int = 0  # batches packed ahead in a thread
    max_skipped: int = 0  # steps that may be left out because they are no numbers
    hang_seconds: float = 0.0  # without a step, after which a rank tells where it is and exits; 0 = never


@dataclass
class Trained:
    """A finished loop: the DeepSpeed engine still holds the (sharded) weights."""

    engine: Any
    module: StepModule
    steps: int
    seconds: float


def train(
    module: StepModule,
    objective: Objective,
    stream: Stream,
    settings: TrainSettings,
    world: World,
    *,
    on_start: Callable[[list[str]], None] | None = None,
    prepare: Callable[[Any], Mapping[str, Any] | None] | None = None,
    on_step: OnStep | None = None,
    on_eval: Callable[[Any, int], Mapping[str, float]] | None = None,
    on_damage: Callable[[str], None] | None = None,
    on_resume: Callable[[int], None] | None = None,
) -> Trained:
    """Run ``settings.total_steps`` optimiser steps, writing one line a step to ``metrics.jsonl``.

    ``on_start`` is told, before the first step, what was filled into the DeepSpeed configuration. ``prepare`` is given
    the engine while its weights are still those training starts from, also where a checkpoint is resumed afterwards:
    the moment to ask what the reference says. What it returns goes into the first line that is written. ``on_damage``
    is told what was found wrong with a checkpoint, ``on_resume`` which step it goes on from.

    Raises:
        UserError: contradictory DeepSpeed configuration, no usable checkpoint, no room for one.
        FloatingPointError: the loss or its gradient stopped being finite on some rank, more often than
            ``max_skipped``; no rank has stepped on it.
        Preempted: some rank was told to leave (SIGTERM, SIGUSR1); a checkpoint of the last step is there.
    """
    engine, filled = _initialize(module, settings, world)
    if on_start:
        on_start(filled)
    prepared = (prepare(engine) if prepare else None) or {}
    run = Run(engine, objective, stream, world, total_steps=settings.total_steps, max_skipped=settings.max_skipped)
    checkpoints = Checkpoints(settings.run_dir / "checkpoints", world, settings.keep_checkpoints)
    start = checkpoints.load(engine) if settings.resume else 0
    if start and on_resume:
        on_resume(start)
    run.skipped = int(engine.skipped_steps)
    stop = min(settings.total_steps, settings.stop_after or settings.total_steps)
    began = time.perf_counter()
    with (
        closing(checkpoints),
        notice() as told,
        Watchdog(settings.run_dir, world.rank, settings.hang_seconds) as watchdog,
        metrics_log(settings.run_dir, settings.tracker, world, start) as write,
        prefetched(batches_of(run, range(start, stop)), settings.prefetch) as batches,
    ):

        def evaluate(step: int) -> None:
            if on_eval and settings.eval_every and (step % settings.eval_every == 0 or step == stop):
                watchdog.beat(f"evaluating after step {step}", patience=_SLOW)
                write({"step": step, "eval": dict(on_eval(engine, step))})

        def damage(step: int) -> None:
            for text in checkpoints.told():
                write({"step": step, "damaged": text})
                if on_damage:
                    on_damage(text)

        def save(step: int) -> None:
            watchdog.beat(f"saving step {step}", patience=_SLOW)
            checkpoints.save(engine, step)
            damage(step)

        damage(start)
        if not settings.resume:
            evaluate(0)
        for step in range(start, stop):
            watchdog.beat(f"step {step + 1}")
            clock = time.perf_counter()
            line, leaving = one_step(run, step, batches, told)
            seconds = time.perf_counter() - clock
            line |= {
                "tokens_per_s": line["real_tokens"] / seconds,
                "seconds": seconds,
                "memory_gb": _memory_gb(world),
            }
            if step == start and prepared:
                line["prepared"] = dict(prepared)
            write(line)
            if on_step:
                on_step(step + 1, line)
            evaluate(step + 1)
            due = settings.checkpoint_every and (step + 1) % settings.checkpoint_every == 0
            if step + 1 < stop and (due or leaving):
                save(step + 1)
            if step + 1 < stop and leaving:
                raise Preempted(
                    f"told to leave ({told.heard or 'another rank was'}): step {step + 1} of {stop} is saved in "
                    f"{settings.run_dir}; the same command goes on from there"
                )
        if settings.checkpoint_every and stop > start:
            save(stop)
        watchdog.beat("reading the last checkpoint again", patience=_SLOW)
        checkpoints.finish()
        damage(stop)
    return Trained(engine, module, stop, time.perf_counter() - began)


def _initialize(module: StepModule, settings: TrainSettings, world: World) -> tuple[Any, list[str]]:
    numbers = RunNumbers(
        world_size=world.size,
        global_batch=settings.global_batch,
        accumulation=settings.accumulation,
        bf16=settings.bf16,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        device=world.device.type,
        ranks_per_node=ranks_per_node(world),
    )
    config, filled = resolve_ds_config(dict(settings.ds_config), numbers, settings.ds_source)
    trainable = [p for p in module.parameters() if p.requires_grad]
    factor = lr_factor(settings.schedule, settings.total_steps, settings.warmup)
    offloaded = "offload_optimizer" in config["zero_optimization"]
    device = torch.device("cpu") if offloaded else world.device
    deepspeed = import_deepspeed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside DeepSpeed
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=make_optimizer(settings.optimizer, trainable, settings.lr, settings.weight_decay, device),
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
            config=config,
        )
    return engine, filled


def _memory_gb(world: World) -> float:
    """Peak GPU memory of this rank, or its resident memory on a CPU, in 1e9 bytes."""
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device) / 1e9
    return psutil.Process().memory_info().rss / 1e9


@contextmanager
def whole_parameters(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Inside, sharded (ZeRO-3) parameters have their full values on every rank; elsewhere this does nothing."""
    if not any(hasattr(p, "ds_id") for p in parameters):
        yield
        return
    with import_deepspeed().zero.GatheredParameters(parameters):
        yield
