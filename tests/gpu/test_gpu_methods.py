"""What the plainest methods do not touch, on a GPU: shortened decoders, projected gradients with offload, references
kept on disk and transformed pictures; sharded and in bf16 they say what one process says in fp32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.ranks import run_ranks

WORKER = Path(__file__).resolve().parents[1] / "distributed" / "worker_unlearn.py"
CONFIG = {"global_batch": 8, "max_steps": 3, "lr": 1e-3, "checkpoint_every": 0, "epochs": 4, "schedule": "constant"}
METHODS: dict[str, dict[str, Any]] = {
    "rmu": {"method": "rmu", "set": {"layer": 1, "c": 2.0}},
    "grad_orth": {"method": "grad_orth", "set": {"until": 1.0}},
    "dpo": {"method": "dpo"},
    "twins": {"method": "twins"},
    "scrub_cached": {"method": "scrub", "full": True, "reference": "cache", "lr": 1e-4},
    "kl_cached": {"method": "kl", "reference": "cache"},
}
OFFLOAD = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
PLAIN = {"gradient_clipping": 1.0, "zero_optimization": {"stage": 0}}
SHARDED = {"gradient_clipping": 1.0, "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
SETUPS: dict[str, tuple[dict[str, Any], str]] = {
    "plain": (PLAIN, "fp32"),
    "sharded": (SHARDED, "fp32"),
    "offloaded": ({**SHARDED, "zero_optimization": {**SHARDED["zero_optimization"], **OFFLOAD}}, "fp32"),
    "bf16": (SHARDED, "bf16"),
}


@pytest.fixture(scope="module")
def losses(
    tmp_path_factory: pytest.TempPathFactory, model_dir: Path, cache: Path, device: torch.device
) -> dict[tuple[str, str], list[float]]:
    """(method, setup) -> the losses of its steps; one process runs all."""
    del device
    folder = tmp_path_factory.mktemp("gpu_methods")
    jobs = []
    for method, more in METHODS.items():
        for setup, (ds, dtype) in SETUPS.items():
            out = folder / f"{method}_{setup}"
            config = {**CONFIG, "original": str(model_dir), "model": str(model_dir), "dtype": dtype, **more}
            config["reference_cache"] = str(out / "reference")
            jobs.append({"name": out.name, "out": str(out), "ds": ds, "config": config})
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    run_ranks(1, WORKER, [str(file)], cache)

    def read(out: Path) -> list[float]:
        return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]

    return {(m, s): read(folder / f"{m}_{s}") for m in METHODS for s in SETUPS}


@pytest.mark.parametrize("setup", [s for s in SETUPS if s != "plain"])
@pytest.mark.parametrize("method", METHODS)
def test_the_same_losses_however_it_runs(losses: dict[tuple[str, str], list[float]], method: str, setup: str) -> None:
    found, plain = losses[method, setup], losses[method, "plain"]
    assert len(found) == 3 and plain[0] != plain[2], "nothing was learned"
    tolerance = 0.05 if setup == "bf16" else 1e-4
    assert found == pytest.approx(plain, rel=tolerance, abs=tolerance)
