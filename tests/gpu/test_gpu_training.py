"""Whole unlearning jobs on one GPU: ZeRO 0 and 3, fp32 and bf16; what they save loads in plain libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.ranks import run_ranks
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from clear_dist.models.quiet import quiet

WORKER = Path(__file__).resolve().parents[1] / "distributed" / "worker_unlearn.py"
SHARDED = {"gradient_clipping": 1.0, "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
CONFIG = {
    "method": "npo",
    "set": {"beta": 0.5, "retain_weight": 1.0, "kl_weight": 1.0},
    "global_batch": 8,
    "max_steps": 6,
    "lr": 2e-3,
    "checkpoint_every": 0,
}
JOBS: dict[str, dict[str, Any]] = {
    "z0_fp32": {"ds": {**SHARDED, "zero_optimization": {"stage": 0}}, "config": {"dtype": "fp32"}},
    "z3_fp32": {"ds": SHARDED, "config": {"dtype": "fp32"}},
    "z3_bf16": {"ds": SHARDED, "config": {"dtype": "bf16", "gradient_checkpointing": "on"}},
    "z3_merged": {"ds": SHARDED, "config": {"dtype": "bf16", "merge": True}},
}


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, model_dir: Path, cache: Path, device: torch.device
) -> dict[str, Path]:
    """job -> its run directory; one process runs all."""
    del device
    folder = tmp_path_factory.mktemp("gpu_runs")
    jobs = []
    for name, job in JOBS.items():
        config = {**CONFIG, **job["config"], "original": str(model_dir), "model": str(model_dir)}
        jobs.append({"name": name, "out": str(folder / name), "ds": job["ds"], "config": config})
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    run_ranks(1, WORKER, [str(file)], cache)
    return {name: folder / name for name in JOBS}


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", JOBS)
def test_learns(runs: dict[str, Path], name: str):
    lines = metrics(runs[name])
    assert [line["step"] for line in lines] == list(range(1, 7))
    for line in lines:
        assert line["grad_norm"] > 0 and line["memory_gb"] > 0 and line["real_tokens"] > 0
        assert abs(line["loss"]) < 100
    npo = [line["parts"]["npo(FORGET, beta=0.5)"] for line in lines]
    assert min(npo[1:]) < npo[0], "what is to be forgotten must become less likely"


def test_sharding_and_precision_change_nothing_but_rounding(runs: dict[str, Path]):
    losses = {name: [line["loss"] for line in metrics(run)] for name, run in runs.items()}
    assert losses["z3_fp32"] == pytest.approx(losses["z0_fp32"], abs=1e-4)
    assert losses["z3_bf16"] == pytest.approx(losses["z0_fp32"], rel=0.05)
    assert losses["z3_bf16"] != losses["z3_fp32"]


def test_deterministic_runs_are_equal_bit_for_bit(
    tmp_path: Path, model_dir: Path, cache: Path, device: torch.device
) -> None:
    del device
    jobs = []
    for name in ("first", "second"):
        config = {**CONFIG, "dtype": "bf16", "deterministic": True, "original": str(model_dir), "model": str(model_dir)}
        jobs.append({"name": name, "out": str(tmp_path / name), "ds": SHARDED, "config": config})
    file = tmp_path / "jobs.json"
    file.write_text(json.dumps(jobs))
    run_ranks(1, WORKER, [str(file)], cache)
    a, b = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("first", "second"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert [line["loss"] for line in metrics(tmp_path / "first")] == [
        line["loss"] for line in metrics(tmp_path / "second")
    ]


def test_adapter_loads_in_plain_peft(runs: dict[str, Path], model_dir: Path):
    tensors = load_file(runs["z3_fp32"] / "adapter" / "adapter_model.safetensors")
    moved = [t for name, t in tensors.items() if "lora_B" in name]
    assert moved and all(t.any() for t in moved)
    with quiet():
        base = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(runs["z3_fp32"] / "adapter"))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_merged_model_loads_in_plain_transformers(runs: dict[str, Path], model_dir: Path):
    with quiet():
        merged = AutoModelForImageTextToText.from_pretrained(runs["z3_merged"] / "model", dtype=torch.float32)
        original = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32).state_dict()
    changed = {name for name, t in merged.state_dict().items() if not torch.equal(t, original[name].to(t.dtype))}
    assert any("q_proj" in name for name in changed)
