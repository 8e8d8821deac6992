"""What is refused on the command line, and that the message names the piece and what to write."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clear_dist.errors import ConfigError
from clear_dist.methods import Objective, parse_objective

REFUSED = [
    # unknown names
    ("npoo(FORGET)", "unknown term 'npoo' (did you mean 'npo'?)"),
    ("nll(RETIAN)", "nll(RETIAN): unknown (did you mean 'RETAIN'?)"),
    ("nll(HOLDOUT)", "nll(HOLDOUT): unknown; known: FORGET, RETAIN, IDK"),
    ("nll(forget)", "nll(forget): unknown"),
    ("nll(RÉTAIN)", "nll(RÉTAIN): unknown"),
    ("l1(FORGET) + nll(RETAIN)", "l1(FORGET): unknown; known: LORA, ALL"),
    ("nll(RETAIN, beta=2)", "nll: no option 'beta'; it has: reduction"),
    ("npo(FORGET, betta=2)", "npo: no option 'betta' (did you mean 'beta'?)"),
    ("l2(FORGET, x=1)", "l2: no option 'x'; it has: none"),
    ("orthogonal(nll(RETAIN) - nll(FORGET), til=0.5)", "orthogonal: no option 'til' (did you mean 'until'?)"),
    ("pcgrad(nll(RETAIN) - nll(FORGET), until=0.5)", "pcgrad: no option 'until'; it has: none"),
    # wrong numbers of views
    ("nll()", "nll takes one of FORGET"),
    ("nll(RETAIN, FORGET)", "nll takes one of FORGET, RETAIN, IDK, RANDOM, PRIVATE, SAFE, GUIDE, AUGMENTED first; 2"),
    ("dpo(FORGET)", "first, twice; 1 given"),
    ("dpo(IDK, FORGET, SAFE)", "first, twice; 3 given"),
    ("dpo(FORGET, FORGET)", "prefers FORGET to itself"),
    ("nll('RETAIN')", "nll takes one of"),
    ("nll(*RETAIN)", "nll takes one of"),
    ("npo(FORGET, 0.5)", "npo takes one of"),
    # options out of range or of the wrong kind
    ("npo(FORGET, beta=-1)", "npo: beta must be > 0 and finite, got -1"),
    ("npo(FORGET, beta=0)", "npo: beta must be > 0"),
    ("npo(FORGET, beta='x')", "npo: beta='x'; expected a number"),
    ("npo(FORGET, beta=True)", "npo: beta=True; expected a number"),
    ("npo(FORGET, beta=None)", "npo: beta=None; expected a number"),
    ("npo(FORGET, beta=nan)", "npo: beta='nan'; expected a number"),
    ("npo(FORGET, beta=1e999)", "too large"),
    ("npo(FORGET, beta=1" + "0" * 400 + ")", "too large"),
    ("npo(FORGET, beta=1+1)", "npo(...): options are written name=value"),
    ("npo(FORGET, **{})", "npo(...): options are written name=value"),
    ("npo(FORGET, beta=1, beta=2)", "npo: beta is given twice"),
    ("bounded_nll(FORGET, ceiling=0)", "bounded_nll: ceiling must be > 0"),
    ("simnpo(FORGET, gamma=-1)", "simnpo: gamma must be >= 0"),
    ("satimp(FORGET, beta1=-1)", "satimp: beta1 must be >= 0"),
    ("wga(FORGET, alpha=0)", "wga: alpha must be > 0"),
    ("undial(FORGET, strength=-2)", "undial: strength must be > 0"),
    ("undial(FORGET, strength=0)", "undial: strength must be > 0"),
    ("vocabulary_npo(FORGET, beta=0)", "vocabulary_npo: beta must be > 0"),
    ("ce_u(FORGET, skip=-1)", "ce_u: skip must be a whole number >= 0"),
    ("ce_u(FORGET, skip=0.5)", "ce_u: skip must be a whole number >= 0"),
    ("match(RETAIN, layer=-1)", "match: layer must be a whole number >= 0, got -1"),
    ("match(RETAIN, layer=1.5)", "match: layer must be a whole number >= 0, got 1.5"),
    ("misdirect(FORGET, scale=0)", "misdirect: scale must be > 0"),
    ("misdirect(FORGET, seed=1.5)", "misdirect: seed must be a whole number"),
    ("misdirect(FORGET, seed=-1)", "misdirect: seed must be a whole number"),
    ("misdirect(FORGET, images=3)", "misdirect: images=3; expected True or False"),
    ("misdirect(FORGET, control=moving)", "misdirect: control='moving'; expected one of fixed, redrawn"),
    ("kl(RETAIN, direction='up')", "kl: direction='up'; expected one of forward, reverse"),
    ("kl(RETAIN, tokens=all)", "kl: tokens='all'; expected one of answer, sequence"),
    ("nll(RETAIN, reduction=sum)", "nll: reduction='sum'; expected one of example, token"),
    ("l1(LORA, reduction=token) + nll(RETAIN)", "l1: reduction='token'; expected one of sum, mean"),
    # weights
    ("1e999*nll(RETAIN)", "too large"),
    ("1" + "0" * 400 + "*nll(RETAIN)", "too large"),
    ("1e200*1e200*nll(RETAIN)", "too large"),
    ("1e200*(1e200*nll(RETAIN))", "'1e+200 * (1e+200 * nll(RETAIN))': a weight must be finite"),
    ("nan*nll(RETAIN)", "'nan' is not allowed"),
    ("True*nll(RETAIN)", "'True' is not allowed"),
    ("2j*nll(RETAIN)", "'2j' is not allowed"),
    # schedules
    ("until(1.5)*nll(FORGET)", "until: the fraction of training must lie in 0..1, got 1.5"),
    ("after(2)*nll(FORGET)", "after: the fraction of training must lie in 0..1, got 2"),
    ("until(1e999)*nll(FORGET)", "until: the fraction of training must lie in 0..1, got inf"),
    ("until(-0.5)*nll(FORGET)", "until(FRACTION) takes one number in 0..1"),
    ("until()*nll(FORGET)", "until(FRACTION) takes one number"),
    ("until(0.1, 0.2)*nll(FORGET)", "until(FRACTION) takes one number"),
    ("until(True)*nll(FORGET)", "until(FRACTION) takes one number"),
    ("until(fraction=0.5)*nll(FORGET)", "until(FRACTION) takes one number"),
    ("until(nll(FORGET))*nll(FORGET)", "until(FRACTION) takes one number"),
    ("alternate(0)*nll(FORGET)", "alternate: rounds in 1..1000000 and turn 0 or 1, got 0"),
    ("alternate(2, 2)*nll(FORGET)", "alternate: rounds in 1..1000000 and turn 0 or 1, got 2 and 2"),
    ("alternate(1.5)*nll(FORGET)", "alternate(ROUNDS, TURN) takes two whole numbers"),
    ("alternate(1, 0, 2)*nll(FORGET)", "alternate(ROUNDS, TURN) takes two whole numbers"),
    ("alternate(1" + "0" * 30 + ")*nll(FORGET)", "alternate: rounds in 1..1000000"),
    ("until(0.5)*after(0.2)*nll(FORGET)", "'until(0.5) * after(0.2)': a product needs a number and a term"),
    ("until(0.5)*(after(0.2)*nll(FORGET))", "a schedule multiplies plain terms only, once"),
    ("until(0.5)*(nll(RETAIN) + l1(LORA))", "a schedule multiplies plain terms only, once"),
    ("until(0.5)", "'until(0.5)' is a schedule, not an objective"),
    ("until(0.5) + nll(RETAIN)", "'until(0.5) + nll(RETAIN)': only terms add and subtract"),
    # rules
    ("orthogonal(nll(RETAIN))", "orthogonal weighs retain terms against others"),
    ("pcgrad(nll(FORGET))", "pcgrad weighs retain terms against others"),
    ("orthogonal(l1(LORA))", "orthogonal weighs retain terms against others"),
    ("orthogonal()", "orthogonal(OBJECTIVE) takes one objective"),
    ("orthogonal(2)", "orthogonal(OBJECTIVE) takes one objective"),
    ("orthogonal(nll(RETAIN) - nll(FORGET), 0.5)", "orthogonal(OBJECTIVE) takes one objective"),
    ("orthogonal(nll(RETAIN) - nll(FORGET), until=2)", "orthogonal: until must lie in 0..1, got 2"),
    ("orthogonal(nll(RETAIN) - nll(FORGET), until='x')", "orthogonal: until='x'; expected a number"),
    ("pcgrad(orthogonal(nll(RETAIN) - nll(FORGET)))", "one update rule cannot be put around another"),
    ("pcgrad(nll(RETAIN)-nll(FORGET)) + pcgrad(nll(RETAIN)-nll(IDK))", "two update rules cannot be added"),
    # no objective at all
    ("", "cannot read ''"),
    ("3", "'3' is a number, not an objective"),
    ("2 + 3", "'2 + 3': only terms add"),
    ("nll(RETAIN) + 1", "'nll(RETAIN) + 1': only terms add"),
    ("l1(LORA)", "has only penalties"),
    ("nll(RETAIN) * nll(FORGET)", "'nll(RETAIN) * nll(FORGET)': a product needs a number and a term"),
    ("nll", "'nll' is not allowed"),
    # no equation, or one in another language
    ("nll(RETAIN", "cannot read 'nll(RETAIN'"),
    ("nll(RETAIN)²", "cannot read"),
    ("nll(RETAIN)\0", "cannot read"),
    ("nll('\udc80')", "cannot read"),
    ("nll(RETAIN); nll(FORGET)", "cannot read"),
    ("nll(RETAIN) / 2", "'nll(RETAIN) / 2' is not allowed"),
    ("nll(RETAIN)**2", "not allowed"),
    ("nll(RETAIN).x", "'nll(RETAIN).x' is not allowed"),
    ("nll(RETAIN) if 1 else 2", "not allowed"),
    ("[nll(RETAIN)]", "not allowed"),
    ("not nll(RETAIN)", "not allowed"),
    ("'nll(RETAIN)'", "not allowed"),
    ("f'{nll(RETAIN)}'", "not allowed"),
    ("(x := nll(RETAIN))", "not allowed"),
    ("(lambda: 1)()", "not allowed"),
    ("__import__('os').system('x')", "__import__('os').system('x')\" is not allowed"),
    ("__import__('os')", "unknown term '__import__'"),
    ("nll(__class__)", "nll(__class__): unknown"),
    # too much of it
    ("x" * 10_000, "10000 characters; at most 2000 are read"),
    ("nll(RETAIN) + " * 1000 + "nll(RETAIN)", "at most 2000 are read"),
    ("(" * 900 + "nll(RETAIN)" + ")" * 900, "--objective"),
    ("until(0.5)*(" * 160 + "nll(RETAIN)" + ")" * 35, "--objective"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[text[:40] for text, _ in REFUSED])
def test_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_objective(text)
    said = str(refusal.value)
    assert said.startswith("--objective: ") and message in said
    assert "Traceback" not in said and "<unknown>" not in said and "__init__" not in said


def test_a_chain_of_signs_is_read_or_refused() -> None:
    """Depends on how deep the interpreter reads; it never ends in anything but an objective or a refusal."""
    for count in (10, 500, 1900):
        try:
            assert parse_objective("-" * count + "nll(RETAIN)").terms[0].factor == 1.0
        except ConfigError as error:
            assert "nested too deeply" in str(error) or "cannot read" in str(error)
    assert parse_objective("-" * 10 + "nll(RETAIN)")


ALPHABET = "nllkpodRETAINFORGE(),=*+-. 0123456789e'\"_[]{}:\\\n\té²🜁until"
PIECES = ["nll(RETAIN)", "kl(FORGET, direction=forward)", "until(0.5)", "orthogonal(", ")", "*", "+", "-", "2", "1e309"]


@given(st.one_of(st.text(ALPHABET, max_size=80), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)))
@settings(max_examples=400, deadline=None)
def test_anything_is_an_objective_or_a_refusal(text: str) -> None:
    try:
        assert isinstance(parse_objective(text), Objective)
    except ConfigError as error:
        assert str(error).startswith("--objective: ")
