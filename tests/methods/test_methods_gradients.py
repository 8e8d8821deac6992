"""Gradients: finite differences of every term, the analytic formula where weights are held constant, stationarity."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from methods_calculator import Said, softmax, without
from methods_cases import CASES
from methods_support import LAYERS, Leaf, World, as_reference, gradients, leaves, make_world, stats_of
from torch import Tensor

from clear_dist.methods import (
    FORGET,
    METHODS,
    RETAIN,
    Objective,
    bounded_nll,
    build,
    ce_u,
    cosine,
    kl,
    l2,
    match,
    nll,
    npo,
    satimp,
    similarity,
    simnpo,
    vocabulary_npo,
    wga,
)

CONSTANT_WEIGHTS = ("wga", "satimp", "ce_u")  # part of these is held constant: no function has their gradient
DIFFERENTIABLE = [name for name in CASES if not name.startswith(CONSTANT_WEIGHTS)]


def small_world() -> World:
    """Two examples a view, of at most two tokens: finite differences go through every number."""
    out: World = {}
    for view, examples in make_world(3).items():
        out[view] = [shortened(said, 1 + n) for n, said in enumerate(examples[:2])]
    return out


def shortened(said: Said, length: int) -> Said:
    length = min(length, len(said.answer))
    rows = 2 + length
    return Said(
        said.student[:length],
        said.reference[:length],
        said.answer[:length],
        said.whole_student[:rows],
        said.whole_reference[:rows],
        said.image[:rows],
        {layer: said.states[layer][:rows] for layer in LAYERS},
        {layer: said.states_reference[layer][:rows] for layer in LAYERS},
    )


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_finite_differences(name: str) -> None:
    objective, _ = CASES[name]
    world = small_world()
    views = objective.needs.views
    student = leaves(world, views)
    flat = [x for view in views for x in student[view].tensors()]

    def loss(*given: Tensor) -> Tensor:
        rest = iter(given)
        moved = {view: Leaf(next(rest), next(rest), {layer: next(rest) for layer in LAYERS}) for view in views}
        return objective(stats_of(world, objective, moved))[0]

    assert torch.autograd.gradcheck(loss, flat)
    assert any(x.abs().max() > 1e-3 for found in gradients(objective, world).values() for x in found)


def by_token(world: World, formula: Callable[[list[float], int, int], list[float]]) -> Tensor:
    """[T, V]: formula(p, y, place in the answer) over |y| N."""
    rows = []
    for said in world[FORGET]:
        for t, (logits, y) in enumerate(zip(said.student, said.answer, strict=True)):
            rows.append([x / len(said.answer) / len(world[FORGET]) for x in formula(softmax(logits), y, t)])
    return torch.tensor(rows, dtype=torch.float64)


def ascent(p: list[float], y: int) -> list[float]:
    """d log p(y) / dz = e_y - p."""
    return [(v == y) - x for v, x in enumerate(p)]


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_wga_holds_its_weights(alpha: float) -> None:
    """w (e_y - p) with w = p(y)^alpha."""
    world = make_world()
    expected = by_token(world, lambda p, y, _: [p[y] ** alpha * g for g in ascent(p, y)])
    torch.testing.assert_close(gradients(wga(FORGET, alpha=alpha), world)[FORGET][0], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("beta1", "beta2"), [(5.0, 1.0), (0.0, 2.0), (1.0, 0.0)])
def test_satimp_holds_its_weights(beta1: float, beta2: float) -> None:
    """w (e_y - p) with w = p(y)^beta1 (1 - p(y))^beta2."""
    world = make_world()
    expected = by_token(world, lambda p, y, _: [p[y] ** beta1 * (1 - p[y]) ** beta2 * g for g in ascent(p, y)])
    found = gradients(satimp(FORGET, beta1=beta1, beta2=beta2), world)[FORGET][0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_ce_u_pulls_to_its_own_prediction_without_the_true_token() -> None:
    """p - q, q held constant; nothing at the skipped first token, the mean over the others."""
    world = make_world()

    def formula(p: list[float], y: int, place: int) -> list[float]:
        return [x - t for x, t in zip(p, without(p, y), strict=True)]

    everything = by_token(world, formula)
    found = gradients(ce_u(FORGET, skip=0), world)[FORGET][0]
    torch.testing.assert_close(found, everything, rtol=1e-10, atol=1e-14)

    lengths = [len(said.answer) for said in world[FORGET]]
    later = by_token(world, lambda p, y, place: formula(p, y, place) if place else [0.0] * len(p))
    scale = torch.cat([torch.full((n, 1), n / max(n - 1, 1), dtype=torch.float64) for n in lengths])
    found = gradients(ce_u(FORGET), world)[FORGET][0]
    torch.testing.assert_close(found, later * scale, rtol=1e-10, atol=1e-14)


def test_npo_tends_to_gradient_ascent() -> None:
    """beta -> 0: the gradient of npo becomes that of the answer's log-probability (arXiv 2404.05868)."""
    world = make_world()
    found = gradients(npo(FORGET, beta=1e-6), world)[FORGET][0]
    expected = by_token(world, lambda p, y, _: ascent(p, y))
    lengths = torch.cat([torch.full((len(s.answer), 1), float(len(s.answer))) for s in world[FORGET]])
    torch.testing.assert_close(found, expected * lengths, rtol=1e-4, atol=1e-8)


def test_bounded_ascent_lets_go_beyond_the_ceiling() -> None:
    world = make_world()
    found = gradients(-bounded_nll(FORGET, ceiling=1.5), world)[FORGET][0]
    free = gradients(-nll(FORGET), world)[FORGET][0]
    nlls = torch.tensor(
        [-torch.tensor(z).log_softmax(0)[y] for s in world[FORGET] for z, y in zip(s.student, s.answer, strict=True)]
    )
    assert 0 < (nlls > 1.5).sum() < len(nlls)
    assert torch.equal(found[nlls > 1.5], torch.zeros_like(found[nlls > 1.5]))
    assert torch.equal(found[nlls <= 1.5], free[nlls <= 1.5])


# Terms whose gradient vanishes where the student still is the reference, and some whose does not.
STILL = [kl(RETAIN), kl(FORGET, direction="forward"), kl(RETAIN, tokens="sequence"), match(RETAIN), l2(RETAIN)]
STILL += [cosine(RETAIN), similarity(FORGET)]
MOVING = [nll(FORGET), npo(FORGET), simnpo(FORGET), vocabulary_npo(FORGET), wga(FORGET), ce_u(FORGET, skip=0)]


def largest(objective: Objective) -> float:
    found = gradients(objective, as_reference(make_world()))
    return max(x.abs().max().item() for tensors in found.values() for x in tensors)


@pytest.mark.parametrize("objective", STILL, ids=str)
def test_terms_that_start_at_rest(objective: Objective) -> None:
    assert largest(objective) < 1e-12


@pytest.mark.parametrize("objective", MOVING, ids=str)
def test_terms_that_push_from_the_start(objective: Objective) -> None:
    assert largest(objective) > 1e-3


def test_methods_that_start_at_rest() -> None:
    """Of these the first step does nothing, unless something breaks the symmetry. (In these worlds the reference of
    GUIDE and AUGMENTED reads what the student reads, so twins rests as well; in training it does not.)"""
    at_rest = {name for name in METHODS if largest(build(name)) < 1e-12}
    assert at_rest == {"scrub_bio", "twins"}


def test_npo_at_the_reference_is_gradient_ascent_of_the_sum() -> None:
    """At ratio 1 its slope is sigmoid(0) x 2 = 1 whatever beta is."""
    world = as_reference(make_world())
    lengths = torch.cat([torch.full((len(s.answer), 1), float(len(s.answer))) for s in world[FORGET]])
    expected = by_token(world, lambda p, y, _: ascent(p, y)) * lengths
    for beta in (0.1, 1.0, 5.0):
        torch.testing.assert_close(gradients(npo(FORGET, beta=beta), world)[FORGET][0], expected, rtol=1e-9, atol=1e-12)
