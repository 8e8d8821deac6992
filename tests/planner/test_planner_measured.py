"""The plan against real steps, told by the allocator: two ranks for ZeRO, tiny and 100 million parameters."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from distributed.ranks import run_ranks
from measure import Case, Measured
from planner_jobs import job_of

from clear_dist.planner.memory import memory_of
from clear_dist.planner.state import state_of

HERE = Path(__file__).resolve().parent
CPU = {"device": "cpu", "pin_memory": False}
TOLERANCE = 0.10


def _cases(size: str, bucket: int, **more: Any) -> list[Case]:
    zero3 = {"stage": 3, "stage3_param_persistence_threshold": 0, "reduce_bucket_size": bucket}
    kinds = {
        "z0": {"stage": 0},
        "z1": {"stage": 1, "reduce_bucket_size": bucket},
        "z2": {"stage": 2, "reduce_bucket_size": bucket},
        "z3": zero3,
        "z2-offload": {"stage": 2, "reduce_bucket_size": bucket, "offload_optimizer": CPU},
        "z3-offload": {**zero3, "offload_optimizer": CPU, "offload_param": CPU},
    }
    return [
        Case(f"{'full' if full else 'lora'}-{name}", size, ds, full=full, **more)
        for full in (False, True)
        for name, ds in kinds.items()
    ]


def _measured(cases: list[Case], folder: Path, ranks: int = 2) -> list[dict[str, Measured]]:
    """Of each rank."""
    jobs, out = folder / "jobs.json", folder / "out.x"
    jobs.write_text(json.dumps([asdict(case) for case in cases]))
    run_ranks(ranks, HERE / "measure.py", [str(jobs), str(out)], folder)
    texts = [out.with_suffix(f".{rank}.json").read_text() for rank in range(ranks)]
    return [{name: Measured(**found) for name, found in json.loads(text).items()} for text in texts]


def _check_peaks(cases: list[Case], ranks: list[dict[str, Measured]]) -> None:
    for case in cases:
        plan = memory_of(job_of(case, 2))
        for found in ranks:
            assert plan.total + plan.host == pytest.approx(found[case.name].peak, rel=TOLERANCE), case.name


@pytest.mark.slow
@pytest.mark.distributed
def test_tiny_peaks_and_exact_state(tmp_path: Path) -> None:
    cases = [
        *_cases("tiny", 50_000),
        Case(
            "bf16-z3", ds={"stage": 3, "stage3_param_persistence_threshold": 0, "reduce_bucket_size": 50_000}, bf16=True
        ),
    ]
    cases += [Case("kept-z3", ds={"stage": 3, "stage3_param_persistence_threshold": 300, "reduce_bucket_size": 9000})]
    ranks = _measured(cases, tmp_path)
    _check_peaks([c for c in cases if not c.bf16], ranks)
    for case in cases:
        state = state_of(job_of(case, 2))
        for found in ranks:
            got = found[case.name]
            assert got.weights == state.weights + state.whole, case.name
            assert got.optimizer == state.optimizer, case.name
            if case.ds["stage"] == 3:
                assert got.gradients == state.gradients, case.name


@pytest.mark.slow
@pytest.mark.distributed
def test_checkpointing_and_references_too(tmp_path: Path) -> None:
    more = [
        Case("checkpointing", ds={"stage": 0}, checkpointing=True),
        Case("reference", ds={"stage": 0}, objective="kl(RETAIN) - nll(FORGET)"),
        Case("text", ds={"stage": 0}, pictures=0, rows=2, length=400),
    ]
    _check_peaks(more, _measured(more, tmp_path))


@pytest.mark.slow
@pytest.mark.distributed
def test_100m_peaks(tmp_path: Path) -> None:
    chosen = ("lora-z0", "lora-z3", "full-z0", "full-z2", "full-z3-offload")
    cases = [
        case for case in _cases("100m", 2_000_000, rows=1, length=256, answers=32, pictures=1) if case.name in chosen
    ]
    _check_peaks(cases, _measured(cases, tmp_path))


@pytest.mark.slow
@pytest.mark.distributed
def test_memory_falls_with_ranks_as_planned(tmp_path: Path) -> None:
    """Four ranks: a quarter of the state of ZeRO-3, to the byte, padding included."""
    cases = [case for case in _cases("tiny", 50_000) if case.name in ("lora-z3", "full-z3")]
    for found in _measured(cases, tmp_path, ranks=4):
        for case in cases:
            state, got = state_of(job_of(case, 4)), found[case.name]
            assert (got.weights, got.gradients, got.optimizer) == (state.weights, state.gradients, state.optimizer)
            assert memory_of(job_of(case, 4)).total == pytest.approx(got.peak, rel=TOLERANCE)
            assert state.weights < 0.26 * state_of(job_of(case, 1)).weights
