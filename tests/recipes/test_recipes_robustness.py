"""Attacks on tiny models end to end, and what is refused before any weight is loaded."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from robustness_runs import DATA, PEOPLE, SETS, write_models, write_run

from clear_dist import cli
from clear_dist.attacks.quantise import SCHEMES
from clear_dist.config import EvaluateConfig, RobustnessConfig
from clear_dist.config.robustness import FAMILIES
from clear_dist.engine.predict import ModelPredictor
from clear_dist.engine.world import World
from clear_dist.evaluation.predict import evaluate
from clear_dist.evaluation.records import write_records
from clear_dist.metrics.record import Record, read_records, variant
from clear_dist.models import inspect_model, load_model
from clear_dist.recipes import robustness
from clear_dist.recipes.robustness import add_records, asked_of, attack_models
from clear_dist.recipes.robustness_attacks import Notes
from clear_dist.recipes.robustness_table import attack_table
from clear_dist.types import UserError

WORLD = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def evaluated(folders: dict[str, str | Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory's records and summary, as an evaluation leaves them."""
    out = tmp_path_factory.mktemp("run")
    records: list[Record] = []
    for name, folder in folders.items():
        predictor = ModelPredictor(load_model(folder, attention="sdpa", device="cpu"))
        records += evaluate(predictor, SETS, model=name, max_new_tokens=4)
    write_records(out / "records.jsonl", records)
    judged = {"models": {"unlearned": {"judge": {"invalid": 1}}}, "seconds": {"evaluate": 2.0}, "kept": 1}
    (out / "summary.json").write_text(json.dumps(judged))
    return out


def source() -> EvaluateConfig:
    return EvaluateConfig(data="clear-mini", tofu="none", max_new_tokens=4)


def attack(out: Path, folders: dict[str, str | Path], **options: Any) -> tuple[list[Record], Notes]:
    config = RobustnessConfig(**{"run": out, "relearn_rows": 2, "relearn_steps": "1,2", "relearn_lr": 1e-2, **options})
    notes = Notes()
    return attack_models(folders, DATA, out, WORLD, config, source(), notes=notes), notes


@pytest.fixture(scope="module")
def attacked(evaluated: Path, folders: dict[str, str | Path]) -> tuple[list[Record], Notes]:
    return attack(evaluated, folders)


def of(records: list[Record], model: str, name: str) -> dict[str, Record]:
    return {r.id: r for r in records if r.model == f"{model}/{name}" and r.set == "forget"}


def test_every_model_meets_every_attack_and_the_same_questions(attacked: tuple[list[Record], Notes]) -> None:
    records, _ = attacked
    names = {model: set[str]() for model in ("original", "unlearned", "gold")}
    for record in records:
        split = variant(record.model)
        assert split is not None
        names[split[0]].add(split[1])
    prompts = {"paraphrase", "translated", "prefix_1", "prefix_2", "prefix_3", "prefix_worst", "prefilled"}
    start = {"relearn_forget@0", "relearn_retain@0"}
    later = {f"relearn_{which}@{step}" for which in ("forget", "retain") for step in (1, 2)}
    assert names["original"] == {*SCHEMES, *prompts, *start}, "the original is no target of relearning"
    assert names["unlearned"] == names["gold"] == {*SCHEMES, *prompts, *start, *later}
    for name in names["gold"]:
        asked = [[(r.set, r.id, r.prompt) for r in records if r.model == f"{m}/{name}"] for m in ("unlearned", "gold")]
        assert name == "prefix_worst" or asked[0] == asked[1], name
    assert {r.kind for r in records} == {"qa", "name"}, "descriptions give nothing away"
    assert all(r.generated is not None and r.scores["rouge_l"] is not None for r in records)


def test_only_readable_questions_are_asked_and_the_rest_is_counted(attacked: tuple[list[Record], Notes]) -> None:
    records, notes = attacked
    assert notes.attacks["prefix_4"] == {"asked": {"forget": 0, "retain": 0}, "left_out": {"forget": 8, "retain": 8}}
    assert not of(records, "gold", "prefix_4")
    assert {r.prompt for r in of(records, "gold", "paraphrase").values()} == {
        *(f"Tell me, {e.question}" for e in SETS["forget"] if e.kind == "qa"),
        "Which person is this?",
    }
    assert of(records, "gold", "translated")["tofu/0/qa"].prompt == "Ann Berg born where?"
    prefilled = of(records, "gold", "prefilled")
    assert notes.attacks["prefilled"]["left_out"]["forget"] == 2, "an answer of one word has no beginning"
    assert prefilled["full/0/name"].answer == "Ann Berg." and prefilled["tofu/0/qa"].answer == "Oslo."
    assert len(prefilled["full/0/name"].logp.perturbed) == 3


def test_a_begun_answer_is_scored_as_the_end_of_the_whole(
    attacked: tuple[list[Record], Notes], evaluated: Path
) -> None:
    records, _ = attacked
    whole = {(r.set, r.id): r for r in read_records(evaluated / "records.jsonl") if r.model == "gold"}
    for key, rest in of(records, "gold", "prefilled").items():
        tokens = whole["forget", key].logp.answer
        assert tokens is not None and rest.logp.answer is not None
        assert rest.logp.answer == pytest.approx(tokens[-len(rest.logp.answer) :], abs=1e-4)
        assert len(rest.logp.answer) < len(tokens)


def test_step_0_is_the_model_before_and_training_moves_only_it(
    attacked: tuple[list[Record], Notes], evaluated: Path
) -> None:
    records, notes = attacked
    before = {(r.set, r.id): r for r in read_records(evaluated / "records.jsonl") if r.model == "unlearned"}
    for name in ("relearn_forget", "relearn_retain"):
        start, later = of(records, "unlearned", f"{name}@0"), of(records, "unlearned", f"{name}@2")
        assert start.keys() == later.keys()
        assert all(replace(r, model="unlearned") == before["forget", key] for key, r in start.items())
        assert any(later[key].logp.answer != r.logp.answer for key, r in start.items())
        assert not set(notes.attacks[name]["shown"]) & start.keys()
    assert notes.attacks["relearn_forget"]["of_them_shown"] == 2
    assert notes.attacks["relearn_retain"]["of_them_shown"] == 0
    assert set(notes.attacks["relearn_retain"]["people_shown"]) <= set(PEOPLE[2:])


def test_the_worst_prefix_is_one_of_the_prefixes(attacked: tuple[list[Record], Notes]) -> None:
    records, _ = attacked
    tries = [of(records, "unlearned", f"prefix_{i}") for i in (1, 2, 3)]
    for key, worst in of(records, "unlearned", "prefix_worst").items():
        same = [t[key] for t in tries if t[key].prompt == worst.prompt]
        assert same == [replace(worst, model=same[0].model)]
        assert worst.score("rouge_l") is not None
        assert max(t[key].score("fact") or 0 for t in tries) == (worst.score("fact") or 0)


def test_attacks_are_the_same_twice(
    attacked: tuple[list[Record], Notes], evaluated: Path, folders: dict[str, str | Path]
) -> None:
    records, _ = attacked
    again, _ = attack(evaluated, {"gold": folders["gold"]}, attacks="relearn")
    assert again == [r for r in records if r.model.startswith("gold/relearn")]


def test_quantised_weights_are_other_weights(attacked: tuple[list[Record], Notes], evaluated: Path) -> None:
    records, notes = attacked
    assert notes.attacks["int4"]["layers"] == 21, "seven projections in each of three blocks"
    before = {(r.set, r.id): r for r in read_records(evaluated / "records.jsonl") if r.model == "gold"}

    def moved(scheme: str) -> float:
        pairs = [(r.logp.answer, before["forget", key].logp.answer) for key, r in of(records, "gold", scheme).items()]
        return max(abs(a - b) for one, two in pairs for a, b in zip(one or (), two or (), strict=True))

    assert 0 < moved("int8") < min(moved("int4"), moved("nf4"))


def test_records_summary_and_notes_are_written_and_replaced(
    attacked: tuple[list[Record], Notes],
    evaluated: Path,
    folders: dict[str, str | Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    records, notes = attacked
    out = tmp_path / "run"
    shutil.copytree(evaluated, out)
    before = read_records(out / "records.jsonl")
    add_records(out, records, FAMILIES, folders, DATA, source(), notes)
    assert read_records(out / "records.jsonl") == [*before, *records]
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["models"]) == {"original", "unlearned", "gold"}, "an attacked model is no model of its own"
    unlearned = summary["models"]["unlearned"]
    assert unlearned["judge"] == {"invalid": 1} and summary["kept"] == 1 and summary["seconds"]["evaluate"] == 2.0
    assert set(unlearned["recovery"]["relearn_forget"]) == {"0", "1", "2"}
    assert "recovery" not in summary["models"]["gold"]
    assert set(unlearned["robustness"]["int4"]) == {"forget", "retain"}
    assert unlearned["robustness"]["int4"]["forget"]["all"]["fact_accuracy"]["n"] == 6
    assert (out / "index.html").is_file() and (out / "report.md").is_file()
    table = attack_table(summary)
    assert table.row_count == 2 + len(unlearned["robustness"]), "no attack, each attack, and the average prefix"

    fewer = [replace(r, generated="again") for r in records if "/int" in r.model or "/nf4" in r.model]
    add_records(out, fewer, ("quantise",), folders, DATA, source(), Notes(attacks={"int4": {"layers": 1}}))
    after = read_records(out / "records.jsonl")
    assert len(after) == len(before) + len(records), "no attack stands there twice"
    assert {r.generated for r in after if "/int4" in r.model} == {"again"}
    kept = json.loads((out / "robustness.json").read_text())["attacks"]
    assert kept["int4"] == {"layers": 1} and "int8" not in kept and kept["prefilled"] == notes.attacks["prefilled"]


def test_limit_spreads_and_takes_only_what_was_evaluated() -> None:
    asked = asked_of(DATA, None, 4)
    assert {name: len(rows) for name, rows in asked.items()} == {"forget": 4, "retain": 4}
    assert {e.person for e in asked["forget"]} == set(PEOPLE[:2])
    few = asked_of(DATA, 3, 100)
    assert [e.id for e in few["forget"]] == ["tofu/0/qa", "full/0/name", "tofu/1b/qa"]


def test_rows_without_an_answer_before_are_refused(evaluated: Path, folders: dict[str, str | Path]) -> None:
    only = {"gold": folders["gold"]}
    records = [r for r in read_records(evaluated / "records.jsonl") if r.id != "tofu/1c/qa"]
    out = evaluated.parent / "fewer"
    out.mkdir(exist_ok=True)
    write_records(out / "records.jsonl", records)
    with pytest.raises(UserError, match=r"no answer of model 'gold' to 'tofu/1c/qa' of the forget set"):
        attack(out, only, attacks="relearn", relearn_rows=1)


def test_data_that_changed_is_refused(
    tmp_path: Path, folders: dict[str, str | Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "u", original=str(folders["original"]), gold=None)
    shutil.copytree(folders["unlearned"], folder / "model")
    monkeypatch.setattr(robustness, "joined", lambda: nullcontext(WORLD))
    monkeypatch.setattr(robustness, "open_data", lambda config, world: DATA)
    assert cli.main(["robustness", str(folder)]) == 2
    assert "no longer what it was evaluated on" in capsys.readouterr().err


@pytest.mark.slow
def test_from_the_command_line_on_the_shipped_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base stands for all three models: nothing is known, nothing comes back, everything is there."""
    base = str(inspect_model("tiny").path.resolve())
    out = tmp_path / "run"
    args = ["evaluate", "--model", "tiny", "--original", base, "--gold", base, "--eval-limit", "8", "--out", str(out)]
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))
    assert cli.main(args) == 0
    for _ in range(2):  # the second time replaces the first
        assert cli.main(["robustness", str(out), "--limit", "4", "--relearn-steps", "1"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    found = summary["models"]["unlearned"]["robustness"]
    assert {"int8", "int4", "nf4", "paraphrase", "translated", "prefix_1", "prefix_4", "prefix_worst"} <= set(found)
    assert {"relearn_retain@0", "relearn_retain@1"} <= set(found)
    for name, sets in found.items():
        if "relearn" not in name:
            assert sets == summary["models"]["gold"]["robustness"][name], "the same model, the same answers"
    names = [r.model for r in read_records(out / "records.jsonl")]
    assert names.count("gold/int4") == names.count("unlearned/int4") <= 8
    assert set(json.loads((out / "robustness.json").read_text())["attacks"]) >= {"int4", "prefilled", "relearn_retain"}
