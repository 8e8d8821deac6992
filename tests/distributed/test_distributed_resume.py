"""A rank killed in the middle of unlearning under ZeRO-3: the restarted run continues bit for bit."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clear_dist.engine.checkpoint_files import published, read_manifest

from .ranks import Rank, finish, run_ranks, start

WORKER = Path(__file__).with_name("worker_unlearn.py")
STEPS, KILL_AT, EVERY = 8, 5, 3
DS = {
    "gradient_clipping": 0.5,
    # 0: even the smallest parameter is partitioned, so every rank's shard matters.
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}
CONFIG = {
    "method": "npo",
    "set": {"beta": 0.5, "retain_weight": 1.0, "kl_weight": 1.0},
    "global_batch": 6,
    "retain_ratio": 2.0,
    "epochs": 10,
    "max_steps": STEPS,
    "lr": 1e-3,
    "warmup": 0.05,
    "schedule": "cosine",
    "checkpoint_every": EVERY,
}


def lines(run: Path) -> list[dict[str, Any]]:
    """Whole lines of metrics.jsonl; while a run is going on the last may be cut."""
    file = run / "metrics.jsonl"
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def kill_at(step: int, run: Path, ranks: list[Rank]) -> None:
    """SIGKILL one rank as soon as ``step`` is logged, then what is left of the others."""
    deadline = time.monotonic() + 300
    while len(lines(run)) < step:
        assert time.monotonic() < deadline, "the run never came so far"
        assert all(rank.process.poll() is None for rank in ranks), "a rank ended by itself"
        time.sleep(0.002)
    ranks[1].process.send_signal(signal.SIGKILL)
    ranks[1].process.wait()
    ranks[0].process.kill()


@pytest.mark.distributed
def test_a_killed_run_continues_bit_for_bit(tmp_path: Path, model: Path, cache: Path) -> None:
    def job(name: str, resume: bool) -> dict[str, Any]:
        out = tmp_path / name
        config = {**CONFIG, "original": str(model), "model": str(model), "out": str(out)}
        return {"name": name, "out": str(out), "ds": DS, "config": config, "resume": resume}

    def jobs(*which: dict[str, Any]) -> list[str]:
        file = tmp_path / f"jobs{len(which)}.json"
        file.write_text(json.dumps(which))
        return [str(file)]

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ranks = start(2, WORKER, jobs(job("cut", False)), cache)
    try:
        kill_at(KILL_AT, cut, ranks)
    finally:
        for rank in ranks:
            rank.process.kill()
        statuses, _ = finish(ranks)
    assert statuses == [-signal.SIGKILL, -signal.SIGKILL]
    begun = lines(cut)
    assert KILL_AT <= len(begun) < STEPS, "killed too late to show anything"
    kept = read_manifest(published(cut / "checkpoints")[0]).step
    assert 0 < kept < STEPS and kept % EVERY == 0
    assert not (cut / "adapter").exists()

    run_ranks(2, WORKER, jobs(job("cut", True), job("whole", False)), cache)
    assert [line["step"] for line in lines(cut)] == list(range(1, STEPS + 1)), "each step once"
    assert lines(cut)[:kept] == begun[:kept], "lines before the checkpoint stay as they were"
    for key in ("loss", "parts", "lr", "grad_norm", "real_tokens"):
        assert [line[key] for line in lines(cut)] == [line[key] for line in lines(whole)], key
    resumed, uninterrupted = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (cut, whole))
    assert resumed.keys() == uninterrupted.keys()
    assert all(torch.equal(resumed[n], uninterrupted[n]) for n in resumed)
    assert any(float(t.abs().max()) > 1e-4 for n, t in resumed.items() if "lora_B" in n), "nothing was learned"
