"""Records of different data are never compared."""

from dataclasses import replace
from typing import Literal

import pytest

from clear_dist.metrics.record import Record
from clear_dist.metrics.same_data import refuse_mixed
from clear_dist.types import SetName, UserError


def record(model: str, key: str, set_name: SetName = "forget", kind: Literal["qa"] = "qa") -> Record:
    return Record(model, set_name, "text", kind, key, f"question {key}", f"answer {key}")


def grouped(*records: Record) -> dict[str, list[Record]]:
    out: dict[str, list[Record]] = {}
    for r in records:
        out.setdefault(r.model, []).append(r)
    return out


BOTH = [record(m, k) for m in ("original", "gold") for k in ("1", "2", "Zoë/3")]


def test_the_same_rows_in_any_order_pass() -> None:
    refuse_mixed(grouped(*BOTH))
    refuse_mixed(grouped(*BOTH[::-1]))
    refuse_mixed({})
    refuse_mixed(grouped(*BOTH, record("gold", "1", "retain")))  # a set of its own; the same id in another set


@pytest.mark.parametrize("set_name", ["forget", "retain", "real_faces", "real_world", "holdout"])
def test_other_rows_of_any_set_are_named(set_name: SetName) -> None:
    rows = [record("original", "a", set_name), record("original", "é", set_name), record("npo", "a", set_name)]
    with pytest.raises(UserError, match=rf"'original' and 'npo' .*different {set_name} rows .*'é' .*'original' only"):
        refuse_mixed(grouped(*rows))
    with pytest.raises(UserError, match=rf"different {set_name} rows .*'é'"):
        refuse_mixed(grouped(*rows[::-1]))


@pytest.mark.parametrize(
    ("field", "said"), [("prompt", "another question"), ("answer", "another answer"), ("picture", "another picture")]
)
def test_one_id_of_different_data_is_refused(field: str, said: str) -> None:
    rows = [*BOTH[:-1], replace(BOTH[-1], **{field: "other"})]
    with pytest.raises(UserError, match=rf"set forget: example 'Zoë/3' has {said} in each"):
        refuse_mixed(grouped(*rows))


def test_an_example_twice_is_refused_even_of_a_variant() -> None:
    with pytest.raises(UserError, match="'gold', set forget: example '1' is there twice"):
        refuse_mixed(grouped(*BOTH, record("gold", "1")))
    with pytest.raises(UserError, match="'gold/int4'"):
        refuse_mixed(grouped(*BOTH, record("gold/int4", "1"), record("gold/int4", "1")))


def test_variants_and_controls_may_hold_fewer_rows_and_other_prompts() -> None:
    for name in ("gold/int4", "original/shuffled", "gold/relearn_forget@10"):
        refuse_mixed(grouped(*BOTH, replace(record(name, "1"), prompt="Put otherwise: 1?")))
        refuse_mixed(grouped(record(name, "1"), *BOTH))
