"""Equations on the command line: what an objective prints reads back as the same objective."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_support import make_world, value

from clear_dist.methods import (
    FORGET,
    METHODS,
    RETAIN,
    VARIANTS,
    After,
    Alternate,
    Conflict,
    Objective,
    Orthogonal,
    Until,
    Variant,
    build,
    dpo,
    kl,
    l1,
    nll,
    npo,
    parse_objective,
    simnpo,
)
from clear_dist.methods.parser import TERMS
from clear_dist.types import View

VIEWS = st.sampled_from(list(View))
POSITIVE = st.floats(min_value=1e-6, max_value=1e6)
BOOL = st.booleans()
LAYER = st.integers(0, 80)
REDUCTION, DIRECTION, TOKENS = (
    st.sampled_from(pair) for pair in (("example", "token"), ("forward", "reverse"), ("answer", "sequence"))
)
OPTIONS = {
    "nll": {"reduction": REDUCTION},
    "bounded_nll": {"ceiling": POSITIVE},
    "entropy": {"reduction": REDUCTION},
    "kl": {"direction": DIRECTION, "reduction": REDUCTION, "tokens": TOKENS},
    "npo": {"beta": POSITIVE},
    "dpo": {"beta": POSITIVE},
    "simnpo": {"beta": POSITIVE, "gamma": st.floats(0.0, 10.0)},
    "undial": {"strength": st.floats(1e-6, 100.0)},
    "wga": {"alpha": POSITIVE},
    "satimp": {"beta1": st.floats(0.0, 10.0), "beta2": st.floats(0.0, 10.0)},
    "ce_u": {"skip": st.integers(0, 5)},
    "misdirect": {
        "layer": LAYER,
        "scale": POSITIVE,
        "average": BOOL,
        "images": BOOL,
        "control": st.sampled_from(("fixed", "redrawn")),
        "seed": st.integers(0, 2**40),
    },
    "match": {"layer": LAYER, "average": BOOL, "images": BOOL},
    "l2": {},
    "cosine": {},
    "similarity": {},
    "vocabulary_npo": {"beta": POSITIVE},
}
WEIGHT = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: x or 1.0)
FRACTION = st.floats(0.0, 1.0)
SCHEDULE = st.one_of(
    FRACTION.map(Until), FRACTION.map(After), st.builds(Alternate, st.integers(1, 50), st.sampled_from((0, 1)))
)


@st.composite
def terms(draw: st.DrawFn) -> Objective:
    name = draw(st.sampled_from(sorted(OPTIONS)))
    views = draw(st.permutations(list(View)))[: 2 if name == "dpo" else 1]
    term = TERMS[name](*views, **{k: draw(v) for k, v in OPTIONS[name].items() if draw(BOOL)})
    if draw(BOOL):
        term = draw(SCHEDULE) * term
    return draw(WEIGHT) * term


@st.composite
def objectives(draw: st.DrawFn) -> Objective:
    total = draw(terms())
    for term in draw(st.lists(terms(), max_size=4)):
        total = total + term
    if draw(BOOL):
        parameters = draw(st.sampled_from(("lora", "all")))
        total = total + draw(WEIGHT) * l1(parameters, reduction=draw(st.sampled_from(("sum", "mean"))))
    retain = {w.term.views == (RETAIN,) for w in total.terms}
    if retain == {True, False} and draw(BOOL):
        total = total.ruled(draw(st.one_of(FRACTION.map(Orthogonal), st.just(Conflict()))))
    return total


def same(a: Objective, b: Objective) -> None:
    """Equal in everything, the functions apart: they are made by the same terms of the same options."""
    assert [(w.term.name, w.term.views, w.term.wants) for w in a.terms] == [
        (w.term.name, w.term.views, w.term.wants) for w in b.terms
    ]
    assert [w.factor for w in a.terms] == [w.factor for w in b.terms]
    assert [w.schedule for w in a.terms] == [w.schedule for w in b.terms]
    assert (a.penalties, a.rule) == (b.penalties, b.rule)


def test_random_objectives_cover_every_term() -> None:
    assert {*OPTIONS, "l1"} == set(TERMS)


@given(objectives())
@settings(max_examples=300, deadline=None)
def test_what_an_objective_prints_reads_back(objective: Objective) -> None:
    read = parse_objective(str(objective))
    same(read, objective)
    assert str(read) == str(objective)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_written_out(name: str, variant: Variant) -> None:
    """Layers to train are the method's own: an equation trains all that its gradient reaches."""
    objective = build(name, variant=variant)
    read = parse_objective(str(objective))
    same(read, objective)
    assert read.needs == objective.needs
    assert value(read, make_world()) == value(objective, make_world())


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("nll(RETAIN) - nll(FORGET)", nll(RETAIN) - nll(FORGET)),
        (" 2*kl(RETAIN)-0.5*nll(FORGET) ", 2 * kl(RETAIN) - 0.5 * nll(FORGET)),
        ("-nll(FORGET)", -nll(FORGET)),
        ("+nll(RETAIN)", nll(RETAIN)),
        ("--nll(RETAIN)", nll(RETAIN)),
        ("nll(RETAIN)*2*3", 6 * nll(RETAIN)),
        ("2*3*nll(RETAIN)", 6 * nll(RETAIN)),
        ("2*(nll(RETAIN) - 3*nll(FORGET))", 2 * nll(RETAIN) - 6 * nll(FORGET)),
        ("npo(FORGET, beta=0.5) + 2*kl(RETAIN)", npo(FORGET, beta=0.5) + 2 * kl(RETAIN)),
        ("npo(FORGET, beta=2)", npo(FORGET, beta=2.0)),
        ("simnpo(FORGET, gamma=0)", simnpo(FORGET)),
        ("kl(RETAIN, direction='forward')", kl(RETAIN, direction="forward")),
        ("kl(RETAIN, direction=forward)", kl(RETAIN, direction="forward")),
        ("dpo(IDK, FORGET)", dpo(View.IDK, FORGET)),
        ("nll(RETAIN) + 0.01*l1(LORA)", nll(RETAIN) + 0.01 * l1("lora")),
        ("nll(RETAIN) + l1(ALL, reduction=mean)", nll(RETAIN) + l1("all", reduction="mean")),
        ("-until(0.7)*nll(FORGET)", -1 * (Until(0.7) * nll(FORGET))),
        ("nll(FORGET)*until(0.7)*-2", -2 * (Until(0.7) * nll(FORGET))),
        ("2*alternate(3, 1)*0.5*nll(FORGET)", Alternate(3, 1) * nll(FORGET)),
        ("alternate(3)*nll(FORGET)", Alternate(3) * nll(FORGET)),
        ("orthogonal(nll(RETAIN) - nll(FORGET))", (nll(RETAIN) - nll(FORGET)).ruled(Orthogonal())),
        ("2*pcgrad(nll(RETAIN) - nll(FORGET))", (2 * nll(RETAIN) - 2 * nll(FORGET)).ruled(Conflict())),
        ("1e-3*nll(RETAIN)", 1e-3 * nll(RETAIN)),
        ("(" * 90 + "nll(RETAIN)" + ")" * 90, nll(RETAIN)),
    ],
)
def test_what_can_be_written(text: str, objective: Objective) -> None:
    same(parse_objective(text), objective)


def test_long_sums_are_read() -> None:
    """As long as an equation may be, and as deeply nested as its additions make it."""
    text = "+".join(["nll(RETAIN)"] * 160)
    assert 1900 < len(text) <= 2000
    assert len(parse_objective(text).terms) == 160


def test_all_digits_are_printed() -> None:
    objective = 0.1234567891 * npo(FORGET, beta=1 / 3)
    assert str(objective) == "0.1234567891*npo(FORGET, beta=0.3333333333333333)"
    assert str(0.5 * npo(FORGET, beta=0.1)) == "0.5*npo(FORGET, beta=0.1)"
    assert str(1e-9 * nll(FORGET)) == "1e-09*nll(FORGET)"
