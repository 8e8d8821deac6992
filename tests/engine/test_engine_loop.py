"""The loop on one rank: what it writes, that stages and accumulation agree, resuming, and losses that are no number."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_support import FORGET, MAX_LENGTH, RETAIN, alone, fresh, metrics, packed, run, sick, step_module, stir
from torch import Tensor

from clear_dist.engine.export import all_tensors, release, trainable_tensors
from clear_dist.engine.loop import whole_parameters
from clear_dist.engine.monitor import Monitor
from clear_dist.engine.optimizer import L1Norm, make_optimizer
from clear_dist.engine.world import World
from clear_dist.methods import FORGET as F
from clear_dist.methods import RETAIN as R
from clear_dist.methods import Conflict, Objective, Penalty, Term, Weighted, l1, nll, npo
from clear_dist.models import Model, add_lora, enable_checkpointing
from clear_dist.types import TokenStats

OBJECTIVE = npo(F, beta=0.5) + nll(R)
# DeepSpeed's ZeRO-3 calls collectives that torch has renamed; outside of tests ``import_deepspeed`` keeps it quiet.
pytestmark = pytest.mark.filterwarnings("ignore:.*(all_gather_into_tensor|reduce_scatter_tensor):FutureWarning")


@pytest.fixture
def student(base: Model) -> Model:
    base.module = add_lora(base.module, 4, 8.0, base.family, seed=1)
    stir(base.module, 0.02)
    return base


def test_a_line_a_step(student: Model, world: World, tmp_path: Path) -> None:
    seen: list[int] = []
    trained = run(
        step_module(student),
        student,
        OBJECTIVE,
        world,
        tmp_path,
        schedule="linear",
        on_step=lambda step, line: seen.append(step),
    )
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == seen == [1, 2, 3, 4]
    assert [line["lr"] for line in lines] == pytest.approx([1e-3 * f for f in (1, 0.75, 0.5, 0.25)])
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line["parts"].values()), rel=1e-5)
        assert set(line["parts"]) == {"npo(FORGET, beta=0.5)", "nll(RETAIN)"}
        assert line["grad_norm"] > 0 and line["real_tokens"] > 0
        assert line["memory_gb"] > 0 and line["seconds"] > 0 and line["tokens_per_s"] > 0
    assert trained.steps == 4
    state = trainable_tensors(trained, world)
    assert state and all("lora_" in name for name in state)
    assert state.keys() < all_tensors(trained, world).keys()
    release(trained)
    assert trained.engine is None


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_stages_and_accumulation_agree(
    base_dir: Path, world: World, tmp_path: Path, stage: int, accumulation: int
) -> None:
    objective = OBJECTIVE + 0.01 * l1("lora")
    results: list[tuple[list[float], dict[str, Tensor]]] = []
    for name, changed in (("plain", {}), ("other", {"stage": stage, "accumulation": accumulation})):
        model = fresh(base_dir)
        trained = run(step_module(model), model, objective, world, tmp_path / name, **changed)
        state = trainable_tensors(trained, world)
        lines = metrics(tmp_path / name)
        results.append(([x for line in lines for x in (line["loss"], line["grad_norm"])], state))
        release(trained)
    (plain, weights), (other, others) = results
    assert other == pytest.approx(plain, rel=1e-4)
    assert max(float((weights[n] - others[n]).abs().max()) for n in weights) < 1e-5


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_l1_is_the_sum_of_magnitudes(student: Model, checkpointing: bool, reduction: Any) -> None:
    """Value and gradient are sum |w| and its sign, also where backward recomputes the forward."""
    if checkpointing:
        enable_checkpointing(student.module)
    module = step_module(student).train()
    norm = L1Norm(module.student, "lora")
    weights = [p for p in module.parameters() if p.requires_grad]
    assert norm.elements == sum(p.numel() for p in weights)
    penalty = Penalty("l1", "lora", reduction)
    share = 1 / norm.elements if reduction == "mean" else 1.0
    batch = packed({"forget": FORGET, "retain": RETAIN}, student.processor)
    values = module(batch, OBJECTIVE.needs)  # nobody listens yet
    for _ in range(2):
        module.zero_grad()
        norm.start()
        values = module(batch, OBJECTIVE.needs)
        loss = 0.0 * torch.cat([x for v in values.values() for x in v.values()]).sum()
        value = norm.value(penalty, loss)
        assert float(value.detach()) == pytest.approx(
            share * float(sum(p.detach().abs().sum() for p in weights)), rel=1e-5
        )
        (loss + value).backward()
        assert all(p.grad is not None and torch.allclose(p.grad, share * p.sign()) for p in weights)


def test_the_penalty_is_reported_and_counts_once(base_dir: Path, world: World, tmp_path: Path) -> None:
    for accumulation in (1, 3):
        model = fresh(base_dir)
        size = sum(float(p.detach().abs().sum()) for p in model.module.parameters() if p.requires_grad)
        run(
            step_module(model),
            model,
            nll(F) + 0.5 * l1("lora"),
            world,
            tmp_path / str(accumulation),
            steps=1,
            accumulation=accumulation,
        )
        (line,) = metrics(tmp_path / str(accumulation))
        assert line["parts"]["l1(LORA)"] == pytest.approx(size, rel=1e-5)
        assert line["loss"] == pytest.approx(line["parts"]["nll(FORGET)"] + 0.5 * size, rel=1e-5)


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_moves_nothing(
    student: Model, world: World, tmp_path: Path, stage: int, value: float
) -> None:
    before: list[dict[str, Tensor]] = []
    module = step_module(student)

    def remember(step: int, line: object) -> None:
        before.append({n: p.detach().clone() for n, p in student.module.named_parameters() if p.requires_grad})

    with pytest.raises(FloatingPointError, match=r"step 3: loss, sick\(FORGET\) is not finite.*those of step 2.*--lr"):
        run(module, student, sick(3, value), world, tmp_path, stage=stage, on_step=remember, accumulation=1)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]
    assert len(before) == 2
    now = {n: p for n, p in student.module.named_parameters() if p.requires_grad}
    assert all(torch.equal(now[n], before[-1][n]) for n in now)
    assert any(not torch.equal(before[0][n], before[1][n]) for n in now), "no step moved anything"


class _Blast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0] * math.inf


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_gradient_that_is_no_number_stops_the_run(student: Model, world: World, tmp_path: Path, stage: int) -> None:
    def blast(stats: TokenStats) -> Tensor:
        value: Any = _Blast.apply(-stats.global_mean(stats.per_example(stats["logp"])))
        return value

    objective = Objective((Weighted(Term("blast(FORGET)", (F,), frozenset({"logp"}), blast)),))
    before = {n: p.detach().clone() for n, p in student.module.named_parameters() if p.requires_grad}
    with pytest.raises(FloatingPointError, match=r"step 1: the gradient's norm is (nan|inf); the weights are those of"):
        run(step_module(student), student, objective, world, tmp_path, stage=stage)
    assert metrics(tmp_path) == []
    now = {n: p for n, p in student.module.named_parameters() if p.requires_grad}
    with whole_parameters(list(now.values())):
        assert all(torch.equal(now[n], w) for n, w in before.items()), "sharded ones too"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_resuming_continues_bit_for_bit(base_dir: Path, world: World, tmp_path: Path, stage: int) -> None:
    """Every stage, in one process; killed ranks have a test of their own."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    model = fresh(base_dir)
    trained = run(step_module(model), model, OBJECTIVE, world, whole, stage=stage, steps=6, schedule="cosine")
    wanted = trainable_tensors(trained, world)
    release(trained)

    common: dict[str, Any] = {"stage": stage, "schedule": "cosine", "checkpoint_every": 2}
    model = fresh(base_dir)
    release(run(step_module(model), model, OBJECTIVE, world, cut, steps=6, stop_after=4, **common))
    assert sorted(p.name for p in (cut / "checkpoints").iterdir()) == ["step_00000002", "step_00000004"]
    with (cut / "metrics.jsonl").open("a") as file:  # two steps after the checkpoint, the second cut off by a kill
        file.write('{"step": 5, "loss": 9.0, "parts": {}}\n{"step": 6, "lo')

    model = fresh(base_dir)
    trained = run(step_module(model), model, OBJECTIVE, world, cut, steps=6, resume=True, **common)
    state = trainable_tensors(trained, world)
    release(trained)
    lines = metrics(cut)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in lines] == [line["loss"] for line in metrics(whole)]
    assert [line["lr"] for line in lines] == [line["lr"] for line in metrics(whole)]
    assert state.keys() == wanted.keys() and all(torch.equal(state[n], wanted[n]) for n in wanted)


def test_evaluation_lines_lie_between_steps(student: Model, world: World, tmp_path: Path) -> None:
    monitor = Monitor({"forget": FORGET, "retain": RETAIN}, student.processor, 96, MAX_LENGTH, world)
    run(step_module(student), student, OBJECTIVE, world, tmp_path, eval_every=2, on_eval=monitor.measure)
    lines = metrics(tmp_path)
    assert [(line["step"], "eval" in line) for line in lines] == [
        (0, True),
        (1, False),
        (2, False),
        (2, True),
        (3, False),
        (4, False),
        (4, True),
    ]
    now = {n: sum(math.exp(sum(lp := alone(student, e)) / len(lp)) for e in s) / len(s) for n, s in SETS.items()}
    measured = {k: v for k, v in lines[-1]["eval"].items() if k.startswith("probability/")}
    assert measured == pytest.approx({f"probability/{n}": p for n, p in now.items()}, rel=1e-4)


def test_evaluation_before_the_first_step_happens_once(base_dir: Path, world: World, tmp_path: Path) -> None:
    """Step 0 is measured by a run that starts, and kept, not measured again, by one that resumes."""
    asked: list[int] = []

    def count(engine: Any, step: int) -> dict[str, float]:
        asked.append(step)
        return {"asked": float(len(asked))}

    common: dict[str, Any] = {"steps": 4, "checkpoint_every": 2, "eval_every": 2, "on_eval": count}
    for more in ({"stop_after": 2}, {"resume": True}):
        model = fresh(base_dir)
        release(run(step_module(model), model, OBJECTIVE, world, tmp_path, **common, **more))
    assert asked == [0, 2, 4]
    evaluations = [(line["step"], line["eval"]["asked"]) for line in metrics(tmp_path) if "eval" in line]
    assert evaluations == [(0, 1.0), (2, 2.0), (4, 3.0)]
    assert [line["step"] for line in metrics(tmp_path)] == [0, 1, 2, 2, 3, 4, 4]
    assert metrics(tmp_path)[0] == {"step": 0, "eval": {"asked": 1.0}}


def test_plain_sgd_steps_along_the_gradient() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = make_optimizer("sgd", [weight], 0.5, 0.25, torch.device("cpu"))
    for _ in range(2):  # no momentum: the second step knows nothing of the first
        before = weight.detach().clone()
        weight.grad = torch.tensor([3.0, 4.0])
        optimizer.step()
        assert torch.equal(weight.detach(), before - 0.5 * (torch.tensor([3.0, 4.0]) + 0.25 * before))
    assert isinstance(make_optimizer("adamw", [weight], 0.5, 0.25, torch.device("cpu")), torch.optim.AdamW)


SETS = {"forget": FORGET, "retain": RETAIN}


def test_tensorboard_gets_the_same_numbers(student: Model, world: World, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    objective = replace(OBJECTIVE, rule=Conflict())
    run(step_module(student), student, objective, world, tmp_path, tracker="tensorboard", steps=2)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    written = {e.step: e.value for e in events.Scalars("loss")}
    assert written == pytest.approx({line["step"]: line["loss"] for line in metrics(tmp_path)}, rel=1e-5)
    assert {"parts/nll(RETAIN)", "coefficients/nll(RETAIN)"} <= set(events.Tags()["scalars"])
