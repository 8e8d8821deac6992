"""From flags to an objective and its views: unknown names are refused with the nearest, and what is asked is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clear_dist.config import UnlearnConfig
from clear_dist.data.load import Dataset
from clear_dist.errors import ConfigError
from clear_dist.methods import AUGMENTED, FORGET, IDK, METHODS, PRIVATE, RETAIN, SAFE, build, kl, l1, l2, nll, npo
from clear_dist.models import inspect_model
from clear_dist.recipes.unlearn import objective_of
from clear_dist.recipes.views import check_objective, views_of
from clear_dist.types import Example, SetName, UserError

WHO: dict[SetName, list[str]] = {"forget": ["Anna", "Ben"], "retain": ["Carla", "Dan", "Eva"]}


def config(**values: Any) -> UnlearnConfig:
    """No preset's hyperparameters: ``paper`` sets none."""
    return UnlearnConfig(**{"preset": "paper", "global_batch": 4, **values})


def dataset() -> Dataset:
    def example(name: SetName, i: int, who: str) -> Example:
        return Example(f"{name}/{i}", name, "qa", f"Where does {who} live?", f"{who} lives in town {i}.", person=who)

    train = {str(name): [example(name, i, who) for i, who in enumerate(people)] for name, people in WHO.items()}
    return Dataset("towns", "d", train, {}, {str(k): v for k, v in WHO.items()}, [])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_its_equation(name: str) -> None:
    assert str(objective_of(config(method=name))) == str(build(name))


def test_hyperparameters_arrive() -> None:
    given = objective_of(config(method="npo", set={"beta": 0.5, "retain_weight": 2.0}))
    assert str(given) == str(npo(FORGET, beta=0.5) + 2.0 * nll(RETAIN))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": "npoo"}, r"--method npoo: unknown \(did you mean 'npo'\?\); known: retain_ft, ga,"),
        ({"method": "unlearn"}, r"--method unlearn: unknown.*; known: .*npo"),
        ({"method": "npo", "set": {"bta": 1}}, r"--set bta: npo has no such hyperparameter \(did you mean 'beta'\?\)"),
        ({"method": "ga", "set": {"beta": 1}}, r"--set beta: ga has no such hyperparameter.*it has: retain_weight"),
        ({"method": "npo", "set": {"beta": "nan"}}, r"--set: beta is nan; expected a finite number"),
        ({"method": "npo", "set": {"beta": "x"}}, r"--set: beta is 'x'; expected a number"),
        ({"method": "twins", "set": {"distance": "l3"}}, r"--set: twins: distance is 'l3'; expected l2 or kl"),
        ({"method": "rmu", "set": {"layer": 1.5}}, r"--set: layer is 1.5; expected a whole number"),
        ({"method": "npo", "set": {"beta": 0}}, r"--set: npo: beta must be > 0 and finite, got 0"),
        ({"objective": "nll(RETAIN)", "set": {"beta": 1}}, r"--set belongs to --method"),
        ({"objective": "npo(FORGOT)"}, r"npo\(FORGOT\): unknown \(did you mean 'FORGET'\?\)"),
        ({"objective": "nppo(FORGET)"}, r"unknown term 'nppo' \(did you mean 'npo'\?\)"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        objective_of(config(**values))


def test_a_written_objective() -> None:
    given = objective_of(config(objective="npo(FORGET, beta=0.5) + 2*kl(RETAIN)"))
    assert str(given) == str(npo(FORGET, beta=0.5) + 2 * kl(RETAIN))


@pytest.mark.parametrize("values", [{"method": "ga"}, {"objective": "-nll(FORGET)"}])
def test_l1_is_added(values: dict[str, Any]) -> None:
    assert objective_of(config(**values)).penalties == ()
    (penalty,) = objective_of(config(**values, l1=0.25)).penalties
    assert (penalty.norm, penalty.parameters, penalty.factor) == ("l1", "lora", 0.25)
    assert str(objective_of(config(**values, l1=0.25))) == str(-nll(FORGET) + 0.25 * l1("lora"))


def test_views_and_their_shares() -> None:
    data = dataset()
    views = views_of(config(retain_ratio=2.5), nll(RETAIN) - nll(FORGET), data)
    assert views.batch == {FORGET: 4, RETAIN: 10}
    assert views.pools == {FORGET: data.train["forget"], RETAIN: data.train["retain"]} and views.reference == {}
    views = views_of(config(retain_ratio=0.01), nll(RETAIN) - nll(FORGET), data)
    assert views.batch[RETAIN] == 1, "a term asked for always gets an example"


def test_only_what_is_looked_at_is_supplied() -> None:
    assert views_of(config(), -nll(FORGET), dataset()).batch == {FORGET: 4}
    # Alone, the retain set is what is trained on: the batch is the batch.
    assert views_of(config(retain_ratio=3.0), nll(RETAIN), dataset()).batch == {RETAIN: 4}


def test_idk_has_other_answers_to_the_forget_prompts(tmp_path: Path) -> None:
    data = dataset()
    views = views_of(config(), nll(IDK) - nll(FORGET), data)
    assert views.batch == {IDK: 4, FORGET: 4}
    assert [e.id for e in views.pools[IDK]] == [e.id for e in data.train["forget"]]
    assert [e.question for e in views.pools[IDK]] == [e.question for e in data.train["forget"]]
    assert not {e.answer for e in views.pools[IDK]} & {e.answer for e in data.train["forget"]}
    assert views == views_of(config(), nll(IDK) - nll(FORGET), data), "drawn by the seed"
    answers = tmp_path / "answers.txt"
    answers.write_text("Ask somebody else.\n")
    views = views_of(config(idk_answers=answers), nll(IDK), data)
    assert {e.answer for e in views.pools[IDK]} == {"Ask somebody else."}


def test_no_retain_examples_for_a_retain_term() -> None:
    with pytest.raises(ConfigError, match=r"--retain-ratio 0 leaves the objective's retain terms without examples"):
        views_of(config(retain_ratio=0), nll(RETAIN) - nll(FORGET), dataset())
    assert views_of(config(retain_ratio=0), -nll(FORGET), dataset()).batch == {FORGET: 4}
    assert views_of(config(retain_ratio=0), nll(RETAIN), dataset()).batch == {RETAIN: 4}


def test_pairs_stand_in_for_the_teacher_until_there_is_one() -> None:
    views = views_of(config(), objective_of(config(method="alt_dpo")), dataset())
    assert [e.id for e in views.pools[SAFE]] == [e.id for e in views.pools[PRIVATE]]
    with pytest.raises(ConfigError, match="AUGMENTED needs pictures"):
        views_of(config(), l2(AUGMENTED), dataset())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": "rmu"}, r"looks at layer 7, but the model has 3 decoder blocks \(0 to 2\).*--set layer"),
        ({"objective": "dpo(IDK, RETAIN)"}, r"IDK and RETAIN are not bound example by example"),
        ({"method": "ga", "train_layers": (5,)}, r"--train-layers 5, but the model has 3 decoder blocks"),
        ({"objective": "misdirect(FORGET, layer=0)", "train_layers": (2,)}, r"looks at nothing above block 0"),
        ({"objective": "nll(RETAIN) + l1(LORA)", "full": True}, r"l1\(LORA\) needs LoRA"),
        ({"method": "ga", "reference_model": "x"}, r"--reference-model: the objective compares with no reference"),
        ({"objective": "match(GUIDE, layer=1)"}, r"on GUIDE prompts differ"),
    ],
)
def test_objectives_that_model_or_flags_contradict(values: dict[str, Any], said: str) -> None:
    given = config(**values)
    with pytest.raises(ConfigError, match=said):
        check_objective(given, objective_of(given), inspect_model("tiny"))


def test_layers_that_train() -> None:
    info = inspect_model("tiny")

    def layers(**values: Any) -> tuple[int, ...] | None:
        given = config(**values)
        return check_objective(given, objective_of(given), info)

    assert layers(method="ga") is None
    assert layers(method="rmu", set={"layer": 2, "layers": 2}) == (1, 2)
    assert layers(method="rmu", set={"layer": 2}, train_layers=(2,)) == (2,)
    assert layers(objective="misdirect(FORGET, layer=1)") == (0, 1), "above, nothing is computed"


@pytest.mark.parametrize("preset", ["clear_code", "tofu"])
def test_presets_run_the_equations_of_other_code(preset: str) -> None:
    given = config(method="kl", preset=preset)
    assert str(objective_of(given)) == str(METHODS["kl"].build({}, preset))  # pyright: ignore[reportArgumentType]
    assert str(objective_of(config(method="ga", preset=preset))) == "-nll(FORGET)", "the paper's where they agree"


def test_an_equation_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("# held by KL\n-nll(FORGET)  # ascent\n + 2*kl(RETAIN)\n")
    assert str(objective_of(config(objective=str(file)))) == "-nll(FORGET) + 2*kl(RETAIN)"
    with pytest.raises(ConfigError, match=r"neither an equation nor a file"):
        objective_of(config(objective=str(tmp_path / "none.txt")))
