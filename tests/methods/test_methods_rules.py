"""Schedules and update rules, by hand."""

from __future__ import annotations

import math

import methods_calculator as by_hand
import pytest
import torch
from methods_support import gradients, make_world, stats_of, value
from torch import Tensor

from clear_dist.methods import (
    FORGET,
    RETAIN,
    After,
    Alternate,
    Conflict,
    Objective,
    Orthogonal,
    Until,
    build,
    dpo,
    kl,
    l1,
    nll,
    simnpo,
)
from clear_dist.methods.rules import Sum
from clear_dist.types import TokenStats

LAST = 1 - 1e-8  # the last of a hundred million steps


def gram(a: list[float], r: list[float]) -> Tensor:
    g = torch.tensor([a, r], dtype=torch.float64)
    return g @ g.T


def combined(rule: Orthogonal | Conflict, a: list[float], r: list[float], progress: float = 0.0) -> list[float]:
    c = rule.coefficients(gram(a, r), progress)
    assert c.dtype == torch.float64 and c.shape == (2,)
    return (c @ torch.tensor([a, r], dtype=torch.float64)).tolist()


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        (Until(0.7), 0.0, 1),
        (Until(0.7), 0.6999, 1),
        (Until(0.7), 0.7, 0),
        (Until(0.0), 0.0, 0),
        (Until(1.0), LAST, 1),
        (After(0.7), 0.0, 0),
        (After(0.7), 0.7, 1),
        (After(0.0), 0.0, 1),
        (After(1.0), LAST, 0),
        (Alternate(1), 0.0, 1),
        (Alternate(1), 0.49, 1),
        (Alternate(1), 0.5, 0),
        (Alternate(1, 1), 0.5, 1),
        (Alternate(2), 0.3, 0),
        (Alternate(2), 0.5, 1),
        (Alternate(2, 1), LAST, 1),
    ],
)
def test_schedules(schedule: Until | After | Alternate, progress: float, expected: float) -> None:
    assert schedule.at(progress) == expected


@pytest.mark.parametrize("rounds", [1, 2, 3, 7, 11, 23])
def test_turns_are_equally_long_and_exclude_each_other(rounds: int) -> None:
    """Of 2 x rounds x 10 steps each turn has half, in blocks of ten, whatever the rounding of step / steps."""
    steps = 2 * rounds * 10
    first = [Alternate(rounds, 0).at(step / steps) for step in range(steps)]
    second = [Alternate(rounds, 1).at(step / steps) for step in range(steps)]
    assert first == ([1.0] * 10 + [0.0] * 10) * rounds
    assert second == [1.0 - x for x in first]


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan, math.inf])
def test_fractions_lie_in_training(wrong: float) -> None:
    for kind in (Until, After, Orthogonal):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            kind(wrong)


@pytest.mark.parametrize(("rounds", "turn"), [(0, 0), (-1, 0), (2, 2), (10**30, 0)])
def test_rounds_are_counted(rounds: int, turn: int) -> None:
    with pytest.raises(ValueError, match="alternate"):
        Alternate(rounds, turn)


def test_scrub_moves_away_and_stays_in_turns() -> None:
    world = make_world()
    away = by_hand.kl_forward(world[FORGET])
    stay = by_hand.kl_forward(world[RETAIN]) + by_hand.nll(world[RETAIN])
    taking_turns = build("scrub", {"alternate": 2})
    assert [value(taking_turns, world, p) for p in (0.0, 0.25, 0.5, 0.75)] == pytest.approx([-away, stay, -away, stay])
    stopping = build("scrub", {"forget_until": 0.4, "forget_weight": 2})
    assert [value(stopping, world, p) for p in (0.0, 0.39, 0.4)] == pytest.approx(
        [stay - 2 * away, stay - 2 * away, stay]
    )
    with pytest.raises(ValueError, match="give one of them"):
        build("scrub", {"alternate": 2, "forget_until": 0.4})


def test_a_term_switched_off_is_reported_and_stays_connected() -> None:
    world = make_world()
    objective = nll(RETAIN) - Until(0.5) * nll(FORGET)
    found = gradients(objective, world, 0.6)
    assert found[FORGET][0].abs().max() == 0 < found[RETAIN][0].abs().max()
    _, parts = objective(stats_of(world, objective), 0.6)
    assert parts["nll(FORGET)"].item() == pytest.approx(by_hand.nll(world[FORGET]))


def test_a_term_switched_off_cannot_poison_the_loss() -> None:
    """0 x inf is not 0: an answer of probability 0 under a weight of 0."""
    world = make_world()
    logp = torch.tensor([-math.inf, -1.0], dtype=torch.float64, requires_grad=True)
    stats = TokenStats(torch.tensor([0, 1]), 2, 2, 2, {"logp": logp})
    for gone in (0.0 * nll(FORGET), After(0.5) * nll(FORGET), 0.0 * simnpo(FORGET)):
        objective = nll(RETAIN) + gone
        loss, _ = objective({**stats_of(world, nll(RETAIN)), FORGET: stats})
        assert loss.item() == pytest.approx(by_hand.nll(world[RETAIN]))
        (gradient,) = torch.autograd.grad(loss, logp)
        assert gradient.tolist() == [0.0, 0.0]


def test_orthogonal_removes_the_part_along_retain() -> None:
    """a = (3, 4), r = (2, 0): a - (6 / 4) r = (0, 4), and nothing changes with r's length or sign."""
    for r in ([2.0, 0.0], [0.5, 0.0], [-7.0, 0.0]):
        assert combined(Orthogonal(), [3.0, 4.0], r) == pytest.approx([0.0, 4.0])
    assert Orthogonal().coefficients(gram([3.0, 4.0], [2.0, 0.0]), 0.0).tolist() == [1.0, -1.5]


def test_orthogonal_then_descends_on_retain_alone() -> None:
    assert combined(Orthogonal(0.8), [3.0, 4.0], [2.0, 1.0], 0.8) == [2.0, 1.0]
    assert combined(Orthogonal(0.8), [3.0, 4.0], [2.0, 0.0], 0.79) == pytest.approx([0.0, 4.0])
    assert combined(Orthogonal(0.0), [3.0, 4.0], [2.0, 1.0], 0.0) == [2.0, 1.0]


def test_pcgrad_where_gradients_contradict_each_other() -> None:
    """a = (1, 0), r = (-1, 1): a' = a + r / 2 = (1/2, 1/2), r' = r + a = (0, 1); their sum is (1/2, 3/2)."""
    assert combined(Conflict(), [1.0, 0.0], [-1.0, 1.0]) == pytest.approx([0.5, 1.5])
    assert Conflict().coefficients(gram([1.0, 0.0], [-1.0, 1.0]), 0.5).tolist() == [2.0, 1.5]


def test_pcgrad_leaves_agreeing_gradients_alone() -> None:
    assert combined(Conflict(), [1.0, 2.0], [3.0, 1.0]) == [4.0, 3.0]
    assert combined(Conflict(), [1.0, 0.0], [0.0, 1.0]) == [1.0, 1.0]


@pytest.mark.parametrize("rule", [Orthogonal(), Conflict()], ids=str)
def test_no_gradient_to_project_on(rule: Orthogonal | Conflict) -> None:
    """|r| = 0: the forget gradient as it is; |a| = 0: the retain gradient at most; no NaN."""
    assert combined(rule, [3.0, 4.0], [0.0, 0.0]) == [3.0, 4.0]
    alone = combined(rule, [0.0, 0.0], [1.0, 2.0])
    assert alone == ([1.0, 2.0] if isinstance(rule, Conflict) else [0.0, 0.0])
    assert combined(rule, [0.0, 0.0], [0.0, 0.0]) == [0.0, 0.0]


def test_orthogonal_and_pcgrad_in_many_dimensions() -> None:
    g = torch.Generator().manual_seed(0)
    a, r = (torch.randn(50, generator=g, dtype=torch.float64).tolist() for _ in range(2))
    if sum(x * y for x, y in zip(a, r, strict=True)) > 0:
        r = [-x for x in r]
    assert abs(sum(x * y for x, y in zip(combined(Orthogonal(), a, r), r, strict=True))) < 1e-12
    resolved = combined(Conflict(), a, r)  # contradicts neither of them
    assert all(sum(x * y for x, y in zip(resolved, other, strict=True)) > 0 for other in (a, r))


def test_sum_is_the_default_and_one_gradient() -> None:
    objective = nll(RETAIN) - nll(FORGET)
    assert objective.rule == Sum()
    assert objective.rule.groups(objective) == [objective]
    assert objective.rule.coefficients(torch.ones(1, 1, dtype=torch.float64), 0.5).tolist() == [1.0]


@pytest.mark.parametrize("rule", [Orthogonal(), Conflict()], ids=str)
def test_groups_are_retain_and_the_rest(rule: Orthogonal | Conflict) -> None:
    """A pair that holds RETAIN is not a retain term; penalties belong to no group."""
    objective = 2 * nll(RETAIN) - nll(FORGET) + kl(RETAIN) + dpo(RETAIN, FORGET) + l1("lora")
    beyond, retain = rule.groups(objective)
    assert str(beyond) == "-nll(FORGET) + dpo(RETAIN, FORGET, beta=0.1)"
    assert str(retain) == "2*nll(RETAIN) + kl(RETAIN)"
    assert beyond.penalties == retain.penalties == ()


@pytest.mark.parametrize("rule", [Orthogonal(), Conflict()], ids=str)
@pytest.mark.parametrize("objective", [nll(RETAIN), nll(FORGET), l1("lora"), Objective()], ids=["r", "f", "l1", "0"])
def test_rules_around_nothing_to_weigh(rule: Orthogonal | Conflict, objective: Objective) -> None:
    with pytest.raises(ValueError, match="a term on RETAIN and one that is not"):
        objective.ruled(rule)


def test_one_rule_at_a_time() -> None:
    objective = (nll(RETAIN) - nll(FORGET)).ruled(Orthogonal())
    with pytest.raises(ValueError, match="keep one"):
        objective.ruled(Conflict())
    with pytest.raises(ValueError, match="keep one"):
        _ = objective + (nll(RETAIN) - nll(FORGET)).ruled(Conflict())
    assert (objective + kl(RETAIN)).rule == (kl(RETAIN) + objective).rule == Orthogonal()
