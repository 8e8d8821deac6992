"""Two ranks of a ZeRO-3 run: one is told to leave, one hangs. All of them end, with their own exit status."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.ranks import ROOT, Rank, finish, start
from safetensors.torch import load_file

from clear_dist.cli import PREEMPTED
from clear_dist.engine.watchdog import HUNG

LAUNCHER = ROOT / "launchers" / "unlearn.py"
WORKER = Path(__file__).with_name("worker_hang.py")
STEPS = 8


def flags(model: Path, out: Path, *more: str) -> list[str]:
    said = f"--ds z3 --no-gold --global-batch 6 --max-steps {STEPS} --lr 1e-3 --eval-limit 1 --checkpoint-every 100"
    return ["--original", str(model), "--model", str(model), "--out", str(out), *said.split(), *more]


def lines(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def when_at(step: int, run: Path, ranks: list[Rank]) -> None:
    deadline = time.monotonic() + 300
    while len(lines(run)) < step:
        assert time.monotonic() < deadline, "the run never came so far"
        assert all(rank.process.poll() is None for rank in ranks), "a rank ended by itself"
        time.sleep(0.002)


@pytest.mark.distributed
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_one_rank_is_told_and_all_leave_to_go_on(
    tmp_path: Path, model: Path, cache: Path, number: signal.Signals
) -> None:
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    ranks = start(2, LAUNCHER, flags(model, cut), cache)
    try:
        when_at(3, cut, ranks)
        ranks[1].process.send_signal(number)
        statuses, outputs = finish(ranks)
    finally:
        for rank in ranks:
            rank.process.kill()
    assert statuses == [PREEMPTED, PREEMPTED], outputs
    assert "another rank was): step" in outputs[0] and "the same command goes on" in outputs[0]
    begun = len(lines(cut))
    assert 3 <= begun < STEPS, "told too late to show anything"
    for out in (cut, whole):
        statuses, outputs = finish(start(2, LAUNCHER, flags(model, out), cache))
        assert statuses == [0, 0], outputs
    assert [line["step"] for line in lines(cut)] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in lines(cut)] == [line["loss"] for line in lines(whole)]
    found, wanted = (load_file(out / "adapter" / "adapter_model.safetensors") for out in (cut, whole))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.distributed
def test_one_rank_hangs_and_all_tell_where_they_are(tmp_path: Path, model: Path, cache: Path) -> None:
    out = tmp_path / "run"
    statuses, outputs = finish(start(2, WORKER, flags(model, out, "--hang-minutes", "0.1"), cache))
    assert statuses == [HUNG, HUNG], outputs
    told = [(out / f"hang-rank{rank:05d}.txt").read_text() for rank in (0, 1)]
    assert "in asleep" in told[1] and "one_step" not in told[1], "where it sleeps"
    assert "in one_step" in told[0] and "no progress for too long: step 3" in told[0], "where it waits for the other"
    assert len(lines(out)) == 2
