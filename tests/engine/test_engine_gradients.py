"""Gradients of groups on one rank: coefficients by hand, what is taken and put at every stage, groups that vanish."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_support import metrics, run, stir
from torch import Tensor

import clear_dist.engine.gradients as gradients_module
from clear_dist.engine.export import release, trainable_tensors
from clear_dist.engine.gradients import GradientShards
from clear_dist.engine.step import StepModule
from clear_dist.engine.world import World
from clear_dist.methods import FORGET, RETAIN, Conflict, Objective, Orthogonal, Penalty, nll
from clear_dist.models import Model, add_lora, load_model
from clear_dist.types import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*(all_gather_into_tensor|reduce_scatter_tensor):FutureWarning")
CPU = {"device": "cpu"}
PLACES: dict[str, dict[str, Any]] = {
    "0": {"stage": 0},
    "1": {"stage": 1},
    "2": {"stage": 2},
    "2 offload": {"stage": 2, "offload_optimizer": CPU},
    "3": {"stage": 3},
    "3 offload": {"stage": 3, "offload_optimizer": CPU, "offload_param": CPU},
}
ORTHOGONAL = replace(nll(RETAIN) - nll(FORGET), rule=Orthogonal())


def gram(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "inner", "progress", "wanted"),
    [
        # a = (3, 4), r = (0, 2): a - (8/4) r = (3, 0)
        (Orthogonal(), gram([25.0, 8.0], [8.0, 4.0]), 0.0, [1.0, -2.0]),
        (Orthogonal(), gram([25.0, -8.0], [-8.0, 4.0]), 0.79, [1.0, 2.0]),
        (Orthogonal(), gram([25.0, 8.0], [8.0, 4.0]), 0.8, [0.0, 1.0]),
        (Orthogonal(until=0.0), gram([25.0, 8.0], [8.0, 4.0]), 0.0, [0.0, 1.0]),
        (Orthogonal(until=1.0), gram([25.0, 8.0], [8.0, 4.0]), 0.99, [1.0, -2.0]),
        (Orthogonal(), gram([25.0, 0.0], [0.0, 0.0]), 0.0, [1.0, 0.0]),  # no retain gradient: nothing to spare
        (Orthogonal(), gram([0.0, 0.0], [0.0, 4.0]), 0.0, [1.0, 0.0]),
        # a = (3, 4), r = (0, 2), which agree; then r = (0, -2): a - (-8/4) r = (3, 0), r - (-8/25) a = (0.96, -0.72)
        (Conflict(), gram([25.0, 8.0], [8.0, 4.0]), 0.0, [1.0, 1.0]),
        (Conflict(), gram([25.0, -8.0], [-8.0, 4.0]), 0.9, [1.32, 3.0]),
        (Conflict(), gram([25.0, 0.0], [0.0, 0.0]), 0.0, [1.0, 1.0]),
        (Conflict(), gram([0.0, 0.0], [0.0, 4.0]), 0.0, [1.0, 1.0]),
    ],
)
def test_coefficients_by_hand(rule: Any, inner: Tensor, progress: float, wanted: list[float]) -> None:
    found = rule.coefficients(inner, progress)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(wanted, abs=1e-15)


def test_the_projection_is_orthogonal_however_the_two_are_scaled() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (1e-20, 1.0, 1e20):
        a, r = (torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(2))
        r = size * r
        inner = torch.stack([torch.stack([a @ a, a @ r]), torch.stack([a @ r, r @ r])])
        left = torch.stack([a, r]).T @ Orthogonal().coefficients(inner, 0.0)
        assert abs(float(left @ r)) < 1e-12 * float(a.norm() * r.norm())
        assert 0.5 < float(left.norm() / a.norm()) <= 1.0


def test_inner_products_are_taken_in_float64_whatever_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, too: 2^24 + 1 has no fp32."""
    monkeypatch.setattr(gradients_module, "_CHUNK", 3)
    a = [torch.tensor([4096.0, 1.0, 2.0, 3.0]), torch.tensor([5.0])]
    b = [torch.tensor([4096.0, 1.0, 1.0, -1.0]), torch.tensor([0.0])]
    assert float(GradientShards.dot(a, b)) == 2.0**24 + 1 + 2 - 3
    assert float(GradientShards.dot([x.bfloat16() for x in a], [x.bfloat16() for x in b])) == 2.0**24
    assert float(GradientShards.dot([], [])) == 0.0
    combined = GradientShards.combine([a, b], torch.tensor([2.0, -1.0], dtype=torch.float64))
    assert [x.tolist() for x in combined] == [[4096.0, 1.0, 3.0, 7.0], [10.0]]
    assert a[0].tolist() == [4096.0, 1.0, 2.0, 3.0]
    mixed = GradientShards.combine([[x.bfloat16() for x in a], b], torch.tensor([1.0, 1.0]))
    assert mixed[0].dtype == torch.float32


def fresh(base_dir: Path) -> Model:
    model = load_model(base_dir, dtype="fp32", device="cpu")
    model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    stir(model.module, 0.02)
    return model


def ds(place: dict[str, Any]) -> dict[str, Any]:
    extra = {"stage3_param_persistence_threshold": 0} if place["stage"] == 3 else {}
    return {"ds_config": {"gradient_clipping": 0.0, "zero_optimization": place | extra}}


def weights(model: Model) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_put_is_what_is_stepped_on(
    base_dir: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Two gradients are taken, of every element of every trained weight; what is put moves it, whatever was held."""
    model = fresh(base_dir)
    before = weights(model)
    taken: list[list[Tensor]] = []
    take, combine = GradientShards.take, GradientShards.combine

    def spy(self: GradientShards) -> list[Tensor]:
        taken.append(take(self))
        return taken[-1]

    def ones(gradients: Any, coefficients: Tensor) -> list[Tensor]:
        return [torch.ones_like(x) for x in combine(gradients, coefficients)]

    monkeypatch.setattr(GradientShards, "take", spy)
    monkeypatch.setattr(GradientShards, "combine", staticmethod(ones))
    trained = run(
        StepModule(model.module, model.family), model, ORTHOGONAL, world, tmp_path, steps=1, optimizer="sgd", lr=0.25,
        accumulation=2, **ds(PLACES[place]),
    )  # fmt: skip
    state = trainable_tensors(trained, world)
    with pytest.raises(AssertionError, match="last micro-batch"):  # the next window has begun
        GradientShards(trained.engine).take()
    release(trained)
    size = sum(p.numel() for p in before.values())
    assert [sum(x.numel() for x in shards) for shards in taken] == [size, size]
    assert state.keys() == before.keys()
    assert all(torch.equal(state[n], before[n] - 0.25) for n in before)
    (line,) = metrics(tmp_path)
    assert line["grad_norm"] == pytest.approx(math.sqrt(size), rel=1e-6)


def test_offloading_to_files_is_refused() -> None:
    class DeepSpeedZeroOptimizer_Stage3:
        offload_optimizer, swap_optimizer = True, True

    engine = SimpleNamespace(optimizer=DeepSpeedZeroOptimizer_Stage3(), zero_optimization_stage=lambda: 3)
    with pytest.raises(UserError, match=r"offload_optimizer\.device is nvme.*\"cpu\".*gd"):
        GradientShards(engine)
    engine.zero_optimization_stage = lambda: 2
    with pytest.raises(AssertionError, match="stage 2: expected DeepSpeedZeroOptimizer, DeepSpeed made"):
        GradientShards(engine)


def test_one_gradient_is_never_copied(
    base_dir: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("a sum has one gradient")

    for name in ("take", "combine", "put", "clear"):
        monkeypatch.setattr(GradientShards, name, never)
    model = fresh(base_dir)
    run(StepModule(model.module, model.family), model, nll(RETAIN) - nll(FORGET), world, tmp_path, steps=1)
    assert "coefficients" not in metrics(tmp_path)[0]


@pytest.mark.parametrize("stage", [0, 3])
def test_no_retain_gradient_leaves_plain_ascent(base_dir: Path, world: World, tmp_path: Path, stage: int) -> None:
    """|r| = 0: the step is that of the forget terms alone, and no division by 0 reaches a weight."""
    states = []
    vanishing = replace(0.0 * nll(RETAIN) - nll(FORGET), rule=Orthogonal())
    for name, objective in (("rule", vanishing), ("plain", -nll(FORGET))):
        model = fresh(base_dir)
        module = StepModule(model.module, model.family)
        trained = run(module, model, objective, world, tmp_path / name, steps=2, stage=stage, optimizer="sgd")
        states.append(trainable_tensors(trained, world))
        release(trained)
    assert all(list(line["coefficients"].values()) == [1.0, 0.0] for line in metrics(tmp_path / "rule"))
    assert all(torch.allclose(states[0][n], states[1][n], rtol=0, atol=1e-7) for n in states[0])


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_penalties_are_counted_and_scaled_as_without_a_rule(
    base_dir: Path, world: World, tmp_path: Path, stage: int
) -> None:
    """A rule whose coefficients are 1 and 1 takes the same steps as the plain sum, penalty and all."""

    class Both(Conflict):
        def coefficients(self, gram: Tensor, progress: float) -> Tensor:
            return torch.ones(2, dtype=torch.float64)

    plain: Objective = replace(nll(RETAIN) - nll(FORGET), penalties=(Penalty("l1", "lora", "mean", 40.0),))
    found = []
    for name, objective in (("sum", plain), ("rule", replace(plain, rule=Both()))):
        model = fresh(base_dir)
        module = StepModule(model.module, model.family)
        trained = run(
            module, model, objective, world, tmp_path / name, steps=2, stage=stage, accumulation=2, weight_decay=0.1
        )
        lines = metrics(tmp_path / name)
        found.append(
            ([x for line in lines for x in (line["loss"], line["grad_norm"])], trainable_tensors(trained, world))
        )
        assert all(set(line["parts"]) == {"nll(RETAIN)", "nll(FORGET)", "l1(LORA, reduction=mean)"} for line in lines)
        release(trained)
    (plain_numbers, plain_state), (numbers, state) = found
    assert numbers == pytest.approx(plain_numbers, rel=1e-5)
    assert all(torch.allclose(state[n], plain_state[n], rtol=0, atol=2e-6) for n in state)


@pytest.mark.parametrize("place", ["2", "3 offload"])
def test_resuming_continues_bit_for_bit(base_dir: Path, world: World, tmp_path: Path, place: str) -> None:
    def part(name: str, **changed: Any) -> dict[str, Tensor]:
        model = fresh(base_dir)
        module = StepModule(model.module, model.family)
        common = {"steps": 2, "checkpoint_every": 1, "accumulation": 2}
        trained = run(module, model, ORTHOGONAL, world, tmp_path / name, **common, **ds(PLACES[place]), **changed)
        state = trainable_tensors(trained, world)
        release(trained)
        return state

    wanted = part("whole")
    part("cut", stop_after=1)
    state = part("cut", resume=True)
    assert all(torch.equal(state[n], wanted[n]) for n in wanted)
    kept = ("step", "loss", "coefficients", "grad_norm")
    lines, whole = ([{k: line[k] for k in kept} for line in metrics(tmp_path / name)] for name in ("cut", "whole"))
    assert lines == whole
