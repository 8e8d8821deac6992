"""Projected gradients on one rank and two, sharded, offloaded, accumulated, clipped: the steps autograd gives by hand.

All jobs of a number of ranks run in one process group, one after the other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from .ranks import run_ranks
from .worker_rules import ALONE, BF16, BROKEN, CLIP, JOBS, Job, by_hand

WORKER = Path(__file__).with_name("worker_rules.py")
Result = tuple[list[dict[str, Any]], dict[str, Tensor]]
CASES = [(2, name) for name in JOBS] + [(1, name) for name in ALONE]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, model: Path, cache: Path) -> dict[tuple[int, str], Result]:
    """(ranks, job) -> (lines of metrics.jsonl, trained tensors)."""
    found = {}
    for ranks, names in ((2, [*JOBS, *BF16, *BROKEN]), (1, list(ALONE))):
        out = tmp_path_factory.mktemp(f"rules_{ranks}")
        (out / "jobs.json").write_text(json.dumps(names))
        run_ranks(ranks, WORKER, [str(model), str(out / "jobs.json"), str(out)], cache)
        for name in names:
            lines = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
            found[ranks, name] = (lines, load_file(out / f"{name}.safetensors"))
    return found


@pytest.fixture(scope="module")
def hand(model: Path) -> dict[tuple[Any, ...], tuple[dict[str, Tensor], list[list[float]]]]:
    return {job.equation: by_hand(model, job) for job in JOBS.values()}


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n].double() - b[n].double()).abs().max()) for n in a)


@pytest.mark.distributed
@pytest.mark.parametrize(("ranks", "name"), CASES)
def test_the_step_is_the_one_by_hand(results: dict, hand: dict, ranks: int, name: str) -> None:
    lines, tensors = results[ranks, name]
    wanted, weights = hand[JOBS[name].equation]
    assert apart(tensors, wanted) < 1e-6
    assert [list(line["coefficients"].values()) for line in lines] == [
        pytest.approx(w, rel=1e-4, abs=1e-12) for w in weights
    ]


@pytest.mark.distributed
@pytest.mark.parametrize(("ranks", "name"), CASES)
def test_the_log_tells_of_the_sum(results: dict, ranks: int, name: str) -> None:
    """Parts of all groups in one line; the loss is their sum, unweighed, the penalty's included."""
    job: Job = JOBS[name]
    for line in results[ranks, name][0]:
        factors = {w.term.name: w.factor for w in job.objective.terms}
        factors |= {p.name: p.factor for p in job.objective.penalties}
        assert line["parts"].keys() == factors.keys()
        assert line["loss"] == pytest.approx(sum(factors[n] * v for n, v in line["parts"].items()), rel=1e-5)
        assert list(line["coefficients"]) == [str(group) for group in job.groups]
        assert line["grad_norm"] > 0
        assert line["real_tokens"] == results[1, "z0"][0][line["step"] - 1]["real_tokens"]


@pytest.mark.distributed
def test_what_was_compared_could_have_differed(results: dict, hand: dict) -> None:
    """Clipping bit, gradients contradicted each other, projection changed the step, weights moved."""
    for ranks, name in CASES:
        if JOBS[name].clip:
            assert min(line["grad_norm"] for line in results[ranks, name][0]) > 1.5 * CLIP, name
        for weights in hand[JOBS[name].equation][1]:
            assert max(abs(w - 1.0) for w in weights) > 0.05, name
    moved = results[2, "z3"][1]
    assert apart(moved, results[2, "z3_half"][1]) > 1e-3
    assert apart(moved, results[2, "z3_l1"][1]) > 1e-5


@pytest.mark.distributed
@pytest.mark.parametrize("name", BROKEN)
def test_inner_products_of_one_rank_alone_would_be_seen(results: dict, hand: dict, name: str) -> None:
    """The comparison above fails for a projection computed from what one rank holds."""
    _, tensors = results[2, name]
    wanted, _ = hand[BROKEN[name].equation]
    assert apart(tensors, wanted) > 1e-4


@pytest.mark.distributed
@pytest.mark.parametrize("name", BF16)
def test_bf16_weighs_alike(results: dict, hand: dict, name: str) -> None:
    lines, tensors = results[2, name]
    _, weights = hand[BF16[name].equation]
    plain = results[2, "z0"][0]
    for line, exact, w in zip(lines, plain, weights, strict=True):
        assert list(line["coefficients"].values()) == pytest.approx(w, rel=0.05)
        assert line["grad_norm"] == pytest.approx(exact["grad_norm"], rel=0.05)
    assert all(bool(torch.isfinite(t).all()) for t in tensors.values())
    assert apart(tensors, results[2, "z0_bf16"][1]) < 5e-3
