"""The training loop: pack, forward once, backward once, step; the same on any ranks, at any ZeRO stage.

Normalisation: every loss is a sum over examples divided by global counts, so the gradient wanted is the plain
sum over ranks and accumulation steps. DeepSpeed averages over both; multiplying the loss by their product undoes it.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil
import torch
from torch import Tensor, nn

from clear_dist.methods import Objective

from .checkpoint import load_checkpoint, save_checkpoint
from .ds_config import RunNumbers, resolve_ds_config
from .optimizer import L1Norm, adamw
from .schedule import ScheduleName, lr_factor
from .step import StepModule, loss_of
from .stream import Stream
from .trackers import TrackerName, make_tracker
from .world import World, import_deepspeed

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
    on_step: OnStep | None = None,
    on_eval: Callable[[Any, int], Mapping[str, float]] | None = None,
) -> Trained:
    """Run ``settings.total_steps`` optimiser steps, writing one line a step to ``metrics.jsonl``.

    ``on_start`` is told, before the first step, what was filled into the DeepSpeed configuration.

    Raises:
        UserError: contradictory DeepSpeed configuration, unusable checkpoint.
        FloatingPointError: the loss stopped being finite on some rank; no rank has stepped on it.
    """
    assert objective.rule.groups(objective) == [objective], "this loop takes one gradient: the sum's"
    engine, filled = _initialize(module, settings, world)
    if on_start:
        on_start(filled)
    norms = {p: L1Norm(module.student, p.parameters) for p in objective.penalties}
    start = load_checkpoint(engine, settings.run_dir / "checkpoints", world) if settings.resume else 0
    stop = min(settings.total_steps, settings.stop_after or settings.total_steps)
    began = time.perf_counter()
    with _metrics(settings, world, start) as write:
        for step in range(start, stop):
            clock = time.perf_counter()
            line = _one_step(engine, objective, stream, settings, world, norms, step)
            seconds = time.perf_counter() - clock
            line |= {
                "tokens_per_s": line["real_tokens"] / seconds,
                "seconds": seconds,
                "memory_gb": _memory_gb(world),
            }
            write(line)
            if on_step:
                on_step(step + 1, line)
            if on_eval and settings.eval_every and (step + 1) % settings.eval_every == 0:
                write({"step": step + 1, "eval": dict(on_eval(engine, step + 1))})
            if settings.checkpoint_every and (step + 1) % settings.checkpoint_every == 0 and step + 1 < stop:
                save_checkpoint(engine, settings.run_dir / "checkpoints", step + 1, world)
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
            optimizer=adamw(trainable, settings.lr, settings.weight_decay, device),
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
            config=config,
        )
    return engine, filled


def _one_step(
    engine: Any,
    objective: Objective,
    stream: Stream,
    settings: TrainSettings,
    world: World,
    norms: Mapping[Any, L1Norm],
    step: int,
) -> dict[str, Any]:
    progress = step / settings.total_steps
    totals = stream.totals(step)
    scale = world.size * settings.accumulation
    lr = engine.get_lr()[0]
    sums: Tensor | None = None
    names: list[str] = []
    grad_norm: float | None = None
    for packed in stream.micro_batches(step):
        batch = packed.to(world.device)
        for norm in norms.values():
            norm.start()
        values = engine(batch, objective.needs)
        loss, parts = loss_of(objective, values, batch, totals, progress)
        for penalty, norm in norms.items():
            value = norm.value(penalty, loss) / scale  # once per optimiser step, not per rank or micro-batch
            loss = loss + penalty.factor * value
            parts[penalty.name] = value.detach()
        names = list(parts)
        row = torch.stack([loss.detach(), *parts.values(), loss.new_tensor(float(batch.real_tokens))]).double()
        sums = row if sums is None else sums + row
        engine.backward(loss * scale)
        if engine.is_gradient_accumulation_boundary():
            _refuse_non_finite(sums, names, step, world)
            grad_norm = _plain_norm(engine)
            _refuse_norm(grad_norm, step, f"the weights are those of step {step}")
        engine.step()
    assert sums is not None
    norm = engine.get_global_grad_norm() if grad_norm is None else grad_norm
    _refuse_norm(norm, step, "the weights are spoiled")  # sharded: known only once the step is taken
    loss_value, *part_values, tokens = sums.tolist()
    return {
        "step": step + 1,
        "loss": loss_value,
        "parts": dict(zip(names, part_values, strict=True)),
        "lr": lr,
        "grad_norm": None if norm is None else float(norm),
        "real_tokens": int(tokens),
    }


def _plain_norm(engine: Any) -> float | None:
    """The gradient's norm at ZeRO stage 0, which DeepSpeed does not report in fp32; None at other stages."""
    if engine.zero_optimization_stage() != 0:
        return None
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return float(nn.utils.get_total_norm(gradients)) if gradients else None


def _refuse_non_finite(sums: Tensor, names: list[str], step: int, world: World) -> None:
    """Sum the shares over ranks (in place); stop before any weight moves if the result is not a number."""
    if world.size > 1:
        torch.distributed.all_reduce(sums)
    if not bool(torch.isfinite(sums).all()):
        bad = [n for n, v in zip(["loss", *names], sums.tolist(), strict=False) if not abs(v) < float("inf")]
        raise FloatingPointError(
            f"step {step + 1}: {', '.join(bad)} is not finite; the weights are those of step {step}. "
            "Lower --lr, or bound the ascent (npo instead of ga)."
        )


def _refuse_norm(norm: Any, step: int, weights: str) -> None:
    """A loss can be finite and its gradient not; the norm is the same on every rank, so all of them stop here."""
    if norm is not None and not math.isfinite(norm):
        raise FloatingPointError(
            f"step {step + 1}: the gradient's norm is {float(norm)}; {weights}. Lower --lr, or bound the ascent "
            "(npo instead of ga), and resume from the last checkpoint."
        )


def _memory_gb(world: World) -> float:
    """Peak GPU memory of this rank, or its resident memory on a CPU, in 1e9 bytes."""
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device) / 1e9
    return psutil.Process().memory_info().rss / 1e9


@contextmanager
def _metrics(settings: TrainSettings, world: World, start: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Append to metrics.jsonl (rank 0); a resumed run first drops lines after its checkpoint."""
    if not world.main:
        yield lambda line: None
        return
    path = settings.run_dir / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = _lines_until(path, start) if start and path.is_file() else []
    part = path.with_suffix(".part")
    part.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
    os.replace(part, path)  # dying here loses no line
    log, close = make_tracker(settings.tracker, settings.run_dir)
    try:
        with path.open("a", encoding="utf-8") as file:
            yield lambda line: _write(file, line, log)
    finally:
        close()


def _lines_until(path: Path, step: int) -> list[str]:
    """Lines of the steps up to ``step``; a line cut off by a kill belongs to none."""
    kept = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(text)["step"] <= step:
                kept.append(text)
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def _write(file: TextIO, line: Mapping[str, Any], log: Callable[[int, Mapping[str, float]], None]) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()
    numbers = {k: v for k, v in line.items() if isinstance(v, (int, float)) and k != "step"}
    numbers |= {f"parts/{k}": v for k, v in line.get("parts", {}).items()}
    numbers |= {f"eval/{k}": v for k, v in line.get("eval", {}).items()}
    log(line["step"], numbers)


@contextmanager
def whole_parameters(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Inside, sharded (ZeRO-3) parameters have their full values on every rank; elsewhere this does nothing."""
    if not any(hasattr(p, "ds_id") for p in parameters):
        yield
        return
    with import_deepspeed().zero.GatheredParameters(parameters):
        yield
