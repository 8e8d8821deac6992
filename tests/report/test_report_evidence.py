"""Truth-ratio distributions, labels, attacks, membership, control, judge: figures by hand, and gaps where none is."""

from __future__ import annotations

import random

import pytest
from matplotlib.axes import Axes
from run_files import block, figure, records

from clear_dist.metrics.forget_quality import forget_quality
from clear_dist.metrics.record import LogProbs, Record
from clear_dist.report.aftermath import aftermath_table, judge_table, labels_image, labels_table
from clear_dist.report.attacks import (
    attack_order,
    control_table,
    membership_table,
    recovery_table,
    relearning_image,
    robustness_matrix,
    robustness_table,
)
from clear_dist.report.blocks import evidence, limits
from clear_dist.report.distributions import largest_gap, truth_ratio_image
from clear_dist.report.subject import Subject, combine, log_ratios
from clear_dist.report.words import LABELS, attack_words, quality_power
from clear_dist.types import UserError


def _subject(role: str, model: dict, ratios: dict[str, float] | None = None) -> Subject:
    found = {} if ratios is None else {"geometric": ratios}
    return Subject(role if role != "run" else "npo", role, (model,), ratios=found)  # pyright: ignore[reportArgumentType]


def test_the_gap_is_the_distance_that_forget_quality_tests() -> None:
    rng = random.Random(0)
    for n in (1, 2, 7, 40):
        a = [rng.gauss(0, 1) for _ in range(n)]
        b = [round(rng.gauss(0.5, 1), 1) for _ in range(n)]
        assert largest_gap(a, b).distance == pytest.approx(forget_quality(a, b).ks)
    there = largest_gap([1.0, 2.0], [2.0, 3.0])
    assert (there.x, there.low, there.high) == (1.0, 0.0, 0.5)


def test_ratios_are_those_of_the_paper_rows() -> None:
    rows = [*records(), Record("m", "forget", "visual", "name", "n", "?", "Ada", logp=records()[0].logp)]
    found = log_ratios([*rows, Record("m", "retain", "text", "qa", "r", "?", "x", logp=records()[0].logp)])
    # wrong: -2 and -2 per token, right: the paraphrase, -1
    assert found["geometric"] == pytest.approx({"a": -1.0, "b": -1.0}) == found["arithmetic"]
    imported = Record("m", "forget", "text", "qa", "i", "?", "x", scores={"truth_ratio": 1.0}, logp=LogProbs())
    assert log_ratios([imported]) == {"geometric": {"i": 0.0}, "arithmetic": {}}


def test_curves_need_records_and_gold_needs_the_same_rows() -> None:
    low, high = {"a": -2.0, "b": -1.0}, {"a": -0.5, "b": 0.5}
    original, gold = _subject("original", block(), low), _subject("gold", block(), high)
    run = _subject("run", block(ks=1.0), low)
    image = truth_ratio_image([original, run, gold])
    assert image is not None and image.numbers is not None and "npo" in image.alt
    assert [row.cells[-2].text for row in image.numbers.rows] == ["1.000", "1.000", "itself"]
    assert image.light.startswith(b"\x89PNG") and image.svg.startswith(b"<?xml") and image.dark != image.light
    other = _subject("gold", block(), {"a": 0.0})
    lone = truth_ratio_image([run, other])
    assert lone is not None and lone.numbers is not None and lone.numbers.rows[0].cells[-2].kind == "gap"
    assert truth_ratio_image([_subject("run", block())]) is None
    many = [original, *(Subject(f"r{i}", "run", (block(ks=1.0),), ratios={"geometric": low}) for i in range(5)), gold]
    assert truth_ratio_image(many) is not None


def _attacked(value: float, **more) -> dict:
    attacked = {"name_accuracy": figure(value), "fact_accuracy": figure(value), "rouge_l": None}
    return {"forget": {"all": attacked, "text": {}, "visual": {}}, **more}


NAMES = ("relearn@20", "int4", "relearn@5", "prefix")
ATTACKS = dict(zip(NAMES, (_attacked(0.6), _attacked(0.1), _attacked(0.4), _attacked(0.1)), strict=True))


def _attack_subjects() -> list[Subject]:
    zero = {name: _attacked(0.1) for name in NAMES}
    return [
        _subject("original", block(names=0.9, facts=0.9)),
        _subject("run", block(names=0.1, facts=0.1, robustness=ATTACKS)),
        _subject("gold", block(names=0.1, facts=0.88, robustness=zero)),
    ]


def test_attacks_in_order_and_beside_none() -> None:
    subjects = _attack_subjects()
    assert attack_order(subjects) == ["relearn@5", "relearn@20", "int4", "prefix"]
    table = robustness_table(subjects)
    assert table is not None and [row.cells[0].text for row in table.rows][:2] == ["none", "relearn@5"]
    assert [title for title, _ in table.groups] == ["", "original", "npo", "gold"]
    assert [c.text for c in table.rows[2].cells[4:7]] == [".600", ".600", "not measured"]
    assert table.rows[1].cells[1].kind == "gap", "the original was not attacked: a gap, not its own figure"
    matrix = robustness_matrix(subjects, "name_accuracy", "k")
    assert matrix is not None and [c.text for c in matrix.rows[1].cells] == [
        "npo",
        ".100",
        ".400",
        ".600",
        ".100",
        ".100",
    ]
    assert robustness_matrix(subjects, "rouge_l", "k") is None
    assert robustness_table([_subject("run", block())]) is None


def test_recovery_by_hand() -> None:
    table = recovery_table(_attack_subjects())
    assert table is not None
    # (.6 - .1) / (.9 - .1); facts: original and gold do not differ, nothing to recover
    assert table.head == ("Attack", "names", "facts")
    assert [[c.text for c in r.cells[:2]] for r in table.rows] == [
        ["relearn@5", ".375"],
        ["relearn@20", ".625"],
        ["4-bit weights (int4)", ".000"],
        ["prefix", ".000"],
    ]
    assert all(r.cells[2].kind == "gap" for r in table.rows)
    assert recovery_table(_attack_subjects()[1:]) is None, "no original, no scale"


def test_relearning_begins_at_step_0() -> None:
    image = relearning_image(_attack_subjects())
    assert image is not None and image.numbers is not None
    assert [[c.text for c in r.cells] for r in image.numbers.rows] == [
        ["relearn", "npo", "0: 0.10, 5: 0.40, 20: 0.60"],
        ["relearn", "gold", "0: 0.49, 5: 0.10, 20: 0.10"],
    ]
    assert relearning_image([_subject("run", block(robustness={"int4": _attacked(0.1)}))]) is None


def test_labels_and_what_is_described() -> None:
    shares = dict.fromkeys(LABELS, None) | {"leaked": figure(0.25), "informative": figure(0.75)}
    subjects = [
        _subject("original", block()),
        _subject("run", block(aftermath={"labels": shares, "attribute_f1": figure(0.5), "clip_score": None})),
    ]
    table = labels_table(subjects)
    assert table is not None and table.head == ("Model", *LABELS, "n")
    assert [c.text for c in table.rows[1].cells] == ["npo", ".250", *["not measured"] * 3, ".750", "not measured", "40"]
    assert all(c.kind == "gap" for c in table.rows[0].cells[1:])
    image = labels_image(subjects)
    assert image is not None and "npo" in image.alt and "original" not in image.alt
    assert aftermath_table(subjects) is not None
    assert labels_table(subjects[:1]) is None and labels_image(subjects[:1]) is None


def test_membership_has_a_gap_for_every_attack_that_is_absent() -> None:
    found = {"loss": {"auc": figure(0.9), "privleak": 83.25}, "reference": None}
    table = membership_table([_subject("run", block(membership=found)), _subject("gold", block(membership=None))])
    assert table is not None
    assert [c.text for c in table.rows[0].cells][:4] == ["npo", ".900", "83.2", "not measured"]
    assert [c.text for c in table.rows[1].cells][1:3] == ["not measured", "itself"]
    with pytest.raises(UserError, match=r"membership.loss.privleak must be a number"):
        membership_table([_subject("run", block(membership={"loss": {"auc": None, "privleak": "high"}}))])


def test_judge_and_control() -> None:
    judged = {
        "privacy": {"value": 1.5, "ci": [1.0, 2.0], "n": 9},
        "invalid": 3,
        "judge_model": "j",
        "prompt_version": 1,
    }
    table = judge_table([_subject("run", block(judge=judged))])
    assert table is not None
    assert [c.text for c in table.rows[0].cells] == [
        "npo",
        "1.50",
        "not measured",
        "not measured",
        "3",
        "9",
        "j, prompt 1",
    ]
    assert judge_table([_subject("run", block())]) is None
    swapped = Subject("original", "original", (block(names=0.9),), (block(names=0.05),))
    control = control_table([swapped, _subject("run", block())])
    assert control is not None and [c.text for c in control.rows[0].cells][:3] == ["original", ".900", ".050"]
    assert len(control.rows) == 1


def test_old_summaries_lack_it_all_and_the_page_says_so() -> None:
    subjects = [_subject("run", block())]
    found = evidence(subjects, several=False)
    assert found == []
    said = " ".join(limits(subjects, found))
    for words in ("no attack was tried", "trained on: not measured", "no gold model", "was not run", "not asked"):
        assert words in said
    full = [*_attack_subjects()[:1], _subject("run", block(robustness=ATTACKS)), _subject("gold", block())]
    assert "no attack" not in " ".join(limits(full, evidence(full, several=True)))


def test_power_in_words() -> None:
    assert quality_power(None) is None and quality_power({"power": None}) is None
    assert "in 95% of draws; a large p-value says something" in (quality_power({"power": 0.95}) or "")
    assert "says little" in (quality_power({"power": 0.3}) or "")


def test_several_seeds_make_a_median_and_a_range() -> None:
    blocks = [block(names=v) for v in (0.1, 0.4, 0.2)]
    value = Subject("npo", "run", tuple(blocks)).estimate("sets", "forget", "all", "name_accuracy")
    assert value is not None and (value.value, value.low, value.high, value.n) == (0.2, 0.1, 0.4, 120)
    assert combine([None]) is None
    assert Subject("m", "run", ({"a": 1.0}, {"a": None}, {"a": 3})).number("a") == 2.0
    with pytest.raises(UserError, match="a must be a number"):
        Subject("m", "run", ({"a": True},)).number("a")


def test_attacks_in_words() -> None:
    assert attack_words("relearn_forget@5") == "trained on forget rows, 5 steps"
    assert attack_words("relearn_retain@1") == "trained on retain rows, 1 step"
    assert attack_words("relearn_forget@0") == "trained on forget rows, before"
    assert attack_words("prefix_3") == "persuasion 3" and attack_words("nf4") == "4-bit weights (nf4)"
    assert attack_words("mine@5") == "mine@5" and attack_words("<b>") == "<b>"


def test_shares_in_bars_are_rounded_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    plain = Axes.text

    def noted(self: Axes, x: float, y: float, s: str, **more: object):
        written.append(s)
        return plain(self, x, y, s, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Axes, "text", noted)
    shares = dict.fromkeys(LABELS, None) | {"leaked": figure(0.875), "informative": figure(0.118)}
    assert labels_image([_subject("run", block(aftermath={"labels": shares}))]) is not None
    assert {".88", ".12"} <= set(written) and not {".87", ".11"} & set(written)
