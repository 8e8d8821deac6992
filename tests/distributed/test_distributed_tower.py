"""The vision tower's output kept and batches made ahead, on two ranks that shard the model: nothing changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from .ranks import run_ranks

WORKER = Path(__file__).with_name("worker_unlearn.py")
CONFIG = {
    "method": "npo",
    "set": {"beta": 0.5, "retain_weight": 1.0, "kl_weight": 1.0},
    "global_batch": 6,
    "retain_ratio": 2.0,
    "max_steps": 4,
    "epochs": 10,
    "schedule": "constant",
    "lr": 1e-3,
    "warmup": 0.0,
    "checkpoint_every": 0,
    "eval_every": 4,
}
PLAIN = {"tower_cache": "off", "prefetch": 0}
KEPT = {"tower_cache": "on", "prefetch": 2}


def zero(stage: int) -> dict[str, Any]:
    # A threshold of 0 makes ZeRO-3 partition even the smallest parameter; otherwise a tiny model proves nothing.
    extra = {"stage3_param_persistence_threshold": 0} if stage == 3 else {}
    return {"gradient_clipping": 0.0, "zero_optimization": {"stage": stage, **extra}}


# small: of the two ranks' batches some have no picture; full: the projector trains, and the reference is kept on disk;
# copy: beside a second, frozen model; rule: a gradient for each of two groups of terms, each in two micro-batches.
JOBS: dict[str, tuple[int, dict[str, Any]]] = {
    "z2": (2, {}),
    "z3": (3, {}),
    "z3_small": (3, {"global_batch": 2, "retain_ratio": 0.5}),
    "z3_full": (3, {"full": True, "lr": 1e-4}),
    "z3_copy": (3, {"full": True, "lr": 1e-4, "reference": "copy"}),
    "z3_rule": (3, {"method": "grad_orth", "set": {}, "micro_batch": 5}),
}
Result = tuple[list[dict[str, Any]], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, model: Path, cache: Path) -> dict[tuple[str, str], Result]:
    """(job, plain | kept) -> (lines of metrics.jsonl, trained tensors)."""
    folder = tmp_path_factory.mktemp("tower")
    jobs = []
    for name, (stage, more) in JOBS.items():
        for kind, how in (("plain", PLAIN), ("kept", KEPT)):
            run = folder / f"{name}_{kind}"
            config = {**CONFIG, **more, **how, "original": str(model), "model": str(model), "out": str(run)}
            jobs.append({"name": f"{name}_{kind}", "out": str(run), "ds": zero(stage), "config": config})
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    run_ranks(2, WORKER, [str(file)], cache)
    out = {}
    for name, (_, more) in JOBS.items():
        for kind in ("plain", "kept"):
            run = folder / f"{name}_{kind}"
            weights = "model/model.safetensors" if more.get("full") else "adapter/adapter_model.safetensors"
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            out[name, kind] = (lines, load_file(run / weights))
    return out


@pytest.mark.distributed
@pytest.mark.parametrize("name", JOBS)
def test_kept_and_made_ahead_is_the_same(results: dict[tuple[str, str], Result], name: str) -> None:
    (plain, wanted), (kept, found) = results[name, "plain"], results[name, "kept"]
    steps = [line for line in kept if "loss" in line]
    assert len(steps) == 4 and steps[0]["prepared"]["tower_seconds"] > 0
    assert not any("tower_seconds" in line.get("prepared", {}) for line in plain)
    assert [line["real_tokens"] for line in steps] == [line["real_tokens"] for line in plain if "loss" in line]
    assert [line["loss"] for line in steps] == pytest.approx([x["loss"] for x in plain if "loss" in x], abs=1e-6)
    for line, other in zip(kept, plain, strict=True):
        assert line.get("eval", {}) == pytest.approx(other.get("eval", {}), abs=1e-5)
    assert found.keys() == wanted.keys()
    worst = max(float((found[k].double() - wanted[k].double()).abs().max()) for k in wanted)
    assert worst < 1e-5, worst


@pytest.mark.distributed
def test_something_is_learned(results: dict[tuple[str, str], Result]) -> None:
    losses = [line["loss"] for line in results["z3", "kept"][0] if "loss" in line]
    assert abs(losses[0] - losses[-1]) > 1e-3
