"""The share that came back, the average prefix and the worst one, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from clear_dist.attacks.readings import prefix_mean, recovery
from clear_dist.attacks.worst import worst_of
from clear_dist.metrics.record import Record


def summary(**values: tuple[float | None, float | None]) -> dict[str, Any]:
    """model@step -> (fact, name) of relearn_forget."""
    models: dict[str, Any] = {}
    for key, (fact, name) in values.items():
        model, step = key.split("_")
        estimates = {"fact_accuracy": fact, "name_accuracy": name}
        group = {metric: None if v is None else {"value": v, "ci": [0, 1], "n": 9} for metric, v in estimates.items()}
        models.setdefault(model, {"robustness": {}})["robustness"][f"relearn_forget@{step}"] = {
            "forget": {"all": group}
        }
    return {"models": models}


def test_recovery_by_hand() -> None:
    found = recovery(
        summary(
            original_0=(1.0, 0.5), gold_0=(0.1, 0.0), gold_5=(0.2, 0.0), gold_20=(0.4, None),
            unlearned_0=(0.1, 0.0), unlearned_20=(0.85, 0.5), unlearned_5=(0.15, 0.6),
        ),
        "unlearned",
    )["relearn_forget"]  # fmt: skip
    assert list(found) == ["0", "5", "20"]
    assert found["0"]["fact_accuracy"] == 0.0
    assert found["5"]["fact_accuracy"] == pytest.approx(-0.05 / 0.9), "below gold stays below 0"
    assert found["5"]["name_accuracy"] == pytest.approx(1.2), "not clipped"
    assert found["20"]["fact_accuracy"] == pytest.approx(0.5)
    assert found["20"]["name_accuracy"] is None
    assert found["20"]["rouge_l"] is None


def test_no_share_of_nothing() -> None:
    close = summary(original_0=(0.13, 0.0), gold_0=(0.1, 0.0), gold_5=(0.1, 0.0), unlearned_5=(0.9, 0.9))
    assert recovery(close, "unlearned")["relearn_forget"]["5"] == dict.fromkeys(
        ("fact_accuracy", "name_accuracy", "rouge_l")
    )
    alone = summary(unlearned_0=(0.1, 0.0), unlearned_5=(0.9, 0.9))
    assert set(recovery(alone, "unlearned")["relearn_forget"]["5"].values()) == {None}
    assert recovery({"models": {"unlearned": {"robustness": None}}}, "unlearned") == {}
    assert recovery({"models": {}}, "unlearned") == {}
    other = {"models": {"unlearned": {"robustness": {"int4": {}, "prefix_1": {}}}}}
    assert recovery(other, "unlearned") == {}


def prefixes(**facts: float | None) -> dict[str, Any]:
    def of(value: float | None) -> dict[str, Any]:
        return {"forget": {"all": {"fact_accuracy": None if value is None else {"value": value}}}}

    return {"models": {"m": {"robustness": {name: of(value) for name, value in facts.items()}}}}


def test_the_mean_is_over_the_prefixes_alone() -> None:
    found = prefix_mean(prefixes(prefix_1=0.1, prefix_2=0.4, prefix_worst=0.9, prefilled=1.0, int4=1.0), "m")
    assert found is not None
    assert found["fact_accuracy"] == pytest.approx(0.25)
    assert found["name_accuracy"] is None


def test_a_mean_with_a_gap_is_no_mean() -> None:
    found = prefix_mean(prefixes(prefix_1=0.1, prefix_2=None), "m")
    assert found is not None and found["fact_accuracy"] is None
    assert prefix_mean(prefixes(int4=1.0), "m") is None
    assert prefix_mean({"models": {}}, "m") is None


def record(number: int, attempt: int, fact: int | None, name: int | None, rouge: float | None) -> Record:
    scores = {"fact": fact, "name": name, "rouge_l": rouge}
    return Record(f"m/prefix_{attempt}", "forget", "text", "qa", f"id{number}", f"try {attempt}", "Yes.", scores=scores)


def test_the_worst_answer_of_each_question() -> None:
    tries = [
        [record(0, 1, 0, None, 0.9), record(1, 1, None, 0, 0.1), record(2, 1, None, None, None)],
        [record(0, 2, 1, None, 0.2), record(1, 2, None, 0, 0.3), record(2, 2, None, None, 0.0)],
        [record(0, 3, 1, None, 0.2), record(3, 3, None, 1, 0.0)],
    ]
    worst = worst_of(tries, "m/prefix_worst")
    assert [(r.id, r.prompt) for r in worst] == [
        ("id0", "try 2"),  # a fact said outweighs ROUGE, the earlier of equals stays
        ("id1", "try 2"),
        ("id2", "try 1"),
        ("id3", "try 3"),
    ]
    assert {r.model for r in worst} == {"m/prefix_worst"}
    assert worst_of([], "m/prefix_worst") == []
