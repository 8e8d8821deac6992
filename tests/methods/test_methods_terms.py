"""Every term equals its equation: on random tables by an independent calculator, and on a table one can do by hand."""

from __future__ import annotations

import math

import pytest
from methods_calculator import Said
from methods_cases import CASES
from methods_support import D, make_world, value

from clear_dist.methods import (
    FORGET,
    IDK,
    RETAIN,
    Objective,
    bounded_nll,
    ce_u,
    cosine,
    dpo,
    entropy,
    kl,
    l2,
    match,
    nll,
    npo,
    satimp,
    similarity,
    simnpo,
    undial,
    vocabulary_npo,
    wga,
)
from clear_dist.methods.parser import TERMS


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_term_is_its_equation(name: str, seed: int) -> None:
    objective, equation = CASES[name]
    world = make_world(seed)
    assert value(objective, world) == pytest.approx(equation(world), rel=1e-11, abs=1e-12)


def test_no_term_is_left_out() -> None:
    heads = {objective.terms[0].term.name.split("(")[0] for objective, _ in CASES.values()}
    assert heads == set(TERMS) - {"l1"}, "l1 looks at weights, not at answers"


# One token of a vocabulary of three: the student gives it 1/2, the reference 1/8.
P, Q = (0.5, 0.25, 0.25), (0.125, 0.125, 0.75)


def simple(answer: list[int]) -> Said:
    """An example whose every token has the probabilities P and Q; of a fourth and a fifth token next to none."""

    def row(probabilities: tuple[float, ...]) -> list[float]:
        return [*map(math.log, probabilities), -800.0, -800.0]

    count = len(answer)
    return Said(
        student=[row(P)] * count,
        reference=[row(Q)] * count,
        answer=answer,
        whole_student=[row(P)] * count,
        whole_reference=[row(Q)] * count,
        image=[False] * count,
        states={7: [[3.0, 0.0, 4.0]] * count, 1: [[0.0] * D] * count},
        states_reference={7: [[1.0, 1.0, 1.0]] * count, 1: [[0.0] * D] * count},
    )


# Worked on paper, digits written out. Two examples where an answer's length matters: [0] and [0, 0].
GOLDEN: dict[str, tuple[Objective, float]] = {
    "ln 2": (nll(FORGET), 0.693147180560),
    "min(ln 2, 1/2)": (bounded_nll(FORGET, ceiling=0.5), 0.5),
    "1/2 ln 2 + 1/2 ln 4": (entropy(FORGET), 1.039720770840),
    "1/8 ln 1/4 + 1/8 ln 1/2 + 3/4 ln 3": (kl(FORGET, direction="forward"), 0.564029023786),
    "1/2 ln 4 + 1/4 ln 2 + 1/4 ln 1/3": (kl(FORGET), 0.591780903533),
    "ratios 4 and 16: 2 (ln 5 + ln 17) / 2": (npo(FORGET), 4.442651256490),
    "ratios 2 and 4: 4 (ln 3 + ln 5) / 2": (npo(FORGET, beta=0.5), 5.416100402205),
    "2/2.5 ln(1 + 2^-2.5)": (simnpo(FORGET), 0.130223269325),
    "1/15 ln 2 + 14/15 ln 4": (undial(FORGET, strength=0.693147180560), 1.340084549083),
    "1/2 ln 1/2": (wga(FORGET), -0.346573590280),
    "2^-6 ln 1/2": (satimp(FORGET), -0.010830424696),
    "ln 4": (ce_u(FORGET, skip=0), 1.386294361120),
    "0 and ln 4": (ce_u(FORGET, skip=1), 0.693147180560),
    "|(3, 0, 4) - (1, 1, 1)|^2": (match(FORGET), 14.0),
    "14 / 3": (match(FORGET, average=True), 4.666666666667),
}


@pytest.mark.parametrize("worked", GOLDEN)
def test_worked_on_paper(worked: str) -> None:
    objective, expected = GOLDEN[worked]
    assert value(objective, {FORGET: [simple([0]), simple([0, 0])]}) == pytest.approx(expected, rel=1e-11)


def test_pair_worked_on_paper() -> None:
    """IDK says token 1 (ratio 2), FORGET says token 0 (ratio 4): -log sigmoid(ln 2 - ln 4) = ln(1 + 2)."""
    world = {IDK: [simple([1])], FORGET: [simple([0])]}
    assert value(dpo(IDK, FORGET, beta=1.0), world) == pytest.approx(1.098612288668, rel=1e-11)
    assert value(dpo(IDK, FORGET, beta=2.0), world) == pytest.approx(1.609437912434, rel=1e-11)  # ln(1 + 4)


def test_distances_worked_on_paper() -> None:
    """(3, 0, 4) and (1, 1, 1) as states: cosine 7 / (5 sqrt 3), squared distance 14."""
    said = simple([0])
    said.student, said.reference = [[3.0, 0.0, 4.0, 0.0, 0.0]], [[1.0, 1.0, 1.0, 0.0, 0.0]]
    world = {RETAIN: [said]}
    assert value(similarity(RETAIN), world) == pytest.approx(0.808290376865, rel=1e-11)
    assert value(cosine(RETAIN), world) == pytest.approx(0.191709623135, rel=1e-10)
    assert value(l2(RETAIN), world) == pytest.approx(14.0, rel=1e-12)


def test_vocabulary_npo_worked_on_paper() -> None:
    """Ratios 4, 2, 1/3 and two of 1 (both next to nothing): 2 (ln 5 + ln 3 + ln 4/3 + 2 ln 2) / 5 = 2/5 ln 80."""
    assert value(vocabulary_npo(FORGET, beta=1.0), {FORGET: [simple([0])]}) == pytest.approx(1.752810653870, rel=1e-11)
