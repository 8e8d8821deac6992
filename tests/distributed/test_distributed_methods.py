"""One step of every method is the same everywhere: on two ranks, at any ZeRO stage, offloaded, packed, accumulated,
with activations recomputed, with LoRA or without, with a reference that is live or kept on disk.

The yardstick is one process without DeepSpeed (``worker_methods.by_hand``). Every value of every factor meets every
value of every other (``pairwise``); all steps run in one process group, one after the other.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from clear_dist.methods import METHODS

from .pairwise import all_pairs, covering_array, pairs_of
from .ranks import run_ranks
from .worker_methods import ByHand, Job, by_hand

WORKER = Path(__file__).with_name("worker_methods.py")
FACTORS: dict[str, tuple[Any, ...]] = {
    "method": tuple(METHODS),
    "zero": ("0", "2", "3", "3 offload"),
    "layout": ("dense", "padded", "varlen"),
    "accumulation": (1, 2),
    "checkpointing": (False, True),
    "weights": ("lora", "full"),
    "l1": (False, True),
    "reference": ("live", "cache"),
}
ROWS = covering_array(FACTORS)
NAMES = ["-".join(str(v) for v in row.values()).replace(" ", "_") for row in ROWS]
MOVED = 5e-3  # the largest change of a weight: each method's learning rate is chosen for it
PENALTY = 0.1  # the penalty's gradient, relative to the largest element of the method's own
TOLERANCE = 1e-6
TIMEOUT = 900  # seconds: a hundred engines, on a machine that may be busy


def sized(row: dict[str, Any]) -> tuple[Job, ByHand]:
    """Gradients differ by four orders of magnitude between methods (twins compares squared norms, satimp's weights are
    small): with a learning rate and a penalty in proportion, one tolerance means the same for all."""
    plain = by_hand(row["method"], row["weights"])
    factor = PENALTY * plain.largest if row["l1"] else 0.0
    hand = by_hand(row["method"], row["weights"], factor) if row["l1"] else plain
    return Job(**{**row, "l1": factor, "lr": MOVED / hand.largest}), hand


@pytest.fixture(scope="module")
def jobs() -> dict[str, tuple[Job, ByHand]]:
    return {name: sized(row) for name, row in zip(NAMES, ROWS, strict=True)}


@pytest.fixture(scope="module")
def results(
    jobs: dict[str, tuple[Job, ByHand]], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, Any], dict[str, Tensor]]]:
    """job -> (its line of metrics.jsonl, trained tensors)."""
    out = tmp_path_factory.mktemp("methods")
    (out / "jobs.json").write_text(json.dumps({name: asdict(job) for name, (job, _) in jobs.items()}))
    run_ranks(2, WORKER, [str(out / "jobs.json"), str(out)], cache, TIMEOUT)
    found = {}
    for name in jobs:
        (line,) = (out / name / "metrics.jsonl").read_text().splitlines()
        found[name] = (json.loads(line), load_file(out / f"{name}.safetensors"))
    return found


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=6).map(lambda ns: {f"f{i}": range(n) for i, n in enumerate(ns)})
)
@settings(max_examples=50, deadline=None)
def test_rows_cover_all_pairs(factors: dict[str, range]) -> None:
    rows = covering_array(factors)
    assert {(a, row[a], b, row[b]) for row in rows for a in factors for b in factors if a < b} == {
        (a, x, b, y) for a in factors for b in factors if a < b for x in factors[a] for y in factors[b]
    }
    assert rows == covering_array(factors)


def test_the_jobs_cover_all_pairs() -> None:
    assert set().union(*map(pairs_of, ROWS)) == all_pairs(FACTORS)
    assert len(ROWS) == len(set(NAMES)) == len(FACTORS["method"]) * len(FACTORS["zero"]), "no array is smaller"


@pytest.mark.distributed
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_the_same_everywhere(jobs: dict, results: dict, name: str) -> None:
    job, hand = jobs[name]
    line, tensors = results[name]
    assert tensors.keys() == hand.before.keys()
    wanted = {n: hand.before[n].double() - job.lr * hand.gradient[n].double() for n in tensors}
    apart = {n: float((tensors[n].double() - wanted[n]).abs().max()) for n in tensors}
    worst = max(apart, key=lambda n: apart[n])
    assert apart[worst] < TOLERANCE, f"{worst}: {apart[worst]}"
    assert line["loss"] == pytest.approx(hand.loss, rel=1e-5, abs=1e-5)


@pytest.mark.distributed
def test_every_trained_tensor_has_moved(jobs: dict, results: dict) -> None:
    """Equality above means nothing for what stands still: only the head does, where a method looks below it."""
    for name, (_, tensors) in results.items():
        job, hand = jobs[name]
        moved = {n: float((t - hand.before[n]).abs().max()) for n, t in tensors.items()}
        assert max(moved.values()) == pytest.approx(MOVED, rel=1e-3), name
        still = {n for n, m in moved.items() if m < 10 * TOLERANCE}
        below = job.method in ("twins", "scrub_bio") and job.weights == "full" and not job.l1
        assert still == ({"lm_head.weight"} if below else set()), name
