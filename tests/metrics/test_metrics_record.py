"""Names of models in records, and files written before a score was there."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clear_dist.metrics.record import SCORES, Record, control_name, is_control, parse_record, variant, variant_name
from clear_dist.types import SETS, UserError


def row(**changes: Any) -> dict[str, Any]:
    return {**json.loads(Record("m", "forget", "text", "qa", "1", "q", "a").to_line()), **changes}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("unlearned/int4", ("unlearned", "int4")),
        ("gold/relearn_forget@10", ("gold", "relearn_forget@10")),
        ("npo-lr=1e-5/a/b", ("npo-lr=1e-5", "a/b")),
        ("unlearned", None),
        ("original/shuffled", None),
        ("/int4", None),
        ("unlearned/", None),
        ("", None),
    ],
)
def test_variants_are_told_from_models_and_controls(name: str, parts: tuple[str, str] | None) -> None:
    assert variant(name) == parts
    assert parts is None or variant_name(*parts) == name


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=8), st.text(max_size=8))
def test_a_variant_name_can_always_be_read_back(model: str, attack: str) -> None:
    try:
        name = variant_name(model, attack)
    except UserError:
        assert "/" in model or not model or not attack or is_control(f"{model}/{attack}")
    else:
        assert variant(name) == (model, attack) and not is_control(name)


def test_ambiguous_names_are_refused() -> None:
    for model, attack in (("a/b", "int4"), ("", "int4"), ("gold", ""), ("gold", "shuffled")):
        with pytest.raises(UserError, match="without a slash"):
            variant_name(model, attack)
    assert variant(control_name("original")) is None


def test_every_score_is_written_and_old_files_are_read() -> None:
    assert set(row()["scores"]) == set(SCORES)
    old = parse_record(row(scores={"rouge_l": 0.5, "fact": 1, "name": None, "attributes": {"hair": 0}}), "here")
    assert old.score("rouge_l") == 0.5 and old.score("fact") == 1.0
    assert all(old.score(k) is None for k in ("rouge_1", "exact_memorisation", "extraction_strength", "min_k_plus"))
    assert json.loads(old.to_line())["scores"]["min_k_plus"] is None


def test_every_set_is_read() -> None:
    assert [parse_record(row(set=name), "here").set for name in SETS] == list(SETS)
    with pytest.raises(UserError, match=r"'test' is unknown.*forget, retain, real_faces, real_world, holdout"):
        parse_record(row(set="test"), "here")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ('{"scores": {"min_k_plus": 1e999}}', "scores.min_k_plus: expected a finite number"),
        ('{"scores": {"attributes": {"hair": -1e999}}}', "scores.attributes.hair: expected a finite number"),
        ('{"logp": {"answer": [-1, -1e999]}}', "logp.answer holds a value that is not finite"),
        ('{"logp": {"perturbed": [[-1], [1e999]]}}', "logp.perturbed holds a value that is not finite"),
    ],
)
def test_infinity_spelled_as_a_number_is_refused(changes: str, said: str) -> None:
    with pytest.raises(UserError, match=f"file:3: {said}"):
        parse_record(row(**json.loads(changes)), "file:3")
