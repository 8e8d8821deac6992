"""Flat tables: types, lists, absent values, and cells that a spreadsheet must not run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clear_dist.metrics.record import LogProbs, Record
from clear_dist.services.flat import check_target, csv_cell, records_table, summary_table, write_table
from clear_dist.types import UserError


def record(model: str = "unlearned", **more: object) -> Record:
    given: dict[str, object] = {
        "model": model,
        "set": "forget",
        "modality": "visual",
        "kind": "name",
        "id": "full/12/name",
        "prompt": "Who is this?",
        "answer": "Ada",
        "scores": {"rouge_l": 0.5, "name": 0, "fact": None, "attributes": {"hair": 1, "hat": 0}, "judge_privacy": 2},
        "logp": LogProbs(answer=(-0.5, -1.25), perturbed=((-2.0,), (-3.0, -4.0))),
        **more,
    }
    return Record(**given)  # type: ignore[arg-type]


RUNS = {
    "runs/a": [record(), record("gold", generated="=cmd|' /C calc'!A0", scores={}, logp=LogProbs())],
    "runs/b": [record(generated="", person="Zoë 🙂", picture="ab12")],
}


def test_parquet_keeps_types_lists_and_what_is_absent(tmp_path: Path) -> None:
    write_table(tmp_path / "deep" / "t.parquet", records_table(RUNS))
    table = pq.read_table(tmp_path / "deep" / "t.parquet")
    assert table.column_names[:5] == ["run", "model", "set", "modality", "kind"]
    types = {field.name: field.type for field in table.schema}
    assert types["seen"] == pa.bool_() and types["rouge_l"] == types["attr.hair"] == pa.float64()
    assert types["logp.answer"] == pa.list_(pa.float64()) and types["id"] == types["label"] == pa.string()
    first, gold, other = table.to_pylist()
    assert first["logp.answer"] == [-0.5, -1.25] and first["logp.perturbed"] == [[-2.0], [-3.0, -4.0]]
    assert first["logp.paraphrase"] is None and first["logp.options"] == []
    assert (first["attr.hair"], first["attr.hat"], first["judge_privacy"], first["name"]) == (1.0, 0.0, 2.0, 0.0)
    assert first["fact"] is None and first["generated"] is None and first["extraction_strength"] is None
    assert gold["rouge_l"] is None and gold["attr.hair"] is None and gold["logp.answer"] is None
    assert gold["generated"] == "=cmd|' /C calc'!A0"  # nothing runs in a Parquet file
    assert other["generated"] == "" and other["person"] == "Zoë 🙂" and other["run"] == "runs/b"
    assert "attributes" not in table.column_names


def test_csv_says_the_same_in_words(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", records_table(RUNS))
    assert (tmp_path / "t.csv").read_bytes().startswith(b"\xef\xbb\xbfrun,model")
    with (tmp_path / "t.csv").open(encoding="utf-8-sig", newline="") as handle:
        first, gold, other = csv.DictReader(handle)
    assert json.loads(first["logp.answer"]) == [-0.5, -1.25] and first["seen"] == "true"
    assert json.loads(first["logp.perturbed"]) == [[-2.0], [-3.0, -4.0]]
    assert first["rouge_l"] == "0.5" and first["fact"] == ""
    assert gold["generated"] == "'=cmd|' /C calc'!A0"
    assert other["person"] == "Zoë 🙂"


@pytest.mark.parametrize("start", ["=1+1", "+1", "-2", "@SUM(A1)", "\tx", "\rx", "\n=x", "  =1", "＝1", "－1"])
def test_text_that_would_be_a_formula_is_kept_from_running(start: str) -> None:
    assert csv_cell(start) == f"'{start}"


def test_other_cells_stay_as_they_are() -> None:
    assert [csv_cell(v) for v in (-0.5, 3, None, True, False)] == [-0.5, 3, None, "true", "false"]
    assert csv_cell('plain = text, "quoted"\nin two lines') == 'plain = text, "quoted"\nin two lines'
    assert csv_cell("'=quoted") == "'=quoted" and csv_cell("") == ""
    assert csv_cell("half \ud83d of a sign\0") == "half ? of a sign"


def test_a_name_of_a_score_cannot_be_a_formula_either(tmp_path: Path) -> None:
    odd = record(scores={"attributes": {"=x": 1}, "=1+1": 2.0, "parts": {"eyes": 1}})
    write_table(tmp_path / "t.csv", records_table({"r": [odd]}))
    header = next(csv.reader((tmp_path / "t.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert "'=1+1" in header and "attr.=x" in header and "parts.eyes" in header


def estimate(value: float, **more: object) -> dict[str, object]:
    return {"value": value, "ci": [value - 0.1, value + 0.1], "n": 7, **more}


SUMMARY = {
    "v": 1,
    "models": {
        "unlearned": {
            "sets": {"forget": {"all": {"rouge_l": estimate(0.5), "probability": None}, "text": {}}, "holdout": None},
            "forget_quality": {"p": 0.25, "ln_p": -1.4, "ks": 0.5, "n": 9, "detectable": None},
            "model_utility": estimate(0.75, note="without holdout"),
            "membership": {"loss": {"auc": estimate(0.6), "privleak": -12.5}, "zlib": None},
            "aftermath": {"named": estimate(0.0), "clip_score": None, "labels": {"vague": estimate(0.3)}},
            "robustness": {"int4": {"forget": {"visual": {"name_accuracy": estimate(0.2)}}}},
            "judge": {"privacy": estimate(1.5), "asked": 8, "invalid": 1, "judge_model": "m", "prompt_version": 1},
        },
        "gold": {"sets": {}, "forget_quality": None, "membership": None},
    },
}


def test_every_figure_of_a_summary_has_a_row(tmp_path: Path) -> None:
    write_table(tmp_path / "s.parquet", summary_table({"runs/a": SUMMARY}))
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.column_names == ["run", "model", "set", "group", "metric", "value", "low", "high", "n", "note"]
    rows = {(r["model"], r["set"], r["group"], r["metric"]): r for r in table.to_pylist()}
    assert all(r["run"] == "runs/a" for r in rows.values()) and len(rows) == table.num_rows
    first = rows["unlearned", "forget", "all", "rouge_l"]
    assert (first["value"], first["low"], first["high"], first["n"]) == (0.5, 0.4, 0.6, 7)
    assert rows["unlearned/int4", "forget", "visual", "name_accuracy"]["value"] == 0.2
    whole = {key[3]: r for key, r in rows.items() if key[1] is None}
    assert set(whole) == {
        "forget_quality.p",
        "forget_quality.ln_p",
        "forget_quality.ks",
        "model_utility",
        "membership.loss.auc",
        "membership.loss.privleak",
        "aftermath.named",
        "aftermath.labels.vague",
        "judge.privacy",
        "judge.asked",
        "judge.invalid",
        "judge.prompt_version",
    }
    assert whole["forget_quality.ks"] | {"run": ""} == {
        "run": "",
        "model": "unlearned",
        "set": None,
        "group": None,
        "metric": "forget_quality.ks",
        "value": 0.5,
        "low": None,
        "high": None,
        "n": 9,
        "note": None,
    }
    assert whole["model_utility"]["note"] == "without holdout" and whole["aftermath.named"]["value"] == 0.0


def test_empty_tables_have_their_columns(tmp_path: Path) -> None:
    for name in ("e.parquet", "e.csv"):
        write_table(tmp_path / name, records_table({"r": []}))
    assert pq.read_table(tmp_path / "e.parquet").num_rows == 0
    assert "generated" in pq.read_table(tmp_path / "e.parquet").column_names
    assert len((tmp_path / "e.csv").read_text().splitlines()) == 1


def test_targets(tmp_path: Path) -> None:
    for bad in ("t.xlsx", "t", "t.json"):
        with pytest.raises(UserError, match=r"ends in \.parquet or \.csv"):
            check_target(tmp_path / bad)
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(UserError, match="is a directory"):
        check_target(tmp_path / "d.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_table(tmp_path / "file" / "t.csv", records_table({}))
    write_table(tmp_path / "T.CSV", records_table({}))
    assert not list(tmp_path.glob("*.partial"))
