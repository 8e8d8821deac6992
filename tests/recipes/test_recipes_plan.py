"""``clear-dist plan``: tables, JSON, files, exit status; what it takes from methods and DeepSpeed files; mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clear_dist import cli
from clear_dist.config import PlanConfig
from clear_dist.engine.ds_shipped import SHIPPED, shipped
from clear_dist.planner.hardware import GPUS, gpu_of
from clear_dist.planner.job import Job
from clear_dist.planner.memory import memory_of
from clear_dist.recipes import plan as recipe
from clear_dist.recipes.plan_job import examples_per_step, job_of, load_of, planned_objective, planned_shape
from clear_dist.recipes.plan_outlook import PARTS, alternatives, name_of, size, with_ds
from clear_dist.types import UserError, View

Plan = Callable[..., tuple[int, str, str]]
SMALL = ("--model", "tiny", "--gpus", 2)


@pytest.fixture
def plan(capfd: pytest.CaptureFixture[str]) -> Plan:
    """Runs the command; (exit status, standard output, standard error)."""

    def run(*args: object) -> tuple[int, str, str]:
        status = cli.main(["plan", *map(str, args)])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def job() -> Job:
    """The tiny model with LoRA on 16 GPUs of two nodes."""
    config = PlanConfig(model="tiny", gpus=16)
    objective = planned_objective(config)
    shape = planned_shape("tiny", "tiny", full=False, lora_r=config.lora_r, objective=objective)
    return job_of(config, objective, shape, gpu_of(config.gpu))


# ---------------------------------------------------------------------------------------------- what is printed


def test_the_table_has_every_stage_and_the_verdict(plan: Plan) -> None:
    status, out, err = plan(*SMALL)
    assert status == 0 and not err
    for name in ("z0 *", "z1", "z2", "z3", "z3_offload", "z3_nvme"):
        assert name in out
    assert "zpp" not in out, "ZeRO++ is for several nodes"
    for words in ("weights", "optimiser", "activations", "total", "traffic", "tokens/s", "MFU", "verdict    fits"):
        assert words in out
    assert "zpp" in plan("--model", "tiny", "--gpus", 16)[1]


def test_json_is_one_object_and_nothing_else(plan: Plan) -> None:
    status, out, err = plan(*SMALL, "--json", "--method", "npo")
    found = json.loads(out)
    assert status == 0 and not err and out.count("\n") == 1
    assert found["method"] == "npo" and found["ds"] == "z0" and found["verdict"]["fits"] is True
    assert list(found["stages"]) == [name for name in SHIPPED if name != "zpp"]
    memory = found["memory"]
    assert memory["total"] == sum(memory[part] for part in PARTS)
    assert memory["state"] == memory["weights"] + memory["gradients"] + memory["optimizer"]
    assert memory == {k: v for k, v in found["stages"]["z0"].items() if k != "fits"}
    assert found["model"]["parameters"] > found["model"]["trainable"] > 0
    assert found["speed"]["tokens_per_s"] > 0 and 0 < found["speed"]["mfu"] < 1
    assert found["job"]["reference"] == "adapter"


def test_files(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "plan"
    status, said, _ = plan(*SMALL, "--out", out)
    assert status == 0 and "plan.json" in said
    found = json.loads((out / "plan.json").read_text())
    assert found["ds"] == "z0"
    page = (out / "plan.md").read_text()
    assert "| **z0** | z1 |" in page and "verdict    fits" in page and "![memory](plan.png)" in page
    assert (out / "plan.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").write_text("")
    assert plan(*SMALL, "--out", tmp_path / "file")[0] == cli.USER_ERROR


def test_what_does_not_fit_says_by_how_much_and_what_helps(plan: Plan) -> None:
    big = ("--model", "llava-1.5-7b", "--full", "--gpus", 1, "--gpu", "rtx4090-24g", "--ds", "z0")
    status, out, _ = plan(*big)
    assert status == 1 and "does not fit: short by" in out and "\n  - " in out
    found = json.loads(plan(*big, "--json")[1])
    verdict = found["verdict"]
    assert verdict["short"] == found["memory"]["total"] - gpu_of("rtx4090-24g").memory > 0
    assert verdict["fits"] is False and verdict["changes"]
    assert found["stages"]["z0"]["fits"] is False


def test_auto_takes_the_first_that_fits(plan: Plan) -> None:
    args = ("--model", "llava-1.5-7b", "--full", "--gpus", 8, "--gpu", "a100-80g", "--gradient-checkpointing", "on")
    found = json.loads(plan(*args, "--json")[1])
    order = [name for name in found["stages"]]
    before = order[: order.index(found["ds"])]
    assert found["stages"][found["ds"]]["fits"] and before
    assert not any(found["stages"][name]["fits"] for name in before)
    assert "the first that fits a100-80g" in found["why"]


def test_on_a_cpu_auto_is_stage_0(plan: Plan) -> None:
    found = json.loads(plan(*SMALL, "--gpu", "cpu", "--json")[1])
    assert found["ds"] == "z0" and "stage 0" in found["why"] and found["job"]["bf16"] is False


# ---------------------------------------------------------------------------------------------- ranks


def test_nothing_grows_with_ranks_but_what_is_listed(plan: Plan) -> None:
    for ds in ("z0", "z1", "z2", "z3"):
        found = {n: json.loads(plan("--model", "tiny", "--gpus", n, "--ds", ds, "--micro-batch", 4, "--global-batch",
                                    4 * n, "--json")[1]) for n in (2, 16)}  # fmt: skip
        grown = {p for p in (*PARTS, "host") if found[16]["memory"][p] > found[2]["memory"][p]}
        assert grown <= set(found[2]["grows"]), (ds, grown)
        assert set(found[2]["ranks"]) == {"2", "4", "8"} and set(found[16]["ranks"]) == {"16", "32", "64"}


# ---------------------------------------------------------------------------------------------- what is planned


def test_the_objective_decides_views_reference_and_depth(job: Job) -> None:
    def planned(**values: Any) -> tuple[Job, dict[View, int]]:
        config = PlanConfig(model="tiny", gpus=2, **values)
        objective = planned_objective(config)
        gpu = gpu_of(config.gpu)
        return job_of(config, objective, job.shape, gpu), examples_per_step(config, objective)

    found, batch = planned(method="npo", set={"retain_weight": 1}, global_batch=12, retain_ratio=2.0)
    assert batch == {View.FORGET: 12, View.RETAIN: 24} and found.reference == "adapter" and found.depth is None
    assert planned(method="npo", full=True)[0].reference == "cache"
    assert planned(method="npo", reference="copy")[0].reference == "copy"
    found, batch = planned(objective="nll(RETAIN)", global_batch=12)
    assert batch == {View.RETAIN: 12} and found.reference == "none"
    assert planned(method="rmu", set={"layer": 1})[0].depth == 2


def test_only_the_blocks_that_are_updated_train() -> None:
    config = PlanConfig(model="tiny")
    objective = planned_objective(PlanConfig(model="tiny", method="rmu", set={"layer": 1}))
    every = planned_objective(config)
    lora = {
        name: planned_shape("tiny", "tiny", full=full, lora_r=4, objective=which, layers=layers).count(trainable=True)
        for name, full, which, layers in (
            ("all", False, every, None), ("one", False, every, (1,)), ("rmu", False, objective, None),
            ("all, full", True, every, None), ("one, full", True, every, (1,)),
        )
    }  # fmt: skip
    assert lora["all"] == 3 * lora["one"], "three blocks, and LoRA on nothing else"
    trained = len(objective.train_layers or range(objective.needs.depth or 3))
    assert lora["rmu"] == trained * lora["one"]
    assert 0 < lora["one, full"] < lora["all, full"] / 3 + 1


def test_a_micro_batch_is_that_of_training(job: Job) -> None:
    shape = job.shape
    config = PlanConfig(model="tiny", gpus=2, tokens=100, scored=30, pictures=0.5, global_batch=16, micro_batch=4)
    load = load_of(config, {View.FORGET: 16, View.RETAIN: 16}, shape)
    assert (load.accumulation, load.scored, load.pictures) == (4, 4 * 30, 2)
    assert load.tokens == 4 * 100 + 2 * shape.image_tokens
    text = load_of(config.model_copy(update={"pictures": 0.0}), {View.FORGET: 16}, shape)
    assert (text.tokens, text.pictures, text.accumulation) == (400, 0, 2)
    free = load_of(config.model_copy(update={"micro_batch": None}), {View.FORGET: 3}, shape)
    assert (free.accumulation, free.scored) == (1, 2 * 30), "the larger share of three examples on two ranks"


def test_every_shipped_file_becomes_a_job_and_is_found_again(job: Job) -> None:
    jobs = alternatives(job)
    assert list(jobs) == list(SHIPPED)
    assert {name: name_of(other) for name, other in jobs.items()} == {name: name for name in SHIPPED}
    assert [jobs[n].stage for n in ("z0", "z1", "z2", "z3", "zpp", "z3_offload")] == [0, 1, 2, 3, 3, 3]
    assert jobs["zpp"].hpz == 8 and jobs["zpp"].quantized_weights and jobs["zpp"].quantized_gradients
    offloads = [(jobs[n].offload_optimizer, jobs[n].offload_parameters) for n in ("z3", "z3_offload", "z3_nvme")]
    assert offloads == [(None, None), ("cpu", "cpu"), ("nvme", "nvme")]
    assert (jobs["z3"].persistence, jobs["z3"].reduce_bucket) == (10_000, 50_000_000)
    assert memory_of(jobs["z3"]).state < memory_of(jobs["z2"]).state


def test_a_file_of_ones_own_is_planned(plan: Plan, job: Job, tmp_path: Path) -> None:
    mine = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    found = with_ds(job, mine, "mine.json")
    assert (found.stage, found.offload_optimizer, found.offload_parameters) == (2, "cpu", None)
    assert (found.reduce_bucket, found.persistence, found.overlap) == (500_000_000, 100_000, False), "DeepSpeed's own"
    whole = with_ds(job, {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 7}}, "mine.json")
    assert (whole.persistence, whole.overlap) == (7, True)
    with pytest.raises(KeyError):
        name_of(found)
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    shown = json.loads(plan(*SMALL, "--ds", tmp_path / "mine.json", "--json")[1])
    assert shown["ds"] == str(tmp_path / "mine.json") and shown["ds"] in shown["stages"]
    with pytest.raises(UserError, match="needs two nodes"):
        with_ds(replace(job, gpus=8), shipped("zpp"), "zpp.json")


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "llava-1.5-7"], ["llava-1.5-7b"]),
        (["--gpu", "h100"], ["h100", "h100-80g"]),
        (["--method", "npoo"], ["--method npoo", "did you mean 'npo'?"]),
        (["--method", "npo", "--objective", "nll(RETAIN)"], ["--method and --objective", "give one of them"]),
        (["--set", "betta=1"], ["--set betta", "did you mean 'beta'?"]),
        (["--objective", "nll(RETIAN)"], ["RETIAN"]),
        (["--full", "--reference", "adapter"], ["--reference adapter needs LoRA"]),
        (["--scored", "128"], ["--scored 128", "--tokens 128"]),
        (["--gpus", "12"], ["--gpus 12", "--gpus-per-node 8"]),
        (["--gpus", "0"], ["--gpus: expected a whole number >= 1"]),
        (["--pictures", "2"], ["--pictures: expected a number >= 0 and <= 1"]),
        (["--ds", "z4.json"], ["--ds z4.json: no such file", "did you mean"]),
        (["--ds", "zpp"], ["--ds zpp", "needs two nodes"]),
        (["--gpu", "cpu", "--gpus", "16", "--ds", "zpp"], ["needs GPUs"]),
        (["--model", "tiny", "--method", "rmu"], ["layer 7", "tiny has 3 decoder blocks"]),
    ],
)
def test_mistakes_end_with_2_and_say_what_to_do(plan: Plan, args: list[str], words: list[str]) -> None:
    status, out, err = plan(*args)
    assert status == cli.USER_ERROR and not out and err.startswith("error: ")
    for word in words:
        assert word in err, err


def test_nothing_fits_is_told_apart_from_the_first_that_fits(job: Job) -> None:
    crumb = replace(GPUS["h100-80g"], memory=1000)
    _, _, why = recipe.chosen(job, crumb, Path("auto"))
    assert "no stage fits" in why and "short by" in why
    _, name, why = recipe.chosen(job, GPUS["h100-80g"], Path("auto"))
    assert name == "z0" and "the first that fits" in why


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (1.5e9, "1.5 GB"), (2.5e15, "2,500 TB")]
)
def test_bytes_in_words(count: float, words: str) -> None:
    assert size(count) == words


def test_bars_that_are_much_too_high_are_cut_and_say_so(plan: Plan) -> None:
    from clear_dist.report.draw import LIGHT
    from clear_dist.report.plan_figure import CUT, figure

    found = json.loads(plan("--model", "qwen2.5-vl-72b", "--full", "--gpus", 16, "--json")[1])
    axes = figure(found, LIGHT).axes[0]
    limit = found["gpu"]["memory"] / 1e9
    tops = [patch.get_y() + patch.get_height() for patch in axes.patches]  # type: ignore[attr-defined]
    assert max(tops) == pytest.approx(CUT * limit)
    totals = [stage["total"] / 1e9 for stage in found["stages"].values()]
    said = [text.get_text().strip() for text in axes.texts]
    assert sum("(cut)" in text for text in said) == sum(total > CUT * limit for total in totals) == 2
    assert f"{totals[0]:,.0f} (cut)" in said


def test_ranks_without_an_example_make_no_tokens(plan: Plan) -> None:
    """32 examples a step: on 64 GPUs it takes as long as on 32, and no token more is counted."""
    speeds = [json.loads(plan("--ds", "z0", "--gpus", n, "--json")[1])["speed"] for n in (32, 64)]
    tokens = [speed["tokens_per_s"] * speed["step_s"] for speed in speeds]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.01)
    assert speeds[1]["mfu"] == pytest.approx(speeds[0]["mfu"] / 2, rel=0.05)
    assert speeds[0]["flops_needed"] == pytest.approx(speeds[1]["flops_needed"], rel=0.01)
