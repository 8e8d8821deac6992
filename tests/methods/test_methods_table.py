"""Every method of the table, in every variant, equals the equation it is named after."""

from __future__ import annotations

from collections.abc import Callable

import methods_calculator as by_hand
import pytest
from methods_support import World, control, make_world, redrawn, value

from clear_dist.methods import (
    AUGMENTED,
    FORGET,
    GUIDE,
    IDK,
    METHODS,
    PRIVATE,
    RANDOM,
    RETAIN,
    SAFE,
    VARIANTS,
    Orthogonal,
    Penalty,
    Setting,
    Sum,
    Variant,
    build,
)

Equation = Callable[[World], float]


def rmu(world: World, alpha: float, *, average: bool = False, images: bool = False, layer: int = 7) -> float:
    """Towards 6.5 u on forget, where it was on retain."""
    push = by_hand.misdirect(world[FORGET], layer, lambda n, t: control(scale=6.5), images=images, average=average)
    return push + alpha * by_hand.match(world[RETAIN], layer, images=images, average=average)


def rmu_redrawn(world: World) -> float:
    rows = (6.5 * redrawn(sum(len(s.image) for s in world[FORGET]))).tolist()
    starts = [sum(len(s.image) for s in world[FORGET][:n]) for n in range(len(world[FORGET]))]
    push = by_hand.misdirect(world[FORGET], 7, lambda n, t: rows[starts[n] + t], images=True, average=True)
    return push + by_hand.match(world[RETAIN], 7, images=True, average=True)


# As printed: lambda NLL(R) - NLL(F) and so on; defaults filled in as numbers.
PAPER: dict[str, Equation] = {
    "retain_ft": lambda w: by_hand.nll(w[RETAIN]),
    "ga": lambda w: -by_hand.nll(w[FORGET]),
    "ga_entropy": lambda w: -by_hand.entropy(w[FORGET]),
    "gd": lambda w: by_hand.nll(w[RETAIN]) - by_hand.nll(w[FORGET]),
    "kl": lambda w: by_hand.kl_reverse(w[RETAIN]) - by_hand.nll(w[FORGET]),
    "idk": lambda w: by_hand.nll(w[RETAIN]) + by_hand.nll(w[IDK]),
    "dpo": lambda w: by_hand.nll(w[IDK]) + by_hand.dpo(w[IDK], w[FORGET], 0.1),
    "npo": lambda w: by_hand.npo(w[FORGET], 1.0),
    "scrub": lambda w: by_hand.kl_forward(w[RETAIN]) - by_hand.kl_forward(w[FORGET]) + by_hand.nll(w[RETAIN]),
    "llmu": lambda w: -by_hand.nll(w[FORGET]) + by_hand.nll(w[IDK]) + by_hand.kl_reverse(w[RETAIN]),
    "rmu": lambda w: rmu(w, 1.0),
    "twins": lambda w: by_hand.l2(w[AUGMENTED]) + by_hand.l2(w[RETAIN]),
    "scrub_bio": lambda w: by_hand.similarity(w[FORGET]) + 1 - by_hand.similarity(w[RETAIN]),
    "sparsity": lambda w: by_hand.nll(w[RETAIN]),  # and a penalty, below
    "grad_orth": lambda w: by_hand.nll(w[RETAIN]) - by_hand.nll(w[FORGET]),  # under a rule, below
    "pubg": lambda w: by_hand.npo(w[PRIVATE], 0.5) + by_hand.kl_forward(w[GUIDE]) + by_hand.nll(w[RETAIN]),
    "pubg_paper": lambda w: -by_hand.bounded_nll(w[PRIVATE], 5.0) + by_hand.kl_forward(w[GUIDE]),
    "alt_dpo": lambda w: by_hand.dpo(w[SAFE], w[PRIVATE], 0.1) + by_hand.nll(w[RETAIN]),
    "sft_guide": lambda w: by_hand.nll(w[SAFE]) + by_hand.kl_forward(w[RETAIN]),
    "reject": lambda w: by_hand.nll(w[IDK]),
    "random": lambda w: by_hand.nll(w[RANDOM]),
    "simnpo": lambda w: 0.125 * by_hand.simnpo(w[FORGET], 4.5, 0.0) + by_hand.nll(w[RETAIN]),
    "undial": lambda w: by_hand.undial(w[FORGET], 10.0),
    "wga": lambda w: by_hand.wga(w[FORGET], 1.0) + by_hand.nll(w[RETAIN]),
    "satimp": lambda w: by_hand.satimp(w[FORGET], 5.0, 1.0) + 0.1 * by_hand.nll(w[RETAIN]),
    "ce_u": lambda w: by_hand.ce_u(w[FORGET], 1),
}
OTHERS: dict[tuple[str, Variant], Equation] = {
    ("gd", "tofu"): lambda w: by_hand.nll_tokens(w[RETAIN]) - by_hand.nll_tokens(w[FORGET]),
    ("kl", "tofu"): lambda w: by_hand.kl_everywhere_tokens(w[RETAIN], "forward") - by_hand.nll_tokens(w[FORGET]),
    ("npo", "tofu"): lambda w: by_hand.npo(w[FORGET], 0.1) + by_hand.nll_tokens(w[RETAIN]),
    ("kl", "clear_code"): lambda w: by_hand.kl_everywhere(w[RETAIN], "reverse") - by_hand.nll(w[FORGET]),
    ("idk", "clear_code"): lambda w: by_hand.nll(w[RETAIN]) + by_hand.nll(w[FORGET]),
    ("dpo", "clear_code"): lambda w: by_hand.nll(w[RETAIN]) + by_hand.nll(w[IDK]),
    ("npo", "clear_code"): lambda w: by_hand.vocabulary_npo(w[FORGET], 0.1),
    ("scrub", "clear_code"): lambda w: (
        by_hand.kl_everywhere(w[RETAIN], "forward")
        - by_hand.kl_everywhere(w[FORGET], "forward")
        + by_hand.nll(w[RETAIN])
    ),
    ("llmu", "clear_code"): lambda w: (
        by_hand.nll(w[IDK]) - by_hand.nll(w[FORGET]) + by_hand.kl_everywhere(w[RETAIN], "reverse")
    ),
    ("rmu", "clear_code"): rmu_redrawn,
}
# Hyperparameters away from their defaults, each of them at least once.
SETTINGS: list[tuple[str, Variant, dict[str, Setting], Equation]] = [
    ("gd", "paper", {"retain_weight": 3}, lambda w: 3 * by_hand.nll(w[RETAIN]) - by_hand.nll(w[FORGET])),
    (
        "gd",
        "tofu",
        {"retain_weight": 0.5},
        lambda w: 0.5 * by_hand.nll_tokens(w[RETAIN]) - by_hand.nll_tokens(w[FORGET]),
    ),
    ("kl", "paper", {"alpha": 2}, lambda w: 2 * by_hand.kl_reverse(w[RETAIN]) - by_hand.nll(w[FORGET])),
    ("idk", "paper", {"retain_weight": 2}, lambda w: 2 * by_hand.nll(w[RETAIN]) + by_hand.nll(w[IDK])),
    (
        "dpo",
        "paper",
        {"beta": 0.5, "idk_weight": 2, "dpo_weight": 3},
        lambda w: 2 * by_hand.nll(w[IDK]) + 3 * by_hand.dpo(w[IDK], w[FORGET], 0.5),
    ),
    (
        "dpo",
        "paper",
        {"answers": "random"},
        lambda w: by_hand.nll(w[RANDOM]) + by_hand.dpo(w[RANDOM], w[FORGET], 0.1),
    ),
    ("dpo", "paper", {"idk_weight": 0}, lambda w: by_hand.dpo(w[IDK], w[FORGET], 0.1)),
    ("npo", "paper", {"beta": 0.25}, lambda w: by_hand.npo(w[FORGET], 0.25)),
    ("npo", "clear_code", {"beta": 3}, lambda w: by_hand.vocabulary_npo(w[FORGET], 3.0)),
    ("npo", "tofu", {"beta": 2, "retain_weight": 0}, lambda w: by_hand.npo(w[FORGET], 2.0)),
    (
        "scrub",
        "paper",
        {"alpha": 2, "gamma": 3, "forget_weight": 0.5},
        lambda w: 2 * by_hand.kl_forward(w[RETAIN]) - 0.5 * by_hand.kl_forward(w[FORGET]) + 3 * by_hand.nll(w[RETAIN]),
    ),
    (
        "llmu",
        "paper",
        {"idk_weight": 2, "kl_retain": 3, "answers": "random"},
        lambda w: 2 * by_hand.nll(w[RANDOM]) - by_hand.nll(w[FORGET]) + 3 * by_hand.kl_reverse(w[RETAIN]),
    ),
    (
        "rmu",
        "paper",
        {"layer": 1, "alpha": 4, "average": "true", "images": 1},
        lambda w: rmu(w, 4.0, average=True, images=True, layer=1),
    ),
    (
        "twins",
        "paper",
        {"distance": "kl", "retain_weight": 2},
        lambda w: by_hand.kl_reverse(w[AUGMENTED]) + 2 * by_hand.kl_reverse(w[RETAIN]),
    ),
    (
        "scrub_bio",
        "paper",
        {"retain_weight": 2},
        lambda w: by_hand.similarity(w[FORGET]) + 2 * by_hand.cosine(w[RETAIN]),
    ),
    (
        "pubg",
        "paper",
        {"suppress": "ga", "ceiling": 1, "suppress_weight": 2, "guide_weight": 3, "retain_weight": 0.5},
        lambda w: (
            -2 * by_hand.bounded_nll(w[PRIVATE], 1.0) + 3 * by_hand.kl_forward(w[GUIDE]) + 0.5 * by_hand.nll(w[RETAIN])
        ),
    ),
    (
        "pubg_paper",
        "paper",
        {"suppress": "npo", "beta": 0.2},
        lambda w: by_hand.npo(w[PRIVATE], 0.2) + by_hand.kl_forward(w[GUIDE]),
    ),
    (
        "alt_dpo",
        "paper",
        {"beta": 1, "retain_weight": 2},
        lambda w: by_hand.dpo(w[SAFE], w[PRIVATE], 1.0) + 2 * by_hand.nll(w[RETAIN]),
    ),
    ("sft_guide", "paper", {"kl_retain": 4}, lambda w: by_hand.nll(w[SAFE]) + 4 * by_hand.kl_forward(w[RETAIN])),
    (
        "simnpo",
        "paper",
        {"beta": 2, "gamma": 1, "forget_weight": 3, "retain_weight": 0},
        lambda w: 3 * by_hand.simnpo(w[FORGET], 2.0, 1.0),
    ),
    (
        "undial",
        "paper",
        {"strength": 2, "retain_weight": 3},
        lambda w: by_hand.undial(w[FORGET], 2.0) + 3 * by_hand.nll(w[RETAIN]),
    ),
    ("wga", "paper", {"alpha": 2, "retain_weight": 0}, lambda w: by_hand.wga(w[FORGET], 2.0)),
    (
        "satimp",
        "paper",
        {"beta1": 1, "beta2": 2, "forget_weight": 3, "retain_weight": 0},
        lambda w: 3 * by_hand.satimp(w[FORGET], 1.0, 2.0),
    ),
    ("ce_u", "paper", {"skip": 2}, lambda w: by_hand.ce_u(w[FORGET], 2)),
    (
        "npo",
        "paper",
        {"retain_weight": 2, "kl_weight": 3, "match_weight": 4, "match_layer": 1},
        lambda w: (
            by_hand.npo(w[FORGET], 1.0)
            + 2 * by_hand.nll(w[RETAIN])
            + 3 * by_hand.kl_forward(w[RETAIN])
            + 4 * by_hand.match(w[RETAIN], 1, images=False, average=False)
        ),
    ),
]


def test_no_method_and_no_variant_is_left_out() -> None:
    assert set(PAPER) == set(METHODS)
    other = {(name, v) for name, m in METHODS.items() for v in VARIANTS if m.equation(v) is not m.equation("paper")}
    assert set(OTHERS) == other


@pytest.mark.parametrize("name", PAPER)
def test_method_is_its_equation(name: str) -> None:
    world = make_world()
    assert value(build(name), world) == pytest.approx(PAPER[name](world), rel=1e-11)


@pytest.mark.parametrize(("name", "variant"), OTHERS)
def test_variant_is_what_that_code_does(name: str, variant: Variant) -> None:
    world = make_world()
    assert value(build(name, variant=variant), world) == pytest.approx(OTHERS[name, variant](world), rel=1e-11)


@pytest.mark.parametrize("number", range(len(SETTINGS)), ids=[f"{n}-{v}-{'-'.join(s)}" for n, v, s, _ in SETTINGS])
def test_hyperparameters_are_where_the_equation_has_them(number: int) -> None:
    name, variant, settings, equation = SETTINGS[number]
    world = make_world(2)
    assert value(build(name, settings, variant), world) == pytest.approx(equation(world), rel=1e-11)


def test_sparsity_and_l1() -> None:
    assert build("sparsity").penalties == (Penalty("l1", "all", "sum", 1e-4),)
    assert build("sparsity", {"weight": 0.5}).penalties == (Penalty("l1", "all", "sum", 0.5),)


def test_grad_orth_is_a_rule_over_forget_and_retain() -> None:
    objective = build("grad_orth", {"until": 0.25})
    assert objective.rule == Orthogonal(0.25)
    assert [str(group) for group in objective.rule.groups(objective)] == ["-nll(FORGET)", "nll(RETAIN)"]
    assert build("grad_orth").rule == Orthogonal(0.8)
    assert all(build(name).rule == Sum() for name in METHODS if name != "grad_orth")


def test_rmu_trains_the_blocks_up_to_its_layer() -> None:
    assert build("rmu").train_layers == (5, 6, 7)
    assert build("rmu", {"layer": 1}).train_layers == (0, 1)
    assert build("rmu", {"layer": 4, "layers": 1}).train_layers == (4,)
    assert build("rmu", variant="clear_code").train_layers == (5, 6, 7)
    assert all(build(name).train_layers is None for name in METHODS if name != "rmu")


def test_a_weight_of_zero_spends_no_forward_pass() -> None:
    for name in ("simnpo", "undial", "wga", "satimp"):
        assert build(name, {"retain_weight": 0}).needs.views == (FORGET,)
