"""``clear-dist import-log``: the published numbers through the command line, and nothing written where a log is bad."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from services.log_fakes import open_unlearning_log, tofu_log, written

from clear_dist import cli
from clear_dist.metrics.record import read_records

FULL, RETAIN = "ft_epoch5_lr2e-05_phi_full_wd0.01.json", "ft_epoch5_lr2e-05_phi_retain90_wd0.01.json"


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and figures take seconds, and one test looks at them."""
    monkeypatch.setattr("clear_dist.recipes.import_log.report", lambda folder: None)


@pytest.mark.parametrize(
    ("mean", "utility", "ks", "p"),
    [
        ("geometric", 0.5220737132, 0.3466666667, 2.1942743022e-16),
        ("arithmetic", 0.5033530268, 0.3566666667, 2.4311282148e-17),
    ],
)
def test_published_logs_through_the_command_line(
    data_dir: Callable[[str], Path],
    tmp_path: Path,
    no_page: None,
    mean: str,
    utility: float,
    ks: float,
    p: float,
) -> None:
    logs, out = data_dir("tofu_eval_logs"), tmp_path / "run"
    args = ["import-log", str(logs / FULL), "--gold", str(logs / RETAIN), "--truth-ratio", mean, "--out", str(out)]
    assert cli.main(args) == 0
    models = json.loads((out / "summary.json").read_text())["models"]
    assert list(models) == ["imported", "gold"]
    quality = models["imported"]["forget_quality"]
    assert models["imported"]["model_utility"]["value"] == pytest.approx(utility, abs=1e-9)
    assert quality["ks"] == pytest.approx(ks, abs=1e-9) and quality["n"] == 300
    assert quality["p"] == pytest.approx(p, rel=1e-9) and quality["ln_p"] == pytest.approx(math.log(p), abs=1e-9)
    assert models["gold"]["forget_quality"] is None
    records = read_records(out / "records.jsonl")
    assert len(records) == 2 * (300 + 300 + 100 + 117)
    run = json.loads((out / "run.json").read_text())
    assert run["finished"] and len(run["logs"]["gold"]["sha256"][RETAIN]) == 64


def test_open_unlearning_gives_the_numbers_of_tofu(tmp_path: Path, no_page: None) -> None:
    ours, theirs = (
        written(tmp_path / "a.json", tofu_log()),
        written(tmp_path / "b/TOFU_EVAL.json", open_unlearning_log()),
    )
    summaries = []
    for name, log in (("tofu", ours), ("open", theirs.parent)):
        assert cli.main(["import-log", str(log), "--out", str(tmp_path / name)]) == 0
        summaries.append(json.loads((tmp_path / name / "summary.json").read_text())["models"]["imported"])
    for name in ("forget", "retain"):
        tofu, other = (s["sets"][name]["all"] for s in summaries)
        assert all(
            tofu[m] == other[m] for m in ("rouge_1", "rouge_l", "probability", "truth_ratio", "metric") if m in tofu
        )
    assert summaries[0]["forget_quality"] is None and summaries[1]["membership"] is None
    run = json.loads((tmp_path / "open" / "run.json").read_text())
    assert run["stated"]["imported"]["model_utility"] == 0.55 and any("left alone" in n for n in run["notes"])


def test_the_same_command_goes_again(tmp_path: Path, no_page: None) -> None:
    log, other = written(tmp_path / "a.json", tofu_log()), written(tmp_path / "b.json", tofu_log(shift=0.3))
    args = ["import-log", str(log), "--gold", str(other), "--original", str(other), "--out", str(tmp_path / "run")]
    assert cli.main(args) == 0
    first = (tmp_path / "run" / "summary.json").read_bytes()
    assert cli.main(args) == 0
    assert (tmp_path / "run" / "summary.json").read_bytes() == first
    models = json.loads(first)["models"]
    assert list(models) == ["original", "imported", "gold"]
    assert models["original"]["forget_quality"]["ks"] == 0.0  # the same log as gold's


def test_the_page(tmp_path: Path) -> None:
    log = written(tmp_path / "a.json", tofu_log())
    assert cli.main(["import-log", str(log), "--gold", str(log), "--out", str(tmp_path / "run")]) == 0
    assert "imported" in (tmp_path / "run" / "index.html").read_text()
    assert "imported" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize("flag", ["--gold", "--original"])
def test_a_log_of_other_rows_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    log, other = written(tmp_path / "a.json", tofu_log()), written(tmp_path / "b.json", tofu_log(rows=4))
    assert cli.main(["import-log", str(log), flag, str(other), "--out", str(tmp_path / "run")]) == cli.USER_ERROR
    assert "3 rows where 4 were expected" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_nan_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tofu_log()
    bad["eval_log.json"]["rougeL_recall"]["1"] = float("nan")
    log = written(tmp_path / "a.json", bad)
    assert cli.main(["import-log", str(log), "--out", str(tmp_path / "run")]) == cli.USER_ERROR
    assert f"error: {log}: block eval_log.json, rougeL_recall, row '1': is nan" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
