"""Terms in the precision of training: single precision is close to the equations, and stays finite far out."""

from __future__ import annotations

import pytest
import torch
from methods_cases import CASES
from methods_support import LENGTHS, World, leaves, make_world, stats_of

from clear_dist.methods import FORGET, undial


def scaled(world: World, factor: float) -> World:
    """Logits and states ``factor`` times as far apart."""
    for examples in world.values():
        for said in examples:
            for table in (said.student, said.reference, said.whole_student, said.whole_reference):
                table[:] = [[factor * z for z in row] for row in table]
    return world


@pytest.mark.parametrize("name", CASES)
def test_single_precision_is_close_to_the_equation(name: str) -> None:
    objective, equation = CASES[name]
    world = make_world(4)
    loss, _ = objective(stats_of(world, objective, impl_dtype=torch.float32))
    assert loss.item() == pytest.approx(equation(world), rel=2e-5, abs=1e-6)


@pytest.mark.parametrize("factor", [30.0, 300.0])
@pytest.mark.parametrize("name", CASES)
def test_certain_models_give_finite_losses_and_gradients(name: str, factor: float) -> None:
    """Probabilities next to 0 and to 1, where a naive 1 - p or p / q is 0, infinite or not a number."""
    objective = CASES[name][0]
    world = scaled(make_world(6), factor)
    student = leaves(world, objective.needs.views)
    loss, _ = objective(stats_of(world, objective, student, impl_dtype=torch.float32))
    flat = [x for leaf in student.values() for x in leaf.tensors()]
    found = torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True)
    assert torch.isfinite(loss) and all(torch.isfinite(x).all() for x in found)


@pytest.mark.parametrize("strength", [10.0, 30.0, 100.0])
def test_undial_beside_a_memorised_answer(strength: float) -> None:
    """The reference is certain of the answer (1 - q(y) about 1e-6): single precision keeps its digits."""
    world = make_world(8)
    for said in world[FORGET]:
        for row, y in zip(said.reference, said.answer, strict=True):
            row[y] += 17.0
    objective = undial(FORGET, strength=strength)
    losses, found = [], []
    for dtype in (torch.float32, torch.float64):
        student = leaves(world, [FORGET])
        loss, _ = objective(stats_of(world, objective, student, impl_dtype=dtype))
        losses.append(float(loss.detach()))
        found += torch.autograd.grad(loss, student[FORGET].final)
    assert found[0].shape[0] == sum(LENGTHS[FORGET])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert (found[0] - found[1]).norm() < 1e-4 * found[1].norm()
