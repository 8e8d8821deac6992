"""``clear-dist export`` from run directories to files."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clear_dist import cli
from clear_dist.evaluation.records import write_records
from clear_dist.evaluation.summary import summarise, write_summary
from clear_dist.metrics.record import LogProbs, Record


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs of two rows; the second holds its files one level down, as a quickstart does."""
    folders = [tmp_path / "a", tmp_path / "b" / "unlearned"]
    for folder in folders:
        folder.mkdir(parents=True)
        records = [
            Record(
                model=model,
                set="retain",
                modality="text",
                kind="qa",
                id="1",
                prompt="?",
                answer="!",
                generated="!",
                scores={"rouge_l": 1.0, "probability": 0.5},
                logp=LogProbs(answer=(-0.7,)),
            )
            for model in ("unlearned", "gold")
        ]
        write_records(folder / "records.jsonl", records)
        write_summary(folder / "summary.json", summarise(records, draws=10))
    return folders


def test_records_of_several_runs(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out" / "r.parquet"
    assert cli.main(["export", *map(str, runs), "--out", str(out)]) == 0
    rows = pq.read_table(out).to_pylist()
    assert [(r["run"], r["model"]) for r in rows] == [(str(run), m) for run in runs for m in ("unlearned", "gold")]
    assert rows[0]["rouge_l"] == 1.0 and rows[0]["logp.answer"] == [-0.7]


def test_summaries(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    assert cli.main(["export", str(runs[0]), "--what", "summary", "--out", str(out)]) == 0
    lines = out.read_text(encoding="utf-8-sig").splitlines()
    assert lines[0] == "run,model,set,group,metric,value,low,high,n,note"
    assert f"{runs[0]},unlearned,retain,all,rouge_l,1.0," in "\n".join(lines)


def test_mistakes_are_told_and_nothing_is_written(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, a, b = str(tmp_path / "x.csv"), str(runs[0]), str(runs[1])
    for args, words in (
        ([a, "--out", str(tmp_path / "x.txt")], "ends in .parquet or .csv"),
        ([a, f"{a}/../a", "--out", out], "named twice"),
        ([str(runs[1].parent), "--out", out], f"did you mean {b}?"),
        ([str(tmp_path / "none"), "--out", out], "no such directory"),
        (["--out", out], "RUN [RUN ...] is required"),
        ([a], "--out is required"),
    ):
        assert cli.main(["export", *args]) == cli.USER_ERROR
        assert words in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
    (runs[0] / "records.jsonl").write_text('{"v": 1, "model": ')
    assert cli.main(["export", a, "--out", out]) == cli.USER_ERROR
    assert "records.jsonl:1" in capsys.readouterr().err and not Path(out).exists()
