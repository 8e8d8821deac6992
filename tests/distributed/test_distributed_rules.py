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
from .worker_rules import ALONE, BF16, BROKEN, CLIP, JOBS, PAIR, SICK, STEPS, Job, by_hand

WORKER = Path(__file__).with_name("worker_rules.py")
Result = tuple[list[dict[str, Any]], dict[str, Tensor]]
CASES = [(ranks, name) for ranks, names in ((2, PAIR), (1, ALONE)) for name in names if name in JOBS]
HALVES = [(ranks, name) for ranks, names in ((2, PAIR), (1, ALONE)) for name in names if name in BF16]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rules")


@pytest.fixture(scope="module")
def results(folder: Path, model: Path, cache: Path) -> dict[tuple[int, str], Result]:
    """(ranks, job) -> (lines of metrics.jsonl, trained tensors)."""
    found = {}
    for ranks, names in ((2, PAIR), (1, ALONE)):
        out = folder / str(ranks)
        out.mkdir()
        (out / "jobs.json").write_text(json.dumps(names))
        run_ranks(ranks, WORKER, [str(model), str(out / "jobs.json"), str(out)], cache)
        for name in names:
            lines = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
            tensors = {} if name in SICK else load_file(out / f"{name}.safetensors")
            found[ranks, name] = (lines, tensors)
    return found


@pytest.fixture(scope="module")
def hand(model: Path) -> dict[tuple[Any, ...], tuple[dict[str, Tensor], list[list[float]]]]:
    return {job.equation: by_hand(model, job) for job in JOBS.values()}


def steps(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if "loss" in line]


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n].double() - b[n].double()).abs().max()) for n in a)


@pytest.mark.distributed
@pytest.mark.parametrize(("ranks", "name"), CASES)
def test_the_step_is_the_one_by_hand(results: dict, hand: dict, ranks: int, name: str) -> None:
    lines, tensors = results[ranks, name]
    wanted, weights = hand[JOBS[name].equation]
    assert apart(tensors, wanted) < 1e-6
    assert [list(line["coefficients"].values()) for line in steps(lines)] == [
        pytest.approx(w, rel=1e-4, abs=1e-12) for w in weights
    ]


@pytest.mark.distributed
@pytest.mark.parametrize(("ranks", "name"), CASES)
def test_the_log_tells_of_the_sum(results: dict, ranks: int, name: str) -> None:
    """Parts of all groups in one line; the loss is their sum, unweighed, the penalty's included."""
    job: Job = JOBS[name]
    for line in steps(results[ranks, name][0]):
        factors = {w.term.name: w.factor for w in job.objective.terms}
        factors |= {p.name: p.factor for p in job.objective.penalties}
        assert line["parts"].keys() == factors.keys()
        assert line["loss"] == pytest.approx(sum(factors[n] * v for n, v in line["parts"].items()), rel=1e-5)
        assert list(line["coefficients"]) == [str(group) for group in job.groups]
        assert line["grad_norm"] > 0
        # What one rank shares between examples may stand once on each of two.
        least = results[1, "z0"][0][line["step"] - 1]["real_tokens"]
        assert least <= line["real_tokens"] <= 1.25 * least


@pytest.mark.distributed
def test_what_was_compared_could_have_differed(results: dict, hand: dict) -> None:
    """Clipping bit, gradients contradicted each other, projection changed the step, weights moved."""
    for ranks, name in CASES:
        if JOBS[name].clip:
            assert min(line["grad_norm"] for line in results[ranks, name][0]) > 1.5 * CLIP, name
        for weights in hand[JOBS[name].equation][1]:
            assert max(abs(w - 1.0) for w in weights) > 0.05, name
    moved = results[1, "z3"][1]
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
@pytest.mark.parametrize(("ranks", "name"), HALVES)
def test_bf16_weighs_alike(results: dict, hand: dict, ranks: int, name: str) -> None:
    lines, tensors = results[ranks, name]
    _, weights = hand[BF16[name].equation]
    plain = results[2, "z0"][0]
    for line, exact, w in zip(lines, plain, weights, strict=True):
        assert list(line["coefficients"].values()) == pytest.approx(w, rel=0.05)
        assert line["grad_norm"] == pytest.approx(exact["grad_norm"], rel=0.05)
    assert all(bool(torch.isfinite(t).all()) for t in tensors.values())
    assert apart(tensors, results[2, "z0_bf16"][1]) < 5e-3


@pytest.mark.distributed
def test_evaluation_before_the_first_step_changes_nothing(results: dict) -> None:
    """Under ZeRO-3 the order of the first forward is recorded and fetched ahead: an evaluation's is another one."""
    lines, _ = results[2, "z3_half"]
    assert [(line["step"], "eval" in line) for line in lines] == [
        (0, True),
        (1, False),
        (1, True),
        (2, False),
        (2, True),
    ]
    assert len({line["eval"]["probability/forget"] for line in lines if "eval" in line}) == STEPS + 1


@pytest.mark.distributed
@pytest.mark.parametrize("name", SICK)
def test_what_is_no_number_stops_all_ranks_unmoved(results: dict, folder: Path, name: str) -> None:
    """The ranks themselves see to it that no weight has moved."""
    assert [line["step"] for line in results[2, name][0]] == [1]
    said = {(folder / "2" / f"{name}.{rank}.txt").read_text() for rank in (0, 1)}
    assert len(said) == 1
    what = "loss, sick(FORGET) is not finite" if SICK[name].sick == "loss" else "the gradient's norm is nan"
    assert said.pop().startswith(f"step 2: {what}; the weights are those of step 1.")
