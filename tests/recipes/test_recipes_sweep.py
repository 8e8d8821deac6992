"""Sweeps: which runs there are, what is run again and what never, rows of every outcome, and one real sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sweep_fakes
import torch
from sweep_fakes import begun, execute

from clear_dist.config import SweepConfig, UnlearnConfig
from clear_dist.defaults import MINI_METHODS, MINI_UNLEARN
from clear_dist.engine.world import World
from clear_dist.errors import ConfigError, UserError
from clear_dist.flags import parse
from clear_dist.methods import METHODS
from clear_dist.recipes import sweep as recipe
from clear_dist.recipes.sweep_plan import Job, jobs_of
from clear_dist.recipes.sweep_workers import OnDone, run_in_turn, run_side_by_side

SOLO = World(0, 1, 0, torch.device("cpu"))


def config(*args: str, out: str | Path = "somewhere") -> SweepConfig:
    return parse(SweepConfig, [*args, "--out", str(out)], "clear-dist sweep")


def sweep(*args: str, out: Path, run: Any = execute) -> int:
    def in_turn(jobs: Sequence[Job], on_done: OnDone) -> None:
        run_in_turn(jobs, run, on_done)

    made = config(*args, out=out)
    return recipe.sweep(made, jobs_of(made), SOLO, in_turn)


def rows(out: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((out / "sweep.json").read_text())
    assert len({row["run"] for row in found}) == len(found)
    return {row["run"]: row for row in found}


# ------------------------------------------------------------------------------------------- which runs


def test_methods_seeds_and_grids_are_crossed() -> None:
    jobs = jobs_of(
        config("--methods", "gd,npo", "--seeds", "1,0", "--grid", "lr=1e-4,0.002", "--grid", "set.beta=0.1,2")
    )
    names = [job.name for job in jobs]
    of_one = [
        "original-seed1",
        "gold-seed1",
        "gd-lr=0.0001-seed1",  # has no beta: that key is not its own
        "gd-lr=0.002-seed1",
        "npo-lr=0.0001-set.beta=0.1-seed1",
        "npo-lr=0.0001-set.beta=2-seed1",
        "npo-lr=0.002-set.beta=0.1-seed1",
        "npo-lr=0.002-set.beta=2-seed1",
    ]
    assert names == of_one + [name.replace("seed1", "seed0") for name in of_one]
    last = jobs[-1]
    assert (last.config.lr, last.config.set["beta"], last.config.seed, last.config.method) == (0.002, 2.0, 0, "npo")
    assert last.config.set["kl_weight"] == MINI_METHODS["npo"]["set"]["kl_weight"], "the rest of the preset stays"
    assert last.needs == ("original-seed0", "gold-seed0") and jobs[0].needs == ()
    assert last.out == Path("somewhere/runs/npo-lr=0.002-set.beta=2-seed0")


def test_options_of_unlearn_reach_every_run_and_presets_stay() -> None:
    jobs = jobs_of(config("--methods", "gd,idk", "--eval-every", "5", "--keep", "best", "--modality", "text"))
    gd, idk = jobs[-2].config, jobs[-1].config
    assert gd.eval_every == idk.eval_every == 5 and gd.keep == "best" and gd.modality == "text"
    alone = UnlearnConfig(method="idk", eval_every=5, keep="best", modality="text", out=idk.out)
    assert idk == alone and idk.digest() == alone.digest(), "the very run that clear-dist unlearn would make"
    assert all(job.config.epochs == 3 for job in jobs_of(config("--methods", "gd,idk", "--epochs", "3")))


def test_an_equal_budget_is_the_bases_or_what_is_given() -> None:
    jobs = jobs_of(config("--methods", "gd,npo,retain_ft", "--budget", "equal", "--lr", "2e-4"), steps=77)
    runs = [job.config for job in jobs if not job.anchor]
    assert {(c.steps, c.lr, c.epochs, c.global_batch, c.retain_ratio) for c in runs} == {
        (77, 2e-4, MINI_UNLEARN["epochs"], MINI_UNLEARN["global_batch"], MINI_UNLEARN["retain_ratio"])
    }
    assert runs[1].set == MINI_METHODS["npo"]["set"], "hyperparameters are the method's own"


def test_all_methods_and_equations() -> None:
    jobs = jobs_of(config("--methods", "all", "--objectives", "mine=2*nll(RETAIN) - nll(FORGET)"))
    assert [job.method for job in jobs] == ["original", "gold", *METHODS, "mine"]
    assert jobs[-1].config.objective == "2*nll(RETAIN) - nll(FORGET)" and jobs[-1].config.method is None
    only = jobs_of(config("--methods", "none", "--objectives", "mine=nll(IDK)", "--no-gold"))
    assert [job.name for job in only] == ["original-seed0", "mine-seed0"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--methods", "npoo"], r"--methods npoo: unknown \(did you mean 'npo'\?\)"),
        (["--methods", "none"], "nothing is left to run"),
        (["--methods", "gd", "--grid", "set.beta=1"], r"--grid set.beta: no method of this sweep has it"),
        (["--grid", "lrr=1"], r"--grid lrr: expected set.NAME, or one of .*\(did you mean 'lr'\?\)"),
        (["--grid", "seed=1"], "--grid seed: expected"),
        (["--grid", "lr=1", "--lr", "2"], "--grid lr and --lr both set it"),
        (["--grid", "lr"], "--grid lr: expected KEY=VALUE"),
        (["--methods", "gd", "--grid", "lr=1,-2"], "gd-lr=-2-seed0: --lr: expected a number > 0, got '-2.0'"),
        (["--methods", "gd", "--grid", "schedule=../x"], "a value is a number or a word"),
        (["--objectives", "npo=nll(IDK)"], "npo is taken"),
        (["--objectives", "../x=nll(IDK)"], "a label is made of letters"),
        (["--seeds", "0,x"], "--seeds: expected"),
        (["--keep", "best"], "--keep best chooses among evaluated steps: it needs --eval-every"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(args: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        recipe.run(config(*args, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_the_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert recipe.run(config("--methods", "gd", "--seeds", "0,1", "--dry-run", out=tmp_path / "out")) == 0
    said = capfd.readouterr().err
    assert "gd-seed1: 8 epochs of 16 examples, lr 0.0015, nll(RETAIN) - nll(FORGET)" in " ".join(said.split())
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------- doing them


def test_rows_of_finished_runs(tmp_path: Path) -> None:
    assert sweep("--methods", "gd", "--seeds", "0,1", "--grid", "lr=0.5", "--eval-every", "2", out=tmp_path) == 0
    found = rows(tmp_path)
    assert list(found) == [
        "original-seed0",
        "gold-seed0",
        "gd-lr=0.5-seed0",
        "original-seed1",
        "gold-seed1",
        "gd-lr=0.5-seed1",
    ]
    row = found["gd-lr=0.5-seed1"]
    assert (row["method"], row["seed"], row["grid"], row["seconds"]) == ("gd", 1, {"lr": 0.5}, 3.0)
    assert row["objective"] == "equation of gd" and row["seconds_by_part"] == {"unlearn": 2.0, "evaluate": 1.0}
    assert row["summary"]["sets"]["retain"]["all"]["name_accuracy"]["value"] == 0.6
    assert row["curve"] == [{"step": 0, "exact/forget": 1.0}]
    assert found["gold-seed0"]["method"] == "gold" and "curve" not in found["gold-seed0"]
    assert {"sweep.md", "front.png", "curves.png", "run.json"} <= {path.name for path in tmp_path.iterdir()}


def test_finished_runs_are_never_run_again_and_others_go_on(tmp_path: Path) -> None:
    class Stopped(BaseException):
        pass

    def stopping(job: Job) -> None:
        execute(job)
        if job.name == "gd-seed0":
            raise Stopped

    with pytest.raises(Stopped):
        sweep("--methods", "gd,idk", "--seeds", "0,1", out=tmp_path, run=stopping)
    assert begun(tmp_path) == ["original-seed0", "gold-seed0", "gd-seed0"]
    assert sweep("--methods", "gd,idk", "--seeds", "0,1", out=tmp_path) == 0
    assert begun(tmp_path)[3:] == ["idk-seed0", "original-seed1", "gold-seed1", "gd-seed1", "idk-seed1"]
    assert sweep("--methods", "gd,idk", "--seeds", "0,1", out=tmp_path) == 0
    assert len(begun(tmp_path)) == 8 and len(rows(tmp_path)) == 8


def test_a_sweep_grows_but_never_changes_its_options(tmp_path: Path) -> None:
    assert sweep("--methods", "gd", out=tmp_path) == 0
    assert sweep("--methods", "idk", "--seeds", "0,1", out=tmp_path) == 0
    assert begun(tmp_path) == [
        *("original-seed0", "gold-seed0", "gd-seed0", "idk-seed0"),
        *("original-seed1", "gold-seed1", "idk-seed1"),
    ]
    assert set(rows(tmp_path)) == set(begun(tmp_path)), "rows of an earlier command stay"
    with pytest.raises(UserError, match="epochs: None there, 3 now"):
        sweep("--methods", "gd", "--epochs", "3", out=tmp_path)


def test_a_run_of_other_options_in_the_way_is_refused(tmp_path: Path) -> None:
    assert sweep("--methods", "gd", out=tmp_path) == 0
    path = tmp_path / "runs" / "gd-seed0" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "of another"}))
    with pytest.raises(UserError, match="gd-seed0: holds a run of other options"):
        sweep("--methods", "gd", out=tmp_path)


def test_failed_and_skipped_runs_are_rows_and_stop_nothing(tmp_path: Path) -> None:
    assert sweep("--methods", "ga,kl,gd", "--grid", "l1=0.1", out=tmp_path) == 1
    found = rows(tmp_path)
    assert found["ga-l1=0.1-seed0"]["error"] == "FloatingPointError: step 7: loss is not finite"
    assert found["ga-l1=0.1-seed0"]["objective"] == "equation of ga" and "summary" not in found["ga-l1=0.1-seed0"]
    assert found["kl-l1=0.1-seed0"]["skipped"] == "--method kl: needs pictures"
    assert "summary" in found["gd-l1=0.1-seed0"]
    assert "step 7: loss is not finite" in (tmp_path / "sweep.md").read_text()
    assert sweep("--methods", "ga,kl,gd", "--grid", "l1=0.1", out=tmp_path) == 1
    assert begun(tmp_path).count("ga-l1=0.1-seed0") == 2, "a failed run is tried again"
    assert begun(tmp_path).count("gd-l1=0.1-seed0") == 1
    assert sweep("--methods", "kl", out=tmp_path / "skipped") == 0, "skipping is no failure"


def test_an_equation_that_cannot_be_is_skipped_unrun(tmp_path: Path) -> None:
    assert sweep("--methods", "gd", "--objectives", "bad=npo(NOBODY)", out=tmp_path) == 0
    assert "NOBODY" in rows(tmp_path)["bad-seed0"]["skipped"] and "bad-seed0" not in begun(tmp_path)


def test_without_its_original_no_run_of_a_seed_begins(tmp_path: Path) -> None:
    assert sweep("--methods", "gd", "--seeds", "1,0", out=tmp_path, run=sweep_fakes.no_original) == 1
    found = rows(tmp_path)
    assert found["gd-seed1"]["error"] == "original-seed1 could not be made: OSError: no space left"
    assert "summary" in found["gd-seed0"] and "gd-seed1" not in begun(tmp_path)


def test_worker_processes_share_the_runs_and_survive_a_death(tmp_path: Path) -> None:
    made = config("--methods", "rmu,ga,gd,idk", out=tmp_path)

    def side_by_side(jobs: Sequence[Job], on_done: OnDone) -> None:
        run_side_by_side(jobs, execute, on_done, workers=2, threads=1, logs=tmp_path / "logs")

    assert recipe.sweep(made, jobs_of(made), SOLO, side_by_side) == 1
    found = rows(tmp_path)
    assert found["rmu-seed0"]["error"] == "its process died (exit code 3)"
    assert found["ga-seed0"]["error"].startswith("FloatingPointError")
    assert all("summary" in found[f"{name}-seed0"] for name in ("original", "gold", "gd", "idk"))
    order = begun(tmp_path)
    assert set(order[:2]) == {"original-seed0", "gold-seed0"}, "what others need comes first"
    assert sorted(order) == sorted(found), "each is begun once"
    assert "this is gd-seed0" in (tmp_path / "logs" / "gd-seed0.log").read_text()
    assert "Traceback" in (tmp_path / "logs" / "ga-seed0.log").read_text()


# ------------------------------------------------------------------------------------------- for real


@pytest.mark.slow
def test_a_real_sweep_of_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model, two steps a run, worker processes and all; the second call finds everything done."""
    from data.data_fakes import clear_tables, write_clear

    from clear_dist.data.load import load_dataset
    from clear_dist.models import save_model_dir, tiny_llava, word_tokenizer

    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))
    folder = write_clear(tmp_path / "data", clear_tables())
    data = load_dataset(str(folder))
    examples = [e for part in (data.train, data.sets) for rows_ in part.values() for e in rows_]
    texts = [t for e in examples for t in (e.question, e.answer, e.paraphrase, *e.perturbed, *e.options) if t]
    tokenizer = word_tokenizer(texts)
    model = save_model_dir(tiny_llava(tokenizer), tokenizer, tmp_path / "model")
    out = tmp_path / "out"
    args = ["--data", str(folder), "--model", str(model), "--original", str(model), "--methods", "gd,retain_ft"]
    args += ["--max-steps", "2", "--eval-every", "1", "--eval-limit", "6", "--max-length", "128", "--workers", "2"]
    made = config(*args, out=out)
    assert recipe.run(made) == 0
    found = rows(out)
    assert list(found) == ["original-seed0", "gd-seed0", "retain_ft-seed0"], "no gold: the data is not CLEAR-mini"
    assert found["gd-seed0"]["objective"] == "nll(RETAIN) - nll(FORGET)"
    for name in ("gd-seed0", "retain_ft-seed0"):
        assert [line["step"] for line in found[name]["curve"]] == [0, 1, 2]
        assert {"exact/forget", "exact/retain"} <= set(found[name]["curve"][0])
        assert found[name]["summary"]["sets"]["forget"]["all"]["rouge_l"]["n"] > 0
        files = {path.name for path in (out / "runs" / name).iterdir()}
        assert {"run.json", "metrics.jsonl", "adapter", "records.jsonl", "summary.json"} <= files
        assert "checkpoints" not in files
    stamp = (out / "runs" / "gd-seed0" / "summary.json").stat().st_mtime_ns
    assert recipe.run(made) == 0
    assert (out / "runs" / "gd-seed0" / "summary.json").stat().st_mtime_ns == stamp


def test_workers_and_launchers_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--workers 2: under a launcher"):
        recipe.dispatcher(config("--workers", "2", out=tmp_path), World(0, 2, 0, torch.device("cpu")))
