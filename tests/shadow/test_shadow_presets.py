"""The table of methods and numbers: complete, readable, and refusing what it does not have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clear_dist.data.augment_batch import AUGMENTATIONS
from clear_dist.errors import UserError
from clear_dist.methods import METHODS, parse_objective
from clear_dist.shadow.presets import (
    DEFAULT_METHODS,
    PAPER_METHODS,
    PRESETS,
    VISION_METHODS,
    methods_of,
    unlearning_of,
)
from clear_dist.shadow.settings import Training, Unlearning
from clear_dist.shadow.unlearn import plan_of

PAPER: dict[str, tuple[float, float, int, int, str]] = {
    # epochs, lr, batch, repeat, batchnorm of CLEAR's public code
    "scrub_bio": (4, 0.2, 256, 5, "train"),
    "twins": (5, 1e-4, 128, 10, "train"),  # theirs: .4, for a distance that is not squared
    "rmu": (3, 0.2, 256, 1, "train"),
    "sparsity": (4, 0.01, 32, 1, "train"),
    "retain_ft": (5, 0.01, 256, 1, "train"),
    "llmu": (5, 0.01, 256, 1, "frozen"),
    "scrub": (5, 0.01, 256, 1, "frozen"),
    "dpo": (4, 0.01, 256, 1, "frozen"),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_numbers_are_those_of_the_public_code(name: str) -> None:
    made = methods_of((name,), PRESETS["paper"])[name]
    assert (made.epochs, made.lr, made.batch, made.repeat, made.batchnorm) == PAPER[name]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_method_fits_pictures(preset: str) -> None:
    made = methods_of(VISION_METHODS, PRESETS[preset])
    assert tuple(made) == VISION_METHODS and set(DEFAULT_METHODS) <= set(VISION_METHODS) <= set(METHODS)
    for method in made.values():
        objective = parse_objective(method.objective)
        plan = plan_of(objective, method, 40, 400)
        assert plan.steps > 0 and plan.forget + plan.retain > 0 and method.augment in AUGMENTATIONS
        assert str(objective) == method.objective


def test_hyperparameters_reach_the_equation() -> None:
    made = methods_of(("rmu", "sparsity", "llmu", "dpo"), PRESETS["paper"])
    assert "layer=2, scale=2, average=True" in made["rmu"].objective
    assert "0.0001*l1(ALL)" in made["sparsity"].objective
    assert "nll(RANDOM)" in made["llmu"].objective and "dpo(RANDOM, FORGET" in made["dpo"].objective


def test_presets_are_of_their_size() -> None:
    paper, mini = PRESETS["paper"], PRESETS["mini"]
    assert (paper.size, paper.models, paper.forget, paper.holdout, paper.network.size) == (224, 256, 20, 20, "18")
    assert paper.shadow == Training(20, 0.02, 256, warmup=0.1) and paper.shadow.augment == "none"
    assert mini.methods["grad_orth"].epochs < paper.methods["grad_orth"].epochs == 500
    assert mini.size * mini.models < paper.size * paper.models and mini.network.size == "tiny"


def test_single_settings_can_be_given() -> None:
    base = unlearning_of("npo", PAPER_METHODS["npo"])
    assert unlearning_of("npo", PAPER_METHODS["npo"], {"lr": 0.5, "perturb": 0.1}) == replace(base, lr=0.5, perturb=0.1)
    assert isinstance(base, Unlearning) and base.perturb == 0


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("scrub_bi",), r"--methods scrub_bi: no such method.*scrub_bio"),
        (("nothing_like_it",), r"--methods nothing_like_it: no such method"),
        (("undial",), r"--methods undial: is for language models; vision methods: retain_ft, scrub"),
        (("npo", "gd", "npo"), "--methods npo: named twice"),
    ],
)
def test_names_that_are_none(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        methods_of(names, PRESETS["mini"])


def test_hyperparameters_that_are_none() -> None:
    with pytest.raises(KeyError, match="depth"):
        unlearning_of("rmu", PAPER_METHODS["rmu"], more={"depth": 2})
    for wrong in ("deep", float("nan")):
        with pytest.raises(ValueError, match="layer"):
            unlearning_of("rmu", PAPER_METHODS["rmu"], more={"layer": wrong})


def test_hyperparameters_replace_single_ones() -> None:
    made = unlearning_of("rmu", PAPER_METHODS["rmu"], more={"c": 3.0})
    assert "layer=2, scale=3, average=True" in made.objective and made.stages == (0, 1, 2)


WRONG: list[dict[str, Any]] = [
    {"epochs": 0.0},
    {"epochs": float("nan")},
    {"lr": -1.0},
    {"lr": float("inf")},
    {"batch": 1},
    {"weight_decay": -1e-4},
    {"momentum": 1.0},
    {"warmup": -0.5},
    {"augment": "upside_down"},
    {"repeat": 0},
    {"perturb": -0.1},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_numbers_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name}: expected .*, got "):
        unlearning_of("npo", PAPER_METHODS["npo"], wrong)
    if name not in ("repeat", "perturb"):
        with pytest.raises(ValueError, match=f"^{name}: expected .*, got "):
            replace(PRESETS["mini"].shadow, **wrong)
