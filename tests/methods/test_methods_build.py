"""A method's settings: what is taken, what is refused, and that each of them has an effect."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from clear_dist.methods import (
    COMMON,
    FORGET,
    METHODS,
    RETAIN,
    VARIANTS,
    Method,
    Objective,
    Setting,
    Variant,
    build,
    hyperparameters,
    kl,
    match,
    nll,
)

OTHER: dict[str, Setting] = {"answers": "random", "distance": "kl"}


def shape(objective: Objective) -> tuple[str, tuple[int, ...] | None]:
    return str(objective), objective.train_layers


def other(name: str, default: Setting) -> Setting:
    """A valid value that is not the default."""
    if name == "suppress":
        return "ga" if default == "npo" else "npo"
    if isinstance(default, bool):
        return not default
    if isinstance(default, str):
        return OTHER[name]
    if name in ("until", "forget_until"):
        return 0.25
    if name == "strength":
        return 5.0
    return default + 1 if isinstance(default, int) else default * 2 + 0.5


CASES = [
    (name, variant, key)
    for name, method in METHODS.items()
    for variant in VARIANTS
    if variant == "paper" or method.equation(variant) is not method.paper
    for key in method.settings(variant)
]
# Settings of one choice only, and those another setting switches on.
WITH: dict[tuple[str, str], dict[str, Setting]] = {
    ("pubg", "ceiling"): {"suppress": "ga"},
    ("pubg_paper", "beta"): {"suppress": "npo"},
}


@pytest.mark.parametrize(("name", "variant", "key"), CASES)
def test_every_setting_has_an_effect(name: str, variant: Variant, key: str) -> None:
    given = WITH.get((name, key), {"match_weight": 1.0} if key == "match_layer" else {})
    method = METHODS[name]
    changed = method.build({**given, key: other(key, method.settings(variant)[key])}, variant)
    assert shape(changed) != shape(method.build(given, variant))


@pytest.mark.parametrize(("name", "variant", "key"), CASES)
def test_defaults_given_are_defaults(name: str, variant: Variant, key: str) -> None:
    method = METHODS[name]
    assert shape(method.build({key: method.settings(variant)[key]}, variant)) == shape(method.build(None, variant))


@pytest.mark.parametrize("name", METHODS)
def test_common_retain_terms_are_off_and_can_be_added_to_any(name: str) -> None:
    method = METHODS[name]
    own = method.hyperparameters()
    assert all(COMMON[k] == v for k, v in method.settings().items() if k in COMMON and k not in own and "weight" in k)
    added = method.build({"kl_weight": 2, "match_weight": 3, "match_layer": 4})
    expected = method.build() + 2 * kl(RETAIN, direction="forward") + 3 * match(RETAIN, layer=4)
    assert shape(added) == shape(expected)
    if "retain_weight" not in own:
        assert shape(method.build({"retain_weight": 2})) == shape(method.build() + 2 * nll(RETAIN))


def test_defaults_are_the_papers() -> None:
    assert hyperparameters("npo") == {"beta": 1.0}
    assert hyperparameters("dpo") == {"beta": 0.1, "idk_weight": 1.0, "dpo_weight": 1.0, "answers": "idk"}
    assert hyperparameters("gd") == {"retain_weight": 1.0}
    assert hyperparameters("rmu")["layer"] == 7
    assert {hyperparameters("scrub")[k] for k in ("alpha", "gamma", "forget_weight")} == {1.0}
    assert hyperparameters("npo", "tofu") == {"beta": 0.1, "retain_weight": 1.0}
    assert METHODS["alt_dpo"].hyperparameters() == {"beta": 0.1, "retain_weight": 1.0}


@pytest.mark.parametrize("name", METHODS)
def test_unknown_hyperparameters_are_key_errors(name: str) -> None:
    with pytest.raises(KeyError, match="betta"):
        build(name, {"betta": 1.0})


def test_an_unknown_variant_or_method_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="nponpo"):
        build("nponpo")
    with pytest.raises(KeyError, match="mine"):
        build("npo", variant="mine")  # pyright: ignore[reportArgumentType]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("npo", {"beta": float("nan")}, "beta is nan; expected a finite number"),
    ("npo", {"beta": "nan"}, "beta is 'nan'; expected a finite number"),
    ("npo", {"beta": float("inf")}, "beta is inf; expected a finite number"),
    ("npo", {"beta": "x"}, "beta is 'x'; expected a number"),
    ("npo", {"beta": ""}, "beta is ''; expected a number"),
    ("npo", {"beta": None}, "beta is None; expected a number"),
    ("npo", {"beta": True}, "beta is True; expected a number"),
    ("npo", {"beta": [1]}, "beta is [1]; expected a number"),
    ("npo", {"beta": 10**400}, "expected a number"),
    ("npo", {"beta": 0}, "npo: beta must be > 0"),
    ("npo", {"beta": -1}, "npo: beta must be > 0"),
    ("npo", {"match_layer": 1.5}, "match_layer is 1.5; expected a whole number"),
    ("npo", {"kl_weight": float("nan")}, "kl_weight is nan; expected a finite number"),
    ("gd", {"retain_weight": float("nan")}, "retain_weight is nan"),
    ("rmu", {"layer": 1.5}, "layer is 1.5; expected a whole number"),
    ("rmu", {"layer": -1}, "layer must be a whole number >= 0"),
    ("rmu", {"layers": 0}, "layers must be >= 1"),
    ("rmu", {"average": "maybe"}, "average is 'maybe'; expected true or false"),
    ("rmu", {"average": 2}, "average is 2; expected true or false"),
    ("rmu", {"c": 0}, "misdirect: scale must be > 0"),
    ("llmu", {"answers": "lies"}, "answers is 'lies'; expected idk or random"),
    ("dpo", {"answers": "lies"}, "answers is 'lies'; expected idk or random"),
    ("llmu", {"answers": 1.0}, "answers is 1.0; expected a word such as idk"),
    ("twins", {"distance": "l1"}, "distance is 'l1'; expected l2 or kl"),
    ("pubg", {"suppress": "no"}, "suppress is 'no'; expected npo or ga"),
    ("pubg", {"suppress": "ga", "ceiling": 0}, "ceiling must be > 0"),
    ("scrub", {"alternate": 1.5}, "alternate is 1.5; expected a whole number"),
    ("scrub", {"alternate": -1}, "alternate: rounds"),
    ("scrub", {"forget_until": -0.5}, "until: the fraction of training must lie in 0..1"),
    ("grad_orth", {"until": 1.5}, "orthogonal: until must lie in 0..1"),
    ("ce_u", {"skip": -1}, "ce_u: skip must be a whole number >= 0"),
    ("undial", {"strength": 0}, "undial: strength must be > 0"),
]


@pytest.mark.parametrize(("name", "settings", "message"), WRONG, ids=[f"{n}-{s}"[:40] for n, s, _ in WRONG])
def test_values_out_of_range_or_of_the_wrong_kind(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(name, settings)


def test_numbers_as_the_command_line_gives_them() -> None:
    assert shape(build("npo", {"beta": "0.5"})) == shape(build("npo", {"beta": 0.5}))
    assert shape(build("rmu", {"layer": "2", "average": "true"})) == shape(build("rmu", {"layer": 2, "average": True}))
    assert shape(build("rmu", {"average": "False"})) == shape(build("rmu"))
    assert shape(build("rmu", {"layer": 2.0})) == shape(build("rmu", {"layer": 2}))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name: str) -> None:
    assert METHODS[name].about.rstrip(")").endswith(".") or METHODS[name].about.endswith(")"), METHODS[name].about
    assert "\n" not in METHODS[name].about
    for variant in VARIANTS:
        equation = METHODS[name].equation(variant)
        assert inspect.getdoc(equation)
        assert all(p.default is not p.empty for p in inspect.signature(equation).parameters.values())


def test_the_papers_equation_stands_in_where_a_code_base_does_the_same() -> None:
    method = Method(lambda: -nll(FORGET), tofu=lambda: -2 * nll(FORGET))
    assert str(method.build(variant="clear_code")) == str(method.build()) == "-nll(FORGET)"
    assert str(method.build(variant="tofu")) == "-2*nll(FORGET)"
