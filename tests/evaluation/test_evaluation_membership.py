"""Membership of the summary: who counts as a member, against whom, and what is absent."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from clear_dist.evaluation.summary import summarise
from clear_dist.metrics.record import LogProbs, Record
from clear_dist.types import SetName, UserError


def _member_rows(model: str, forget: Sequence[float], holdout: Sequence[float], **changes: Any) -> list[Record]:
    """Questions of both sets with these mean log-probabilities, two tokens each."""
    sets: tuple[tuple[SetName, Sequence[float]], ...] = (("forget", forget), ("holdout", holdout))
    rows = [
        Record(
            model,
            name,
            "text",
            "qa",
            f"{name}/{i}",
            f"Über {i}?",
            "東京",
            scores={"min_k_plus": v},
            logp=LogProbs((v, v)),
        )
        for name, values in sets
        for i, v in enumerate(values)
    ]
    return [replace(r, **changes) for r in rows]


def test_membership_against_holdout_people() -> None:
    low, high = [-3.0, -4.0, -5.0, -6.0], [-0.1, -0.2, -0.3]
    rows = _member_rows("original", high, low) + _member_rows("npo", [-5.0, -3.5, -7.0], low)
    rows += _member_rows("gold", [-4.5, -3.0, -5.5], low)
    models = summarise(rows, draws=10)["models"]
    assert set(models["original"]["membership"]) == {"loss", "zlib", "min_k", "min_k_plus", "reference"}
    for attack in ("loss", "zlib", "min_k", "min_k_plus"):
        assert models["original"]["membership"][attack]["auc"]["value"] == 1.0
        assert models["original"]["membership"][attack]["auc"]["n"] == 7
        assert models["npo"]["membership"][attack]["auc"]["value"] == pytest.approx((1.5 + 3) / 12)
        gold = models["gold"]["membership"][attack]["auc"]["value"]
        assert gold == pytest.approx((2 + 3.5 + 1) / 12)
        assert models["original"]["membership"][attack]["privleak"] == pytest.approx(-100)
        assert models["npo"]["membership"][attack]["privleak"] == pytest.approx(100 * (gold - 4.5 / 12) / (1 - gold))
        assert models["gold"]["membership"][attack]["privleak"] is None  # not against itself
    assert "reference" not in models["gold"]["membership"]
    # npo minus gold: -.5, -.5, -1.5 for members, 0 for all others
    assert models["npo"]["membership"]["reference"]["auc"]["value"] == 0.0
    assert models["npo"]["membership"]["reference"]["privleak"] is None
    assert models["npo"]["model_utility"] is None  # neither set is part of it


def test_membership_without_gold_or_without_a_score() -> None:
    rows = _member_rows("npo", [-1.0], [-2.0, -3.0])
    alone = summarise(rows, draws=10)["models"]["npo"]["membership"]
    assert set(alone) == {"loss", "zlib", "min_k", "min_k_plus"}
    assert all(attack["privleak"] is None for attack in alone.values())
    old = summarise([replace(r, scores={}) for r in rows], draws=10)["models"]["npo"]["membership"]
    assert set(old) == {"loss", "zlib", "min_k"}
    nothing = summarise([replace(r, scores={}, logp=LogProbs()) for r in rows], draws=10)["models"]["npo"]
    assert nothing["membership"] is None
    assert summarise([r for r in rows if r.set == "forget"], draws=10)["models"]["npo"]["membership"] is None
    with pytest.raises(UserError, match=r"'npo', set forget, example 'forget/0': .*finite"):
        summarise([replace(r, logp=LogProbs((math.nan,))) for r in rows], draws=10)


def test_membership_compares_like_with_like() -> None:
    rows = _member_rows("npo", [-1.0, -2.0], [-2.0, -3.0])
    unseen = _member_rows("npo", [-9.0], [0.0], modality="visual", kind="caption", seen=False)
    names = _member_rows("npo", [-9.0], [0.0], modality="visual", kind="name")
    extra = [replace(r, id=f"{r.id}/{r.kind}") for r in unseen + names]
    auc = summarise([*rows, *extra], draws=10)["models"]["npo"]["membership"]["loss"]["auc"]
    assert (auc["value"], auc["n"]) == (3.5 / 4, 4) and "note" not in auc
    seen = [replace(r, seen=True) if r.kind == "caption" and r.set == "forget" else r for r in [*rows, *extra]]
    auc = summarise(seen, draws=10)["models"]["npo"]["membership"]["loss"]["auc"]
    assert auc["n"] == 6  # a holdout set all of whose pictures are unseen counts with them
    more = [*seen, *(replace(r, id=f"{r.id}/again") for r in seen if r.kind == "caption" and r.set == "forget")]
    note = summarise(more, draws=10)["models"]["npo"]["membership"]["loss"]["auc"]["note"]
    assert note == "pictures are 50% of the members and 33% of the others"
