"""The same unlearning on one rank and two, at every ZeRO stage, offloaded or not, clipped or not: the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clear_dist.models import add_lora, inspect_model, load_model, save_adapter, with_base_weights

from .ranks import run_ranks

WORKER = Path(__file__).with_name("worker_unlearn.py")
CONFIG = {
    "method": "npo",
    "set": {"beta": 0.5, "retain_weight": 1.0, "kl_weight": 1.0},
    "global_batch": 6,
    "retain_ratio": 2.0,
    "max_steps": 5,
    "epochs": 10,  # with the schedule written out, the test does not depend on tuned defaults
    "schedule": "cosine",
    "lr": 1e-3,
    "warmup": 0.05,
    "checkpoint_every": 0,
}


def zero(stage: int, clip: float, **more: Any) -> dict[str, Any]:
    # A threshold of 0 makes ZeRO-3 partition even the smallest parameter; otherwise a tiny model proves nothing.
    extra = {"stage3_param_persistence_threshold": 0} if stage == 3 else {}
    return {"gradient_clipping": clip, "zero_optimization": {"stage": stage, **extra, **more}}


JOBS: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "z0": (zero(0, 0.0), {}),
    "z2": (zero(2, 0.0), {}),
    "z3": (zero(3, 0.0), {}),
    "z3_offload": (zero(3, 0.0, offload_param={"device": "cpu"}, offload_optimizer={"device": "cpu"}), {}),
    "z3_accumulating": (zero(3, 0.0), {"micro_batch": 5}),
    "z0_clipped": (zero(0, 0.05), {}),
    "z1_clipped": (zero(1, 0.05), {}),
    "z3_clipped": (zero(3, 0.05), {}),
    "z0_l1": (zero(0, 0.0), {"l1": 0.01}),
    "z2_l1": (zero(2, 0.0), {"l1": 0.01}),
    "z3_l1": (zero(3, 0.0), {"l1": 0.01, "micro_batch": 7}),
    "z0_full": (zero(0, 0.0), {"full": True, "lr": 1e-4}),
    "z3_full": (zero(3, 0.0), {"full": True, "lr": 1e-4}),
    "z0_nf4": (zero(0, 0.0), {"base_weights": "nf4"}),
    "z1_nf4": (zero(1, 0.0), {"base_weights": "nf4"}),
    "z2_nf4": (zero(2, 0.0, offload_optimizer={"device": "cpu"}), {"base_weights": "nf4", "micro_batch": 7}),
}
PLAIN = {"": "z0", "_clipped": "z0_clipped", "_l1": "z0_l1", "_full": "z0_full", "_nf4": "z0_nf4"}


def plain_of(name: str) -> str:
    return next(v for k, v in reversed(PLAIN.items()) if name.endswith(k))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """An original that is an adapter on 4-bit weights: it stays beneath the one that unlearns."""
    base = load_model(with_base_weights(inspect_model(model), "nf4"), dtype="fp32", device="cpu")
    module = add_lora(base.module, 3, 6, base.family, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return save_adapter(module, None, tmp_path_factory.mktemp("packed"), base.processor, base=model)


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, model: Path, packed: Path, cache: Path
) -> dict[tuple[int, str], tuple[list[float], dict[str, torch.Tensor]]]:
    """(ranks, job) -> (losses, trained tensors)."""
    folder = tmp_path_factory.mktemp("equality")
    out = {}
    for ranks in (1, 2):
        jobs = []
        for name, (ds, more) in JOBS.items():
            run = folder / f"{name}_{ranks}"
            original = str(packed if name.endswith("_nf4") else model)
            config = {**CONFIG, **more, "original": original, "model": str(model), "out": str(run)}
            jobs.append({"name": name, "out": str(run), "ds": ds, "config": config})
        file = folder / f"jobs_{ranks}.json"
        file.write_text(json.dumps(jobs))
        run_ranks(ranks, WORKER, [str(file)], cache)
        for job in jobs:
            run = Path(job["out"])
            losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
            kind = "model/model.safetensors" if job["config"].get("full") else "adapter/adapter_model.safetensors"
            out[ranks, job["name"]] = (losses, load_file(run / kind))
    return out


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", JOBS)
def test_same_losses_and_parameters(results: dict, ranks: int, name: str) -> None:
    losses, tensors = results[ranks, name]
    plain_losses, plain = results[1, plain_of(name)]
    assert len(losses) == 5
    assert losses == pytest.approx(plain_losses, abs=1e-5)
    assert tensors.keys() == plain.keys()
    worst = max(float((tensors[k].double() - plain[k].double()).abs().max()) for k in plain)
    assert worst < 1e-5, worst


@pytest.mark.distributed
def test_the_jobs_do_differ_where_they_should(results: dict) -> None:
    """Equality above means nothing if nothing moved, if clipping never bit, or if the penalty had no effect."""
    plain_losses, plain = results[1, "z0"]
    assert plain_losses[0] != plain_losses[1]
    assert any(float(v.abs().max()) > 0 for k, v in plain.items() if "lora_B" in k)
    for other in ("z0_clipped", "z0_l1"):
        _, tensors = results[1, other]
        assert max(float((tensors[k] - plain[k]).abs().max()) for k in plain) > 1e-5, other
