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
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from clear_dist.errors import Preempted
from clear_dist.methods import Objective
from clear_dist.types import Batch

from .checkpoint import load_checkpoint, save_checkpoint
from .ds_config import RunNumbers, resolve_ds_config
from .finite import bad_loss, bad_norm, pass_over, refuse, summed
from .gradients import GradientShards, on_nvme
from .metrics_log import metrics_log
from .optimizer import L1Norm, OptimizerName, make_optimizer
from .preempt import Notice, notice
from .prefetch import prefetched
from .schedule import ScheduleName, lr_factor
from .step import StepModule, loss_of
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
) -> Trained:
    """Run ``settings.total_steps`` optimiser steps, writing one line a step to ``metrics.jsonl``.

    ``on_start`` is told, before the first step, what was filled into the DeepSpeed configuration. ``prepare`` is given
    the engine while its weights are still those training starts from, also where a checkpoint is resumed afterwards:
    the moment to ask what the reference says. What it returns goes into the first line that is written.

    Raises:
        UserError: contradictory DeepSpeed configuration, unusable checkpoint.
        FloatingPointError: the loss or its gradient stopped being finite on some rank, more often than
            ``max_skipped``; no rank has stepped on it.
        Preempted: some rank was told to leave (SIGTERM, SIGUSR1); a checkpoint of the last step is there.
    """
    engine, filled = _initialize(module, settings, world)
    if on_start:
        on_start(filled)
    prepared = (prepare(engine) if prepare else None) or {}
    run = _Run(engine, objective, stream, settings, world)
    start = load_checkpoint(engine, settings.run_dir / "checkpoints", world) if settings.resume else 0
    stop = min(settings.total_steps, settings.stop_after or settings.total_steps)
    began = time.perf_counter()
    with (
        notice() as told,
        Watchdog(settings.run_dir, world.rank, settings.hang_seconds) as watchdog,
        metrics_log(settings.run_dir, settings.tracker, world, start) as write,
        prefetched(_batches(run, range(start, stop)), settings.prefetch) as batches,
    ):

        def evaluate(step: int) -> None:
            if on_eval and settings.eval_every and (step % settings.eval_every == 0 or step == stop):
                watchdog.beat(f"evaluating after step {step}", patience=_SLOW)
                write({"step": step, "eval": dict(on_eval(engine, step))})

        if not settings.resume:
            evaluate(0)
        for step in range(start, stop):
            watchdog.beat(f"step {step + 1}")
            clock = time.perf_counter()
            line, leaving = _one_step(run, step, batches, told)
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
                watchdog.beat(f"saving step {step + 1}", patience=_SLOW)
                save_checkpoint(engine, settings.run_dir / "checkpoints", step + 1, world)
            if step + 1 < stop and leaving:
                raise Preempted(
                    f"told to leave ({told.heard or 'another rank was'}): step {step + 1} of {stop} is saved in "
                    f"{settings.run_dir}; the same command goes on from there"
                )
    if settings.checkpoint_every and stop > start:
        save_checkpoint(engine, settings.run_dir / "checkpoints", stop, world)
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


class _Run:
    """What the steps of a run have in common."""

    def __init__(
        self, engine: Any, objective: Objective, stream: Stream, settings: TrainSettings, world: World
    ) -> None:
        self.engine, self.objective, self.stream, self.settings, self.world = engine, objective, stream, settings, world
        self.groups = objective.rule.groups(objective)
        self.student = engine.module.student
        self.several = len(self.groups) > 1
        # Of an optimiser on NVMe the gradients are in files: one gradient is then looked at when it has been applied.
        self.shards = GradientShards(engine) if self.several or not on_nvme(engine) else None
        # With one gradient the penalties ride along in its backward; with several they are added to the shards.
        self.norms = {} if self.several else {p: L1Norm(self.student, p.parameters) for p in objective.penalties}
        self.skipped = 0


def _batches(run: _Run, steps: range) -> Iterator[Batch]:
    """All this rank reads: step by step, of each the groups of terms, of each the micro-batches."""
    on_gpu = run.world.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(run.world.device)  # a thread of its own begins at device 0
    for step in steps:
        for group in run.groups:
            for batch in run.stream.micro_batches(step, group.needs.views if run.several else None):
                yield batch.pinned() if on_gpu else batch


def _one_step(run: _Run, step: int, batches: Iterator[Batch], told: Notice) -> tuple[dict[str, Any], bool]:
    """(the step's line, whether some rank was told to leave)."""
    engine, shards = run.engine, run.shards
    progress = step / run.settings.total_steps
    lr = engine.get_lr()[0]
    sums: dict[str, Tensor] = {}
    gradients: list[list[Tensor]] = []
    for number, group in enumerate(run.groups):
        if number and shards is not None:
            shards.clear()
        for name, value in _accumulate(run, group, step, progress, batches).items():
            sums[name] = sums[name] + value if name in sums else value
        if run.several and shards is not None:
            gradients.append(shards.take())
    numbers = summed(sums | {_LEAVING: torch.full_like(sums[_LOSS], float(told.heard is not None))}, run.world)
    leaving, tokens = numbers.pop(_LEAVING) > 0, int(numbers.pop(_TOKENS))
    line: dict[str, Any] = {"step": step + 1, "lr": lr, "real_tokens": tokens}
    problem = bad_loss(numbers)
    if problem is None and gradients:
        problem = _weigh(run, gradients, numbers, progress, line)
    norm = None if problem or shards is None else shards.norm()
    if (problem := problem or bad_norm(norm)) is not None:
        return line | _left_out(run, step, problem), leaving
    engine.step()
    if norm is None:  # known only once the step is taken
        norm = engine.get_global_grad_norm()
        if (problem := bad_norm(norm)) is not None:
            raise refuse(problem, step, "the weights are spoiled: resume from the last checkpoint", run.skipped)
    loss = numbers.pop(_LOSS)
    return {"loss": loss, "parts": numbers, "grad_norm": None if norm is None else float(norm), **line}, leaving


def _weigh(
    run: _Run, gradients: list[list[Tensor]], numbers: dict[str, float], progress: float, line: dict[str, Any]
) -> str | None:
    """Put the update rule's combination of the groups' gradients in their place; what is not finite, if anything."""
    shards = run.shards
    assert shards is not None
    gram = shards.gram(gradients)
    if (problem := bad_norm(float(gram.diagonal().sum().sqrt()))) is not None:
        return problem
    coefficients = run.objective.rule.coefficients(gram, progress)
    line["coefficients"] = {str(g): c for g, c in zip(run.groups, coefficients.tolist(), strict=True)}
    combined = shards.combine(gradients, coefficients)
    for penalty in run.objective.penalties:
        numbers[penalty.name] = shards.penalise(combined, penalty, run.student)
        numbers[_LOSS] += penalty.factor * numbers[penalty.name]
    shards.put(combined)
    return None


def _left_out(run: _Run, step: int, problem: str) -> dict[str, Any]:
    """The step is not taken, on any rank. Raises FloatingPointError past the cap."""
    if run.skipped >= run.settings.max_skipped or run.shards is None:
        raise refuse(problem, step, f"the weights are those of step {step}", run.skipped)
    run.skipped += 1
    run.shards.clear()
    pass_over(run.engine)
    return {"skipped": problem, "skipped_so_far": run.skipped}


_LOSS, _TOKENS, _LEAVING = "loss", "tokens", "leaving"  # no term is called so: terms have parentheses


def _accumulate(run: _Run, group: Objective, step: int, progress: float, batches: Iterator[Batch]) -> dict[str, Tensor]:
    """All backward passes of one gradient; this rank's sums of the loss, its parts and the tokens read, in float64."""
    engine, world = run.engine, run.world
    totals = run.stream.totals(step)
    scale = world.size * run.settings.accumulation
    sums: Tensor | None = None
    names: list[str] = []
    for packed in islice(batches, run.settings.accumulation):
        batch = packed.to(world.device)
        for norm in run.norms.values():
            norm.start()
        values = engine(batch, group.needs)
        loss, parts = loss_of(group, values, batch, totals, progress)
        for penalty, norm in run.norms.items():
            value = norm.value(penalty, loss) / scale  # once per optimiser step, not per rank or micro-batch
            loss = loss + penalty.factor * value
            parts[penalty.name] = value.detach()
        names = [_LOSS, *parts, _TOKENS]
        row = torch.stack([loss.detach(), *parts.values(), loss.new_tensor(float(batch.real_tokens))]).double()
        sums = row if sums is None else sums + row
        engine.backward(loss * scale)
        if not engine.is_gradient_accumulation_boundary():
            engine.step()  # counts the micro-batch; the step proper is taken by the caller
    assert sums is not None and engine.is_gradient_accumulation_boundary()
    return dict(zip(names, sums, strict=True))


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
