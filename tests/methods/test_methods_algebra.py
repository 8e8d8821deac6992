"""Objectives add, subtract and scale; what they need of data and models follows from them."""

from __future__ import annotations

import math

import pytest
from methods_support import make_world, stats_of, value

from clear_dist.methods import (
    AUGMENTED,
    FORGET,
    IDK,
    METHODS,
    PRIVATE,
    RETAIN,
    SAFE,
    Objective,
    Penalty,
    Until,
    build,
    cosine,
    dpo,
    kl,
    l1,
    l2,
    match,
    misdirect,
    nll,
    npo,
)
from clear_dist.types import Hidden, View


def test_sums_products_and_signs() -> None:
    world = make_world()
    a, b = value(nll(RETAIN), world), value(nll(FORGET), world)
    assert value(2 * (nll(RETAIN) - 0.5 * nll(FORGET)), world) == pytest.approx(2 * a - b, rel=1e-14)
    assert value(-(nll(RETAIN) - nll(FORGET)) * 3, world) == pytest.approx(3 * (b - a), rel=1e-14)
    assert value(nll(RETAIN) + nll(RETAIN), world) == pytest.approx(2 * a, rel=1e-14)


def test_penalties_scale_along() -> None:
    objective = 2 * (nll(RETAIN) - 0.5 * nll(FORGET)) + 0.01 * l1("lora", reduction="mean")
    assert [w.factor for w in objective.terms] == [2.0, -1.0]
    assert objective.penalties == (Penalty("l1", "lora", "mean", 0.01),)
    assert (3 * objective).penalties[0].factor == pytest.approx(0.03)
    assert str(objective) == "2*nll(RETAIN) - nll(FORGET) + 0.01*l1(LORA, reduction=mean)"
    assert str(-nll(FORGET)) == "-nll(FORGET)"


def test_parts_are_unweighted_and_summed_by_name() -> None:
    world = make_world()
    objective = 3 * nll(RETAIN) - 2 * nll(FORGET) + nll(RETAIN)
    loss, parts = objective(stats_of(world, objective))
    a, b = value(nll(RETAIN), world), value(nll(FORGET), world)
    assert {k: v.item() for k, v in parts.items()} == pytest.approx({"nll(RETAIN)": 2 * a, "nll(FORGET)": b})
    assert loss.item() == pytest.approx(4 * a - 2 * b)
    assert not any(v.requires_grad for v in parts.values())


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
def test_a_weight_is_finite(factor: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        _ = factor * nll(RETAIN)


def test_products_of_weights_are_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        _ = 1e200 * (1e200 * nll(RETAIN))
    with pytest.raises(ValueError, match="finite"):
        _ = 1e200 * (1e200 * l1("lora"))


def test_schedules_multiply_plain_terms_once() -> None:
    assert str(0.5 * (Until(0.7) * nll(FORGET))) == "0.5*until(0.7)*nll(FORGET)"
    for wrong in (Until(0.5) * nll(FORGET), nll(FORGET) + l1("lora")):
        with pytest.raises(ValueError, match="plain terms only, once"):
            _ = wrong * Until(0.7)


def test_nothing_is_no_objective() -> None:
    with pytest.raises(ValueError, match="at least one term"):
        Objective()({})
    with pytest.raises(ValueError, match="at least one term"):
        l1("lora")({})


@pytest.mark.parametrize(
    ("objective", "views", "reference", "pairs", "layers", "depth"),
    [
        (nll(RETAIN) - nll(FORGET), (FORGET, RETAIN), set(), (), (), None),
        (npo(FORGET) + kl(RETAIN), (FORGET, RETAIN), {FORGET, RETAIN}, (), (), None),
        (nll(RETAIN) + npo(FORGET), (FORGET, RETAIN), {FORGET}, (), (), None),
        (dpo(SAFE, PRIVATE) + dpo(IDK, FORGET), (FORGET, IDK, PRIVATE, SAFE), {FORGET, IDK, PRIVATE, SAFE},
         ((SAFE, PRIVATE), (IDK, FORGET)), (), None),
        (l2(AUGMENTED) + cosine(RETAIN), (RETAIN, AUGMENTED), {AUGMENTED, RETAIN}, (), (), None),
        (misdirect(FORGET, layer=3) + match(RETAIN, layer=5), (FORGET, RETAIN), {RETAIN}, (), (3, 5), 6),
        (misdirect(FORGET, layer=3) + nll(RETAIN), (FORGET, RETAIN), set(), (), (3,), None),
        (kl(RETAIN, tokens="sequence") + nll(FORGET), (FORGET, RETAIN), {RETAIN}, (), (), None),
        (l1("lora"), (), set(), (), (), None),
    ],
    ids=lambda x: str(x) if isinstance(x, Objective) else "",
)  # fmt: skip
def test_needs_follow_the_equation(
    objective: Objective,
    views: tuple[View, ...],
    reference: set[View],
    pairs: tuple[tuple[View, ...], ...],
    layers: tuple[int, ...],
    depth: int | None,
) -> None:
    needs = objective.needs
    assert (needs.views, needs.reference, needs.pairs) == (views, reference, pairs)
    assert (needs.layers, needs.depth) == (layers, depth)
    assert needs.sequences == bool(layers or "tokens=sequence" in str(objective))


def test_views_want_what_their_own_terms_read() -> None:
    needs = (npo(FORGET) + kl(RETAIN) + nll(RETAIN) + match(RETAIN, layer=1)).needs
    assert needs.wants[FORGET] == {"log_ratio"}
    assert needs.wants[RETAIN] == {"kl_reverse", "logp", Hidden(1, "reference")}


# Which methods ask the reference, and on which views: what makes a second model or a cache necessary.
REFERENCE = {
    "kl": {RETAIN},
    "dpo": {IDK, FORGET},
    "npo": {FORGET},
    "scrub": {FORGET, RETAIN},
    "llmu": {RETAIN},
    "rmu": {RETAIN},
    "twins": {RETAIN, AUGMENTED},
    "scrub_bio": {FORGET, RETAIN},
    "pubg": {PRIVATE, View.GUIDE},
    "pubg_paper": {View.GUIDE},
    "alt_dpo": {PRIVATE, SAFE},
    "sft_guide": {RETAIN},
    "undial": {FORGET},
}


@pytest.mark.parametrize("name", METHODS)
def test_reference_of_every_method(name: str) -> None:
    needs = build(name).needs
    assert needs.reference == REFERENCE.get(name, set())
    assert needs.depth == (8 if name == "rmu" else None)


def test_layers_to_train_travel_along() -> None:
    ruled = nll(RETAIN).training((1, 2))
    assert (ruled + nll(FORGET)).train_layers == (nll(FORGET) + ruled).train_layers == (1, 2)
    assert (2 * ruled).train_layers == (1, 2)
    with pytest.raises(ValueError, match="different layers"):
        _ = ruled + nll(FORGET).training((3,))
