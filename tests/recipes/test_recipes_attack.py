"""The attack on a farm, from results to files: which pictures and models count, and what is written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from farm_results import GROUPS, make_results

import clear_dist.report.farm
import clear_dist.shadow.results
from clear_dist.config.attack import AttackConfig
from clear_dist.recipes.attack import run
from clear_dist.recipes.attack_rows import attacked, blocks, group_mask, logits_of
from clear_dist.report.attack_file import read_attack
from clear_dist.shadow.results import FarmResults
from clear_dist.types import UserError

Attack = Callable[..., Path]
SHORT = ("original", "gold")


@pytest.fixture
def attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attack:
    """Attacks results as if a farm had them; without drawing the report."""
    farm, out = tmp_path / "farm", tmp_path / "out"
    farm.mkdir()
    (farm / "farm.json").write_text("{}")

    def report(folder: Path) -> tuple[Path, Path]:
        assert (folder / "attack.json").is_file() and json.loads((folder / "run.json").read_text())["finished"]
        return folder / "index.html", folder / "report.md"

    monkeypatch.setattr(clear_dist.report.farm, "farm_report", report)

    def go(results: FarmResults, **options: Any) -> Path:
        monkeypatch.setattr(clear_dist.shadow.results, "read_results", lambda folder: results)
        run(AttackConfig.model_validate({"farm": farm, "out": out, "draws": 100, "folds": 3} | options))
        return out

    return go


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _examples(out: Path) -> list[dict[str, str]]:
    with (out / "examples.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_farm_is_told_apart_where_something_is_left(attack: Attack, capsys: pytest.CaptureFixture[str]) -> None:
    out = attack(make_results())
    rows = read_attack(out / "attack.json")
    assert list(rows) == ["original", "gold", "npo", "weak"]
    shares = {name: {f: getattr(row, f) for f in ("forget_acc", "holdout_acc", "retain_acc", "u_lira", "u_mia")}
              for name, row in rows.items()}  # fmt: skip
    values = {name: {f: s.value for f, s in row.items()} for name, row in shares.items()}
    assert values["original"] == pytest.approx(
        {"forget_acc": 1.0, "holdout_acc": 0.0, "retain_acc": 1.0, "u_lira": 1.0, "u_mia": 1.0}, abs=0.01
    )
    assert values["gold"]["forget_acc"] == 0.0 and values["gold"]["retain_acc"] == 1.0
    assert values["gold"]["u_lira"] == pytest.approx(0.5, abs=0.15)
    assert values["weak"]["u_lira"] > 0.9 and 0.2 < values["weak"]["forget_acc"] < 0.8
    assert all(s.low <= s.value <= s.high for row in shares.values() for s in row.values())
    assert shares["original"]["forget_acc"].low < 1.0, "certainty is not claimed from six models"

    raw = _json(out / "attack.json")
    assert raw["v"] == 1 and set(raw) == {"v", *rows}
    lira = raw["weak"]["u_lira"]
    assert list(lira["estimators"]) == ["mad", "std", "pooled", "global"] and lira["variance"] == "std"
    assert lira["estimators"]["std"] == lira["accuracy"] and lira["accuracy"]["n"] == 12
    assert raw["weak"]["u_mia"]["tpr_at_fpr"]["0.001"] is None and set(lira["tpr_at_fpr"]) == {"0.001", "0.01", "0.05"}
    said = capsys.readouterr().err
    assert "U-LIRA" in said and "weak" in said and "index.html" in said


def test_enrolment_pictures_are_attacked_only_where_it_is_said(attack: Attack) -> None:
    results = make_results(rows=SHORT, traced=())
    held_out = _examples(attack(results))
    assert {line["enrolled"] for line in held_out} == {"false"} and len(held_out) == 2 * 3 * 3
    first = held_out[0]
    assert (first["method"], first["id"], first["identity"]) == ("original", "p0/1.png", "p0")
    assert (first["n_forgotten"], first["n_never"]) == ("6", "6")
    values = [results.logits["original"][m][1] for m in range(6)]
    assert float(first["mean_forgotten"]) == pytest.approx(np.mean(values))
    assert float(first["sd_forgotten"]) == pytest.approx(np.std(values, ddof=1))


def test_enrolment_pictures_are_never_identified(attack: Attack) -> None:
    """Not even where they are attacked: they are part of what they would be compared with."""
    results = make_results(rows=SHORT, traced=())
    for predicted in results.predicted["original"].values():
        predicted[results.enrolled] = -1
    rows = read_attack(attack(results, enrolment="paper") / "attack.json")
    assert rows["original"].forget_acc is not None and rows["original"].forget_acc.value == 1.0
    assert rows["original"].retain_acc is not None and rows["original"].retain_acc.value == 1.0


def test_the_paper_attacks_enrolment_pictures_too(attack: Attack) -> None:
    lines = _examples(attack(make_results(rows=SHORT, traced=()), enrolment="paper"))
    assert len(lines) == 2 * 3 * 4 and {line["enrolled"] for line in lines} == {"true", "false"}


def test_enrolment_follows_the_farm_unless_named(attack: Attack) -> None:
    results = make_results(rows=SHORT, traced=())
    results.settings["enrolment"] = "paper"
    out = attack(results)
    assert _json(out / "run.json")["enrolment"] == "paper" and len(_examples(out)) == 2 * 3 * 4


def test_curves(attack: Attack) -> None:
    curves = _json(attack(make_results()) / "curves.json")
    assert set(curves) == {"v", "roc", "distributions", "epochs"}
    assert curves["roc"]["weak"]["u_mia"][0] == [0.0, 0.0] and curves["roc"]["weak"]["u_lira"][-1] == [1.0, 1.0]
    edges = np.array(curves["distributions"]["original"]["bins"])
    means = {}
    for row, found in curves["distributions"].items():
        assert found["bins"] == edges.tolist()
        for side in ("forget", "holdout", "never"):
            density = np.array(found[side])
            assert np.sum(density * np.diff(edges)) == pytest.approx(1.0)
            means[row, side] = float(np.sum(density * np.diff(edges) * (edges[1:] + edges[:-1]) / 2))
    assert means["original", "forget"] == pytest.approx(4.0, abs=0.4)
    assert means["gold", "forget"] == pytest.approx(means["gold", "never"], abs=0.3)
    assert abs(means["original", "holdout"]) < 0.5
    watched = curves["epochs"]
    assert list(watched) == ["weak"] and [m["epoch"] for m in watched["weak"]] == [0.0, 1.0]
    before, after = watched["weak"]
    assert before["forget_acc"]["value"] == 1.0 > after["forget_acc"]["value"]
    assert before["u_lira"]["value"] == 1.0 and set(before) >= {"holdout_acc", "retain_acc"}


def test_random_halves_give_every_picture_models_of_both_kinds(attack: Attack) -> None:
    results = make_results(models=16, design="random_half", rows=SHORT, traced=())
    assert blocks(results).tolist() == [m // 2 for m in range(16)]
    out = attack(results)
    assert {(line["n_forgotten"], line["n_never"]) for line in _examples(out)} == {("8", "8")}
    rows = read_attack(out / "attack.json")
    assert rows["original"].u_lira is not None and rows["original"].u_lira.value == 1.0
    assert rows["gold"].u_lira is not None and rows["gold"].u_lira.value == pytest.approx(0.5, abs=0.15)


def test_a_model_stands_only_where_it_belongs() -> None:
    results = make_results(models=16, design="random_half")
    pictures = attacked(results, ~results.enrolled)
    logits = logits_of(results, "npo", pictures, folds=3, seed=0)
    saw = [m for m in sorted(results.logits["npo"]) if results.trained[m, :3].any()]
    for row, m in zip(logits.forgotten, saw, strict=True):
        learned = results.trained[m][results.identity[pictures]]
        np.testing.assert_array_equal(np.isnan(row), ~learned)
        np.testing.assert_array_equal(row[learned], results.logits["npo"][m][pictures][learned])
    for m in range(16):
        forget, holdout, retain = (group_mask(results, g, m) for g in ("forget", "holdout", "retain"))
        learned, group = results.trained[m][results.identity], np.array(GROUPS)[results.identity]
        assert (forget == (learned & (group == "forget"))).all()
        assert (holdout == (~learned & (group == "holdout"))).all()
        assert (retain == (learned & (group != "forget"))).all()
    assert blocks(make_results()).tolist() == list(range(12))  # no pairs: every model is drawn by itself


def test_an_unfinished_farm_is_attacked_as_far_as_it_goes(attack: Attack, capsys: pytest.CaptureFixture[str]) -> None:
    results = make_results()
    results.logits["npo"] = {0: results.logits["npo"][0]}
    del results.logits["weak"]
    missing = ("npo/001", "weak/000")
    out = attack(replace(results, incomplete=missing))
    run_file = _json(out / "run.json")
    assert list(read_attack(out / "attack.json")) == ["original", "gold"]
    assert run_file["incomplete"] == list(missing) and set(run_file["skipped"]) == {"npo", "weak"}
    assert "1 forgotten models" in run_file["skipped"]["npo"]
    assert run_file["models"] == {row: {"forgotten": 6, "never": 6} for row in ("original", "gold")}
    assert len(run_file["farm_digest"]) == 64 and run_file["settings"]["models"] == 12
    assert "npo is left out" in capsys.readouterr().err


@pytest.mark.parametrize("row", ["original", "gold"])
def test_without_original_or_gold_nothing_is_said(attack: Attack, row: str, tmp_path: Path) -> None:
    results = make_results()
    del results.logits[row]
    name = {"original": "shadow/003", "gold": "gold/000"}[row]
    with pytest.raises(UserError, match=r"cannot be attacked.*1 tasks of original and gold.*shadow-farm again"):
        attack(replace(results, incomplete=(name,)))
    assert not (tmp_path / "out").exists()


def test_too_few_models_are_refused_with_the_number_needed(attack: Attack) -> None:
    with pytest.raises(UserError, match=r"at least 3 models of each side.*more --models"):
        attack(make_results(models=4))


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "nan"), (np.inf, "inf")])
def test_logits_that_are_no_numbers_are_refused(attack: Attack, bad: float, word: str) -> None:
    results = make_results()
    results.logits["npo"][2][5] = bad
    with pytest.raises(UserError, match=rf"npo/002: the logit of 'p1/1.png' is {word}"):
        attack(results)
    results = make_results()
    results.traces["weak"][3].logits[1, 7] = bad
    with pytest.raises(UserError, match=rf"weak/003: the logit of 'p1/3.png' is {word}"):
        attack(results)


def test_names_cannot_break_out_of_the_table(attack: Attack) -> None:
    names = ['=HYPERLINK("x")', "a,b\nc", *(f"p{i}" for i in range(2, 12))]
    lines = _examples(attack(make_results(names=names, rows=SHORT, traced=())))
    assert {line["identity"] for line in lines} == {"'" + names[0], names[1], "p2"}


def test_the_same_attack_again_gives_the_same_files(attack: Attack) -> None:
    results = make_results(rows=SHORT, traced=())
    out = attack(results)
    before = [(out / name).read_bytes() for name in ("attack.json", "curves.json", "examples.csv")]
    assert attack(results) == out
    assert [(out / name).read_bytes() for name in ("attack.json", "curves.json", "examples.csv")] == before
    with pytest.raises(UserError, match="holds another run"):
        attack(results, seed=1)


@pytest.mark.slow
def test_the_report_reads_what_the_attack_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = replace(
        make_results(names=["<script>alert(1)", *(f"p{i}" for i in range(1, 12))]), incomplete=("npo/007",)
    )
    monkeypatch.setattr(clear_dist.shadow.results, "read_results", lambda folder: results)
    run(AttackConfig(farm=tmp_path, out=tmp_path / "out", draws=100, folds=3))
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert all(row in page for row in ("original", "gold", "npo", "weak")) and "npo/007" in page
    assert "&lt;script&gt;alert" in page and "<script>alert" not in page
