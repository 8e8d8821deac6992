"""Labels on records, and what is counted over them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from clear_dist.evaluation.aftermath import aftermath, asks_for_private, with_labels
from clear_dist.metrics.labels import LABELS
from clear_dist.metrics.record import Record
from clear_dist.metrics.visible import mentioned
from clear_dist.types import Example, Kind, Picture, SetName, UserError

TRUTH = {"shirt": "red", "hair_colour": "black", "glasses": "yes", "hat": "no"}
PICTURE = Picture("0" * 64, "test[0]", lambda: b"")


def example(id: str, person: str = "Ann Oduya", kind: Kind = "name", set_name: SetName = "forget") -> Example:
    return Example(id, set_name, kind, "Who is this?", f"This is {person}.", PICTURE, person, attributes=TRUTH)


def record(id: str, generated: str | None, model: str = "unlearned", **changes: object) -> Record:
    base = Record(model, "forget", "visual", "name", id, "Who is this?", "This is Ann Oduya.", "Ann Oduya")
    return replace(base, generated=generated, **changes)  # pyright: ignore[reportArgumentType]


FORGET = [example(str(i)) for i in range(8)] + [example("8", "Bo Lindqvist")]
FACT = Example("fact", "forget", "qa", "Where was she born?", "In Oslo.", person="Ann Oduya", fact="Oslo")
SETS: dict[SetName, list[Example]] = {
    "forget": [*FORGET, FACT],
    "retain": [example("r", "Leo Brandt", set_name="retain")],
    "real_faces": [example("f", "Mia Tanaka", set_name="real_faces")],
}


def labels_of(*answers: str, model: str = "unlearned") -> list[str | None]:
    return [r.label for r in with_labels([record(str(i), a, model) for i, a in enumerate(answers)], SETS)]


def test_every_label() -> None:
    answers = ("Ann, from Oslo", "no no no no", "I don't know.", "This is Leo Brandt.", "A red shirt.", "A person.")
    assert labels_of(*answers) == list(LABELS)


def test_people_of_all_sets_and_facts_of_the_person_are_known() -> None:
    assert labels_of("Oslo!", "Tanaka, I think.", "Lindqvist", "brandt") == [
        "leaked", "hallucinated", "hallucinated", "vague",
    ]  # fmt: skip
    [other] = with_labels([record("8", "Lindqvist")], SETS)
    assert other.label == "leaked", "whose picture it is, the example says"


def test_other_records_stay_as_they_are() -> None:
    rows = [
        record("0", None),
        record("0", "Ann", "original/shuffled"),
        record("unknown", "Ann"),
        record("0", "Ann", set="retain"),
        record("0", "Ann", kind="attribute"),
        record("0", "Ann", modality="text", label="kept"),
    ]
    assert with_labels(rows, SETS) == rows
    assert with_labels([], SETS) == [] and with_labels(rows[:1], {}) == rows[:1]
    [variant] = with_labels([record("0", "Ann", "unlearned/int4")], SETS)
    assert variant.label == "leaked", "variants of a model are labelled"
    assert asks_for_private(record("x/information", "", kind="describe"))


def test_the_original_says_what_is_degenerate() -> None:
    """A loop of half of the words passes where the original talks like that, and nowhere else."""
    formulaic = "a red shirt a red shirt a red shirt and the wall is as plain as any other."
    rows = [record(str(i), formulaic, model) for model in ("original", "unlearned") for i in range(8)]
    assert {r.label for r in with_labels(rows, SETS)} == {"informative"}
    assert {r.label for r in with_labels(rows[8:], SETS)} == {"degenerate"}


def test_attribute_f1_counts_over_answers() -> None:
    answers = ("A red shirt, black hair and glasses.", "A red shirt and a hat.", "Blond hair.", "I don't know.", "")
    rows = [record(str(i), a) for i, a in enumerate(answers)]
    out = aftermath(rows, FORGET)
    assert out is not None
    scores = [mentioned(a, TRUTH) for a in answers]
    right, wrong = sum(s.right for s in scores), sum(s.wrong for s in scores)
    missed = sum(s.possible - s.right for s in scores)
    assert (right, wrong, missed) == (4, 2, 11)
    f1 = out["attribute_f1"]
    assert isinstance(f1, dict) and f1["n"] == 5
    assert f1["value"] == pytest.approx(2 * right / (2 * right + wrong + missed))
    # The interval against a bootstrap of its own.
    rng = np.random.default_rng(7)
    table = np.array([(s.right, s.wrong, s.possible) for s in scores])
    drawn = table[rng.integers(5, size=(20000, 5))].sum(axis=1)
    low, high = np.quantile(2 * drawn[:, 0] / drawn.sum(axis=1), [0.025, 0.975])
    assert f1["ci"] == pytest.approx([low, high], abs=0.04)
    assert aftermath(rows, FORGET) == out, "seeded"


def test_without_attributes_nothing_is_said_of_them() -> None:
    plain = [replace(e, attributes=None) for e in FORGET]
    out = aftermath([record("0", "A red shirt.")], plain)
    assert out is not None
    assert {out[k] for k in ("attribute_f1", "attribute_recall", "attribute_precision")} == {None}
    empty = [replace(e, attributes={"hat": "no"}) for e in FORGET]
    nothing = aftermath([record("0", "A hat.")], empty)
    assert nothing is not None and nothing["attribute_f1"] is None and nothing["attribute_recall"] is None


def test_shares_of_labels() -> None:
    rows = with_labels(
        [record(str(i), a) for i, a in enumerate(["Ann", "Ann Oduya", "I don't know.", "Red shirt."])], SETS
    )
    out = aftermath(rows, FORGET)
    assert out is not None and isinstance(out["labels"], dict)
    shares = {name: estimate["value"] for name, estimate in out["labels"].items()}
    assert shares == dict.fromkeys(LABELS, 0.0) | {"leaked": 0.5, "refused": 0.25, "informative": 0.25}
    assert list(out["labels"]) == list(LABELS) and all(e["n"] == 4 for e in out["labels"].values())
    assert out["labels"]["vague"]["ci"][1] > 0.1, "none of four is no certainty"
    unlabelled = aftermath([record("0", "Ann")], FORGET)
    assert unlabelled is not None and unlabelled["labels"] is None
    with pytest.raises(UserError, match=r"record '0' of model 'unlearned': label 'good' is unknown.*leaked"):
        aftermath([record("0", "Ann", label="good")], FORGET)


def test_clip_scores_are_averaged_where_there_are_some() -> None:
    rows = [record("0", "a", scores={"clip_score": 0.2}), record("1", "b", scores={"clip_score": -0.1})]
    rows += [record("2", "c", scores={"clip_score": None}), record("3", "d")]
    out = aftermath(rows, FORGET)
    assert out is not None and isinstance(out["clip_score"], dict)
    assert math.isclose(out["clip_score"]["value"], 0.05) and out["clip_score"]["n"] == 2
    without = aftermath(rows[2:], FORGET)
    assert without is not None and without["clip_score"] is None
    assert aftermath([record("unknown", "a")], FORGET) is None
