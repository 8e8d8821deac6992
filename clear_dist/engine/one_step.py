"""One optimiser step: its forward and backward passes, group by group, and whether it may be taken."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from clear_dist.methods import Objective
from clear_dist.types import Batch

from .finite import bad_loss, bad_norm, pass_over, refuse, summed
from .gradients import GradientShards, on_nvme
from .optimizer import L1Norm
from .preempt import Notice
from .step import loss_of
from .stream import Stream
from .world import World


class Run:
    """What the steps of a run have in common."""

    def __init__(
        self, engine: Any, objective: Objective, stream: Stream, world: World, *, total_steps: int, max_skipped: int
    ) -> None:
        """total_steps: of the whole schedule; max_skipped: steps that may be left out."""
        self.engine, self.objective, self.stream, self.world = engine, objective, stream, world
        self.total_steps, self.max_skipped = total_steps, max_skipped
        self.accumulation = int(engine.gradient_accumulation_steps())
        self.groups = objective.rule.groups(objective)
        self.student = engine.module.student
        self.several = len(self.groups) > 1
        # Of an optimiser on NVMe the gradients are in files: one gradient is then looked at when it has been applied.
        self.shards = GradientShards(engine) if self.several or not on_nvme(engine) else None
        # With one gradient the penalties ride along in its backward; with several they are added to the shards.
        self.norms = {} if self.several else {p: L1Norm(self.student, p.parameters) for p in objective.penalties}
        self.skipped = 0


def batches_of(run: Run, steps: range) -> Iterator[Batch]:
    """All this rank reads: step by step, of each the groups of terms, of each the micro-batches."""
    on_gpu = run.world.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(run.world.device)  # a thread of its own begins at device 0
    for step in steps:
        for group in run.groups:
            for batch in run.stream.micro_batches(step, group.needs.views if run.several else None):
                yield batch.pinned() if on_gpu else batch


def one_step(run: Run, step: int, batches: Iterator[Batch], told: Notice) -> tuple[dict[str, Any], bool]:
    """(the step's line, whether some rank was told to leave)."""
    engine, shards = run.engine, run.shards
    progress = step / run.total_steps
    torch.manual_seed(_seed_of(run.stream.settings.seed, step, run.world.rank))
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


def _seed_of(seed: int, step: int, rank: int) -> int:
    """What dropout draws in a step, if a model has any, depends on nothing that came before: a resumed run draws the
    same."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:8], "little") >> 1


def _weigh(
    run: Run, gradients: list[list[Tensor]], numbers: dict[str, float], progress: float, line: dict[str, Any]
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


def _left_out(run: Run, step: int, problem: str) -> dict[str, Any]:
    """The step is not taken, on any rank. Raises FloatingPointError past the cap."""
    if run.skipped >= run.max_skipped or run.shards is None:
        raise refuse(problem, step, f"the weights are those of step {step}", run.skipped)
    run.skipped += 1
    run.shards.clear()
    pass_over(run.engine)
    return {"skipped": problem, "skipped_so_far": run.skipped}


_LOSS, _TOKENS, _LEAVING = "loss", "tokens", "leaving"  # no term is called so: terms have parentheses


def _accumulate(run: Run, group: Objective, step: int, progress: float, batches: Iterator[Batch]) -> dict[str, Tensor]:
    """All backward passes of one gradient; this rank's sums of the loss, its parts and the tokens read, in float64."""
    engine, world = run.engine, run.world
    totals = run.stream.totals(step)
    scale = world.size * run.accumulation
    sums: Tensor | None = None
    names: list[str] = []
    for packed in islice(batches, run.accumulation):
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
