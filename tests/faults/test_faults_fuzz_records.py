"""Files of runs: records, metrics, summaries, run.json, and other programs' logs. Each is read, or refused by file and
line; nothing that was read breaks what is made of it."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from report import run_files
from rich.console import Console
from services.log_fakes import open_unlearning_log, tofu_block, tofu_log

from clear_dist.config import UnlearnConfig
from clear_dist.engine.metrics_log import _lines_until
from clear_dist.evaluation.records import write_records
from clear_dist.metrics.record import LogProbs, Record, read_records
from clear_dist.recipes.reproduce import changes, differences, finished_run
from clear_dist.report.compare import as_json, compare_runs_table, lines_of
from clear_dist.report.run import read_steps, read_summary
from clear_dist.report.runs import expand, read_runs
from clear_dist.report.scan import scan
from clear_dist.services.flat import records_table, summary_table, write_table
from clear_dist.services.log_rows import check_same_rows, with_common_texts
from clear_dist.services.rundir import claim_output, is_complete, read_run, resume_source
from clear_dist.services.tofu_log import BLOCKS, read_log, records_of

from .fuzz import counted
from .fuzz_inputs import altered, damaged, files

COUNTS = [pytest.param(500, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]
LOGP = LogProbs((-0.5, -0.1), (-1.0,), ((-2.0,), (-3.0, -1.0)), ((-0.5,), (-2.0,)))
SCORES = {"rouge_l": 0.5, "fact": 1, "name": None, "attributes": {"hair": 1}, "min_k_plus": -0.3, "judge": 2}
RECORDS = [
    Record("unlearned", "forget", "visual", "name", "a", "Who?", "Ada", person="Ada", picture="0" * 8, seen=False),
    Record(
        "unlearned", "retain", "text", "qa", "b", "Wer?", "B\u00f6 \U0001f600", generated="Bo", scores=SCORES, logp=LOGP
    ),
    Record("original/shuffled", "real_world", "text", "choice", "c", "Where?", "There", label="leak", logp=LOGP),
]
LINES = [record.to_line().encode() for record in RECORDS]
VALUES = [json.loads(line) for line in LINES]


@st.composite
def line_files(draw: st.DrawFn, good: list[bytes], values: list[Any]) -> bytes:
    """Lines of JSON: mostly good ones, with one that is changed, damaged, half-written or doubled, or all damaged."""
    lines = draw(st.lists(st.sampled_from(good), max_size=3, unique=True))
    for _ in range(draw(st.sampled_from((0, 1, 1, 2)))):
        odd = st.one_of(
            altered(values).map(lambda v: json.dumps(v).encode()), damaged(good), st.sampled_from((b"", b" ", b"{"))
        )
        lines.insert(draw(st.integers(0, len(lines))), draw(odd))
    data = draw(st.sampled_from((b"\n", b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\r", b""))).join(lines)
    data += draw(st.sampled_from((b"\n", b"\n", b"")))
    return draw(damaged([data])) if draw(st.integers(0, 5)) == 0 else data


@pytest.mark.parametrize("count", COUNTS)
def test_records_are_read_and_written_again_or_refused_by_line(count: int, tmp_path: Path) -> None:
    file, again = tmp_path / "records.jsonl", tmp_path / "again.jsonl"

    def record_file(content: bytes) -> None:
        file.write_bytes(content)
        records = read_records(file)
        assert list(scan(file).records) == records, "a report reads other records than an export"
        write_records(again, records)
        assert [r.to_line() for r in read_records(again)] == [r.to_line() for r in records]
        write_table(tmp_path / "flat.parquet", records_table({"run": records}))
        write_table(tmp_path / "flat.csv", records_table({"run": records}))

    counted(
        count,
        line_files(LINES, VALUES),
        record_file,
        names=[f"{file.name}:"],
        accepted_at_least=count // 20,
        rejected_at_least=count // 4,
    )


STEP = {"step": 3, "loss": 0.5, "lr": 1e-3, "grad_norm": 1.0, "parts": {"nll(FORGET)": 0.5}, "tokens_per_s": 10.0}
STEPS = [{**STEP, "step": i} for i in range(1, 4)] + [{"step": 3, "eval": {"forget": 0.5}}]


@pytest.mark.parametrize("count", COUNTS)
def test_metrics_are_read_or_refused_by_line(count: int, tmp_path: Path) -> None:
    then, now = tmp_path / "then", tmp_path / "now"
    for folder in (then, now):
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in STEPS))

    def metrics_file(content: bytes) -> None:
        (now / "metrics.jsonl").write_bytes(content)
        _lines_until(now / "metrics.jsonl", 2)  # a resumed run: what cannot be read belongs to no step
        rows = read_steps(now / "metrics.jsonl")
        assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
        assert all(isinstance(line, str) for line in differences(then, now))

    lines = line_files([json.dumps(step).encode() for step in STEPS], STEPS)
    counted(
        count, lines, metrics_file, names=["metrics.jsonl"], accepted_at_least=count // 20, rejected_at_least=count // 4
    )


# ---------------------------------------------------------------------------------------------- one object a file


def compare(folders: list[Path]) -> None:
    """``clear-dist compare``, both ways."""
    lines = lines_of(read_runs(folders))
    json.dumps(as_json(lines), allow_nan=False)
    Console(file=io.StringIO(), width=118).print(compare_runs_table(lines))


SUMMARY: dict[str, Any] = {
    "v": 1,
    "seconds": {"unlearn": 12.0, "evaluate": 3.5},
    "models": {
        "original": run_files.ORIGINAL,
        "unlearned": run_files.block(
            ks=0.2,
            aftermath={"named": run_files.figure(0.1)},
            membership={"loss": {"auc": run_files.figure(0.5), "privleak": None}},
            robustness={"int4": {"forget": {"all": {"fact_accuracy": run_files.figure(0.3, note="few")}}}},
        ),
        "gold": run_files.GOLD,
    },
}
RUN: dict[str, Any] = {
    "v": 1, "recipe": "unlearn", "config": UnlearnConfig(out=Path("x")).model_dump(mode="json"), "digest": "d" * 64,
    "finished": True, "versions": {"torch": "2"}, "source": {"commit": "c" * 40, "changed": False}, "data_digest": "d",
    "machine": {"deterministic": True, "threads": 1}, "seconds": {"unlearn": 3.0}, "objective": "nll(RETAIN)",
}  # fmt: skip


def one_object(*values: Any) -> st.SearchStrategy[bytes]:
    return files([json.dumps(value, indent=1).encode() for value in values], values)


@pytest.mark.parametrize("count", COUNTS)
def test_a_summary_is_compared_and_exported_or_refused(count: int, tmp_path: Path) -> None:
    folder = run_files.write(tmp_path / "npo")

    def summary_file(content: bytes) -> None:
        (folder / "summary.json").write_bytes(content)
        table = summary_table({"run": read_summary(folder / "summary.json")})
        write_table(tmp_path / "flat.parquet", table)
        write_table(tmp_path / "flat.csv", table)
        compare([folder])

    counted(
        count,
        one_object(SUMMARY),
        summary_file,
        names=["summary"],
        accepted_at_least=count // 20,
        rejected_at_least=count // 4,
    )


@pytest.mark.parametrize("count", COUNTS)
def test_run_json_is_believed_or_refused(count: int, tmp_path: Path) -> None:
    folder, other = run_files.write(tmp_path / "npo"), run_files.write(tmp_path / "idk")
    (folder / "checkpoints" / "step_1").mkdir(parents=True)
    config = UnlearnConfig(out=folder)
    mine = {**RUN, "digest": config.digest()}

    def run_file(content: bytes) -> None:
        (folder / "run.json").write_bytes(content)
        assert is_complete(folder) in (True, False)
        said = read_run(folder)
        assert said is None or isinstance(said, dict)
        facts = finished_run(folder)
        assert all(isinstance(line, str) for line in (*changes(facts), *differences(folder, other)))
        resume_source(folder, config)
        compare([folder, other])
        claim_output(folder, config).release()

    counted(
        count,
        one_object(mine, mine, RUN),
        run_file,
        names=[folder.name],
        accepted_at_least=count // 50,
        rejected_at_least=count // 4,
    )


@pytest.mark.parametrize("count", COUNTS)
def test_a_sweep_s_rows_are_runs_beneath_it_or_refused(count: int, tmp_path: Path) -> None:
    inside = run_files.write(tmp_path / "runs" / "npo-seed0")
    row = {
        "run": inside.name,
        "method": "npo",
        "seed": 0,
        "set": {},
        "grid": {},
        "summary": run_files.block(),
        "seconds": 3,
    }

    def sweep_file(content: bytes) -> None:
        (tmp_path / "sweep.json").write_bytes(content)
        assert expand([tmp_path]) == [inside]

    counted(
        count,
        one_object([row], [{**row, "run": "../npo-seed0"}], [{"run": "x", "error": "e"}, row]),
        sweep_file,
        names=["sweep", tmp_path.name],
        accepted_at_least=count // 20,
        rejected_at_least=count // 4,
    )


# ---------------------------------------------------------------------------------------------- logs of other programs


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["tofu", "open-unlearning", "a file a set"])
def test_another_program_s_log_becomes_records_or_is_refused(count: int, kind: str, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    good: Any = tofu_log(2) if kind == "tofu" else open_unlearning_log(2)
    if kind == "a file a set":
        for name in BLOCKS:
            (tmp_path / name).write_text(json.dumps(tofu_block(2)))
        log, good = tmp_path / next(iter(BLOCKS)), tofu_block(2)
    source = tmp_path if kind == "a file a set" else log
    log.write_text(json.dumps(good))
    gold = read_log(source)

    def imported(content: bytes) -> None:
        log.write_bytes(content)
        found = read_log(source)
        check_same_rows(found, gold)
        for name, one in with_common_texts({"imported": found, "gold": gold}).items():
            records = records_of(one, name, "geometric")
            assert all(
                v is None or math.isfinite(v) for r in records for v in (r.score("probability"), r.score("truth_ratio"))
            )
            write_records(tmp_path / "records.out", records)

    counted(
        count // 3 + 1,
        one_object(good),
        imported,
        names=[tmp_path.name],
        accepted_at_least=count // 60,
        rejected_at_least=count // 12,
    )
