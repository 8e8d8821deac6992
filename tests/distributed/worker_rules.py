"""What each rank of the update rules' test runs: jobs of two SGD steps through DeepSpeed, one after the other.

usage: worker_rules.py MODEL_DIR JOBS.json OUT. Rank 0 leaves OUT/NAME.safetensors (trained tensors) and
OUT/NAME/metrics.jsonl; a job that falls ill leaves every rank's message in OUT/NAME.RANK.txt.
``by_hand`` is the same steps in one process with nothing but autograd and the equations.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from clear_dist.engine.export import release, trainable_tensors
from clear_dist.engine.gradients import GradientShards
from clear_dist.engine.loop import TrainSettings, train, whole_parameters
from clear_dist.engine.monitor import Monitor
from clear_dist.engine.step import StepModule, loss_of
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.engine.world import World, barrier, close_world, init_world
from clear_dist.methods import (
    FORGET,
    RETAIN,
    Conflict,
    Objective,
    Orthogonal,
    Penalty,
    Term,
    Weighted,
    kl,
    match,
    nll,
    npo,
)
from clear_dist.models import Model, add_lora, enable_checkpointing, freeze_tower, load_model
from clear_dist.types import Example, Picture, SetName, TokenStats

STEPS, LR, CLIP = 2, 0.02, 0.5
BATCH = {FORGET: 3, RETAIN: 5}  # neither divides evenly among ranks and micro-batches


@dataclass(frozen=True)
class Job:
    """clip: gradients are clipped to CLIP; l1: factor of the penalty; evaluated: also before the first step; broken:
    inner products of this rank alone; sick: rank 1's loss, or its gradient, is no number in the second step.
    """

    stage: int
    rule: str = "orthogonal"
    full: bool = False
    accumulation: int = 1
    clip: bool = False
    l1: float = 0.0
    reduction: Any = "sum"
    terms: Literal["nll", "reference", "depth"] = "nll"
    offload: tuple[str, ...] = ()
    checkpointing: bool = False
    bf16: bool = False
    fp32_sums: bool = False
    evaluated: bool = False
    broken: bool = False
    sick: Literal["", "loss", "gradient"] = ""

    @property
    def equation(self) -> tuple[Any, ...]:
        """What decides the result, if the engine is right."""
        return self.rule, self.full, self.clip, self.l1, self.reduction, self.terms

    @property
    def groups(self) -> tuple[Objective, Objective]:
        """(all that looks beyond RETAIN, the rest)."""
        if self.terms == "reference":
            return npo(FORGET, beta=0.5), nll(RETAIN) + 0.5 * kl(RETAIN)
        if self.terms == "depth":  # the second gradient is of the first block alone
            return npo(FORGET, beta=0.5), match(RETAIN, layer=0)
        return -nll(FORGET), nll(RETAIN)

    @property
    def objective(self) -> Objective:
        beyond, retain = self.groups
        penalty = Penalty("l1", "all" if self.full else "lora", self.reduction, self.l1)
        whole = retain + beyond  # the order in which terms are written does not matter
        return replace(whole, rule=RULES[self.rule], penalties=(penalty,) if self.l1 else ())

    @property
    def ds_config(self) -> dict[str, Any]:
        # A threshold of 0 makes ZeRO-3 partition even the smallest parameter; otherwise a tiny model proves nothing.
        extra: dict[str, Any] = {"stage3_param_persistence_threshold": 0} if self.stage == 3 else {}
        extra |= {f"offload_{what}": {"device": "cpu"} for what in self.offload}
        out = {"gradient_clipping": CLIP if self.clip else 0.0, "zero_optimization": {"stage": self.stage, **extra}}
        return out | ({"data_types": {"grad_accum_dtype": "fp32"}} if self.fp32_sums else {})


RULES = {"orthogonal": Orthogonal(), "half": Orthogonal(until=0.5), "pcgrad": Conflict()}
Z3_OFFLOAD = ("param", "optimizer")
JOBS = {
    "z0": Job(0),
    "z0_full": Job(0, "pcgrad", full=True, accumulation=2, clip=True),
    "z0_l1": Job(0, accumulation=2, l1=0.002),
    "z1": Job(1, accumulation=2, l1=0.002),
    "z1_full": Job(1, "pcgrad", full=True, clip=True),
    "z2": Job(2, accumulation=2),
    "z2_l1": Job(2, l1=0.002, checkpointing=True),
    "z2_offload": Job(2, "pcgrad", full=True, accumulation=2, clip=True, offload=("optimizer",)),
    "z2_reference": Job(2, accumulation=2, terms="reference"),
    "z2_depth": Job(2, accumulation=2, terms="depth"),
    "z2_depth_offload": Job(2, accumulation=2, terms="depth", offload=("optimizer",)),
    "z3": Job(3),
    "z3_half": Job(3, "half", accumulation=2, evaluated=True),
    "z3_l1": Job(3, accumulation=2, l1=0.002),
    "z3_full": Job(3, "pcgrad", full=True, accumulation=2, clip=True),
    "z3_reference": Job(3, terms="reference", checkpointing=True),
    "z3_depth": Job(3, accumulation=2, terms="depth"),
    "z3_depth_offload": Job(3, accumulation=2, terms="depth", offload=Z3_OFFLOAD),
    "z3_offload": Job(3, "pcgrad", full=True, accumulation=2, clip=True, offload=Z3_OFFLOAD),
    "z3_offload_l1": Job(3, full=True, l1=5.0, reduction="mean", offload=Z3_OFFLOAD),
}
BF16 = {
    "z0_bf16": Job(0, accumulation=2, bf16=True),
    "z1_bf16": Job(1, accumulation=2, bf16=True, fp32_sums=True),  # DeepSpeed's BF16_Optimizer
    "z2_bf16": Job(2, accumulation=2, bf16=True),
    "z2_bf16_sums": Job(2, accumulation=2, bf16=True, fp32_sums=True),
    "z2_bf16_offload": Job(2, accumulation=2, bf16=True, offload=("optimizer",)),
    "z3_bf16": Job(3, accumulation=2, bf16=True),
    "z3_bf16_offload": Job(3, accumulation=2, bf16=True, offload=Z3_OFFLOAD),
}
BROKEN = {"z2_broken": Job(2, accumulation=2, broken=True)}
SICK = {
    "z0_loss": Job(0, sick="loss"),
    "z0_gradient": Job(0, sick="gradient"),
    "z2_loss": Job(2, sick="loss"),
    "z2_gradient": Job(2, sick="gradient"),
    "z3_loss": Job(3, sick="loss"),
}
# One rank runs what it costs little to run twice, and what two would only run slower.
ALONE = ["z0", "z1", "z2", "z2_offload", "z3", "z3_depth", "z3_offload", "z3_bf16_offload"]
PAIR = [name for name in [*JOBS, *BF16, *BROKEN, *SICK] if name not in ("z3", "z3_depth", "z3_bf16_offload")]


def _picture(number: int) -> Picture:
    pixels = torch.randint(0, 256, (48, 48, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    data = buffer.getvalue()
    return Picture(hashlib.sha256(data).hexdigest(), f"people[{number}].image", lambda: data)


def _examples(name: SetName, first: int, last: int) -> list[Example]:
    return [
        Example(
            f"{name}/{i}",
            name,
            "qa",
            "Who is this person?",
            f"This is {'so ' * i}Anna.",
            _picture(i) if i % 2 else None,
        )
        for i in range(first, last)
    ]


POOLS = {FORGET: _examples("forget", 1, 7), RETAIN: _examples("retain", 3, 13)}


def student_of(model_dir: str | Path, job: Job) -> Model:
    """Every trainable weight is moved a little: a fresh adapter is a stationary point of some terms."""
    model = load_model(model_dir, dtype="bf16" if job.bf16 else "fp32", device="cpu")
    if job.full:
        freeze_tower(model.family, model.module)
    else:
        model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.module.parameters():
            if p.requires_grad:
                p.add_((0.02 * torch.randn(p.shape, generator=generator)).to(p.dtype))
    if job.checkpointing:
        enable_checkpointing(model.module)
    model.module.train()
    return model


def stream_of(model: Model, job: Job, rank: int, ranks: int, accumulation: int) -> Stream:
    batch = StreamSettings(BATCH, 0, 1, max_length=64, row_length=64, accumulation=accumulation)
    return Stream(POOLS, model.processor, batch, rank, ranks, needs=job.objective.needs)


def by_hand(model_dir: Path, job: Job) -> tuple[dict[str, Tensor], list[list[float]]]:
    """(trained tensors after the steps, the coefficients of each), from the formulas:

    orthogonal: a - <a, r> / |r|^2 r. pcgrad: where <a, r> < 0, a - <a, r> / |r|^2 r + r - <a, r> / |a|^2 a.
    """
    model = student_of(model_dir, job)
    module = StepModule(model.module, model.family)
    trained = {n: p for n, p in model.module.named_parameters() if p.requires_grad}
    stream = stream_of(model, job, 0, 1, 1)
    weighed = []
    for step in range(STEPS):
        (batch,) = stream.micro_batches(step)
        totals, flat = stream.totals(step), []
        for group in job.groups:
            loss, _ = loss_of(group, module(batch, group.needs), batch, totals, 0.0)
            grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            filled = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, trained.values(), strict=True)]
            flat.append(torch.cat([g.flatten() for g in filled]).double())
        a, r = flat
        product = float(a @ r)
        if job.rule == "half" and step / STEPS >= 0.5:
            weights = [0.0, 1.0]
        elif job.rule in ("orthogonal", "half"):
            weights = [1.0, -product / float(r @ r)]
        else:
            conflict = min(product, 0.0)
            weights = [1.0 - conflict / float(a @ a), 1.0 - conflict / float(r @ r)]
        weighed.append(weights)
        update = weights[0] * a + weights[1] * r
        if job.l1:
            signs = torch.cat([p.detach().sign().flatten() for p in trained.values()]).double()
            update += job.l1 * signs / (len(signs) if job.reduction == "mean" else 1)
        if job.clip:
            update *= min(1.0, CLIP / (float(update.norm()) + 1e-6))
        with torch.no_grad():
            start = 0
            for p in trained.values():
                p.sub_(LR * update[start : start + p.numel()].view(p.shape).to(p.dtype))
                start += p.numel()
    return {n: p.detach().clone() for n, p in trained.items()}, weighed


class _Blast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0] * math.inf


def sickening(what: str, rank: int) -> Objective:
    """-nll(FORGET), which on rank 1 falls ill in the second step."""
    calls = 0

    def value(stats: TokenStats) -> Tensor:
        nonlocal calls
        calls += 1
        out: Any = stats.global_mean(stats.per_example(stats["logp"]))
        if rank != 1 or calls < 2:
            return out
        return out * math.nan if what == "loss" else _Blast.apply(out)

    return Objective((Weighted(Term("sick(FORGET)", (FORGET,), frozenset({"logp"}), value)),))


def weights(module: StepModule) -> dict[str, Tensor]:
    """Whole trained parameters; a collective under ZeRO-3."""
    named = [(n, p) for n, p in module.student.named_parameters() if p.requires_grad]
    with whole_parameters([p for _, p in named]):
        return {n: p.detach().clone() for n, p in named}


def one(model_dir: str, name: str, job: Job, out: Path, world: World) -> None:
    model = student_of(model_dir, job)
    module = StepModule(model.module, model.family)
    stream = stream_of(model, job, world.rank, world.size, job.accumulation)
    settings = TrainSettings(
        run_dir=out / name,
        total_steps=STEPS,
        lr=LR,
        weight_decay=0.0,
        warmup=0.0,
        schedule="constant",
        bf16=job.bf16,
        global_batch=BATCH[FORGET],
        accumulation=job.accumulation,
        ds_config=job.ds_config,
        ds_source="test",
        eval_every=1 if job.evaluated else 0,
        optimizer="sgd",
    )
    objective, monitor = job.objective, Monitor({"forget": POOLS[FORGET]}, model.processor, 64, 64, world)
    if job.sick:
        objective = replace(nll(RETAIN) + sickening(job.sick, world.rank), rule=objective.rule)
        seen: list[dict[str, Tensor]] = []
        try:
            train(module, objective, stream, settings, world, on_step=lambda step, line: seen.append(weights(module)))
        except FloatingPointError as error:
            now = weights(module)
            assert len(seen) == 1 and all(torch.equal(now[n], seen[0][n]) for n in now), f"{name}: a step was taken"
            (out / f"{name}.{world.rank}.txt").write_text(str(error))
            barrier(world)
            return
        raise AssertionError(f"{name}: rank {world.rank} went on")
    summed: Any = GradientShards._summed
    if job.broken:
        GradientShards._summed = lambda self, values: values  # pyright: ignore[reportAttributeAccessIssue]
    try:
        trained = train(module, objective, stream, settings, world, on_eval=monitor.measure)
    finally:
        GradientShards._summed = summed
    tensors: Mapping[str, Tensor] = trainable_tensors(trained, world)
    if world.main:
        save_file({n: t.float() for n, t in tensors.items()}, out / f"{name}.safetensors")
    release(trained)
    barrier(world)


def main() -> None:
    world = init_world()
    model_dir, jobs, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    for name in json.loads(jobs.read_text()):
        one(model_dir, name, (JOBS | BF16 | BROKEN | SICK)[name], out, world)
    close_world()


if __name__ == "__main__":
    main()
