"""From flags to an objective and its views: unknown names are refused with the nearest, and what is asked is built."""

from __future__ import annotations

from typing import Any

import pytest

from clear_dist.config import UnlearnConfig
from clear_dist.data.load import Dataset
from clear_dist.methods import FORGET, IDK, METHODS, RETAIN, build, kl, l1, nll, npo
from clear_dist.recipes.unlearn import objective_of, views_of
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
        ({"method": "ga", "set": {"beta": 1}}, r"--set beta: ga has no such hyperparameter.*it has: none"),
        ({"method": "npo", "set": {"beta": 0}}, r"--set: npo: beta must be > 0, got 0"),
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
    pools, batch = views_of(config(retain_ratio=2.5), nll(RETAIN) - nll(FORGET), data)
    assert batch == {FORGET: 4, RETAIN: 10}
    assert pools == {FORGET: data.train["forget"], RETAIN: data.train["retain"]}
    _, batch = views_of(config(retain_ratio=0.01), nll(RETAIN) - nll(FORGET), data)
    assert batch[RETAIN] == 1, "a term asked for always gets an example"


def test_only_what_is_looked_at_is_supplied() -> None:
    assert views_of(config(), -nll(FORGET), dataset())[1] == {FORGET: 4}
    # Alone, the retain set is what is trained on: the batch is the batch.
    assert views_of(config(retain_ratio=3.0), nll(RETAIN), dataset())[1] == {RETAIN: 4}


def test_idk_has_other_answers_to_the_forget_prompts() -> None:
    data = dataset()
    pools, batch = views_of(config(), nll(IDK) - nll(FORGET), data)
    assert batch == {IDK: 4, FORGET: 4}
    assert [e.id for e in pools[IDK]] == [e.id for e in data.train["forget"]]
    assert [e.question for e in pools[IDK]] == [e.question for e in data.train["forget"]]
    assert not {e.answer for e in pools[IDK]} & {e.answer for e in data.train["forget"]}
    assert pools == views_of(config(), nll(IDK) - nll(FORGET), data)[0], "drawn by the seed"


def test_no_retain_examples_for_a_retain_term() -> None:
    with pytest.raises(UserError, match=r"--retain-ratio 0 leaves the objective's retain terms without examples"):
        views_of(config(retain_ratio=0), nll(RETAIN) - nll(FORGET), dataset())
    assert views_of(config(retain_ratio=0), -nll(FORGET), dataset())[1] == {FORGET: 4}
    assert views_of(config(retain_ratio=0), nll(RETAIN), dataset())[1] == {RETAIN: 4}
