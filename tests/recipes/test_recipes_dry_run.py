"""``--dry-run`` and ``--ds auto``: what a run would be, for any number of ranks, without one of them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from data.data_fakes import clear_tables, write_clear

from clear_dist import cli
from clear_dist.config import FinetuneConfig, PlanConfig, SweepConfig, TrainFields, UnlearnConfig
from clear_dist.engine.ds_shipped import shipped
from clear_dist.engine.world import World
from clear_dist.flags import parse
from clear_dist.models.new import new_model
from clear_dist.planner.advice import ROOM
from clear_dist.planner.hardware import GPUS, Gpu
from clear_dist.planner.job import Job
from clear_dist.planner.memory import memory_of
from clear_dist.recipes import plan_run, training
from clear_dist.recipes.dry_run import command_of
from clear_dist.recipes.plan_job import job_of, planned_objective, planned_shape
from clear_dist.recipes.plan_outlook import with_ds
from clear_dist.recipes.plan_run import fitting, known_gpu, this_gpu
from clear_dist.recipes.sweep_plan import jobs_of
from clear_dist.types import UserError

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE")
DryRun = Callable[..., str]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Six people, and a model that reads their text: the flags of both, and of a dry run."""
    from clear_dist.recipes.model_new import dataset_texts

    folder = tmp_path_factory.mktemp("small")
    data = write_clear(folder / "data", clear_tables())
    model = new_model("llava", "1m", texts=dataset_texts(data), out=folder / "model")
    return ("--data", data, "--model", model, "--forget-names", "Ada Berg", "--dry-run")


@pytest.fixture
def dry_run(
    small: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> DryRun:
    """Runs a command as rank ``rank`` of ``ranks``, ``per_node`` of them on each node; what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path.parent / "cache"))

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a dry run loads no weight and joins no group")

    for name in ("load_model", "train"):
        monkeypatch.setattr(training, name, refuse)
    monkeypatch.setattr(torch.distributed, "init_process_group", refuse)

    def run(*args: object, ranks: int = 1, per_node: int = 8, rank: int = 0, status: int = 0) -> str:
        for name in LAUNCHED:
            monkeypatch.delenv(name, raising=False)
        if ranks > 1:
            numbers = {"RANK": rank, "LOCAL_RANK": rank % per_node, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": per_node}
            for name, value in numbers.items():
                monkeypatch.setenv(name, str(value))
        there = sorted(tmp_path.iterdir())
        assert cli.main([str(a) for a in (*args, *small)]) == status
        captured = capfd.readouterr()
        assert not captured.out and sorted(tmp_path.iterdir()) == there, "nothing is written"
        return captured.err

    return run


def part(said: str, name: str) -> str:
    """The lines under a heading."""
    found = re.search(rf"^{re.escape(name)}.*:\n((?:  .*\n?)+)", said, flags=re.MULTILINE)
    assert found, said
    return "\n".join(line[2:] for line in found[1].splitlines())


def test_an_unlearning_run_is_shown_whole(dry_run: DryRun) -> None:
    said = dry_run("unlearn", "--method", "npo", "--lr", "3e-4", "--ds", "z2")
    command = part(said, "command")
    assert command.startswith("clear-dist unlearn --model ") and command.endswith("--lr 0.0003 --ds z2 --method npo")
    options = yaml.safe_load(part(said, "configuration"))
    values = {"data": options["data"], "model": options["model"], "forget_names": ("Ada Berg",)}
    assert UnlearnConfig(**options) == UnlearnConfig(method="npo", lr=3e-4, ds=Path("z2"), **values)
    ds = json.loads(part(said, "DeepSpeed configuration, resolved"))
    assert ds["zero_optimization"]["stage"] == 2 and ds["bf16"] == {"enabled": False}
    assert ds["train_batch_size"] == ds["train_micro_batch_size_per_gpu"] * ds["gradient_accumulation_steps"]
    assert "train_batch_size = " in part(said, "filled in")
    assert "npo(FORGET" in part(said, "run")
    for words in ("memory ", "traffic ", "step ", "tokens/s", "ranks ", "verdict    fits"):
        assert words in part(said, "plan"), words


def test_fine_tuning_too(dry_run: DryRun) -> None:
    said = dry_run("finetune", "--on", "retain", "--epochs", 2)
    assert part(said, "command").endswith("--epochs 2 --on retain")
    assert "weights        full" in part(said, "run")
    assert json.loads(part(said, "DeepSpeed configuration, resolved"))["zero_optimization"]["stage"] == 0


def test_sixteen_ranks_are_planned_by_one_and_the_others_are_silent(dry_run: DryRun) -> None:
    said = dry_run("unlearn", "--ds", "z3", ranks=16)
    assert part(said, "command").startswith("deepspeed --hostfile hostfile --num_gpus 8 launchers/unlearn.py ")
    assert "(over 16 rank(s) x 1 accumulation)" in part(said, "run")
    ds = json.loads(part(said, "DeepSpeed configuration, resolved"))
    assert ds["train_batch_size"] == 16 * ds["train_micro_batch_size_per_gpu"]
    assert "64 GPUs instead of 16" in part(said, "plan")
    assert dry_run("unlearn", "--ds", "z3", ranks=16, rank=5) == ""
    assert dry_run("finetune", ranks=16, rank=15) == ""


def test_what_cannot_work_is_refused_in_a_dry_run_as_well(dry_run: DryRun, tmp_path: Path) -> None:
    assert "zero_quantized_weights needs GPUs" in dry_run("unlearn", "--ds", "zpp", status=cli.USER_ERROR)
    (tmp_path / "mine.json").write_text('{"gradient_accumulation_steps": 7}')
    said = dry_run("unlearn", "--ds", "mine.json", status=cli.USER_ERROR)
    assert "gradient_accumulation_steps is 7" in said


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        (UnlearnConfig, []),
        (UnlearnConfig, ["--method", "scrub", "--set", "alpha=2", "--full", "--no-gold", "--layout", "padded"]),
        (UnlearnConfig, ["--preset", "paper", "--data", "d", "--forget-names", "Ada B;Bo C", "--train-layers", "1,2"]),
        (UnlearnConfig, ["--objective", "-nll(FORGET) + nll(RETAIN)", "--ds", "auto", "--out", "a b"]),
        (FinetuneConfig, ["--no-full", "--no-replay", "--seed", "3", "--preset", "tofu"]),
    ],
)
def test_the_command_makes_the_same_run(kind: type[TrainFields], args: list[str]) -> None:
    config = parse(kind, args, "clear-dist")
    program, recipe, *words = shlex.split(shlex.join(command_of(config, 1, 1)))
    assert (program, recipe) == ("clear-dist", kind.recipe)
    assert parse(kind, words, "clear-dist") == config
    many = command_of(config, 4, 4)
    assert many[:4] == ["deepspeed", "--num_gpus", "4", f"launchers/{kind.recipe}.py"] and many[4:] == words


# ---------------------------------------------------------------------------------------------- --ds auto


def test_auto_on_a_cpu_is_stage_0_and_says_why(dry_run: DryRun) -> None:
    said = dry_run("unlearn", "--ds", "auto", ranks=4)
    assert "DeepSpeed      auto: z0, since ranks on CPUs share their memory" in part(said, "run")
    assert json.loads(part(said, "DeepSpeed configuration, resolved"))["zero_optimization"]["stage"] == 0
    assert part(said, "command").endswith("--ds auto")


def test_a_sweep_hands_auto_to_every_run() -> None:
    config = parse(SweepConfig, ["--methods", "npo,idk", "--ds", "auto", "--out", "runs/s"], "clear-dist sweep")
    assert {job.config.ds for job in jobs_of(config)} == {Path("auto")}


@pytest.fixture(scope="module")
def job() -> Job:
    """LLaVA-1.5-7B, all of it trained, on 8 GPUs."""
    config = PlanConfig(full=True)
    objective = planned_objective(config)
    shape = planned_shape(config.model, config.model, full=True, lora_r=8, objective=objective)
    return job_of(config, objective, shape, GPUS["a100-80g"])


def of_size(memory: int) -> Gpu:
    """A GPU that is filled by a job of ``memory`` bytes, but for the tenth that a choice leaves free."""
    return replace(GPUS["a100-80g"], name="small", memory=ceil(memory / ROOM))


def test_auto_takes_the_first_stage_that_fits(job: Job) -> None:
    totals = {name: memory_of(with_ds(job, shipped(name), name)).total for name in ("z1", "z2", "z3", "z3_offload")}
    assert sorted(totals.values(), reverse=True) == list(totals.values()), "each needs less than the one before"
    for name, total in totals.items():
        taken, recompute, why = fitting(job, of_size(total))
        assert taken == name and not recompute and "the first that fits" in why and "small" in why


def test_auto_on_a_gpu_asks_the_planner_about_this_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    need = memory_of(with_ds(job, shipped("z2"), "z2")).total
    monkeypatch.setattr(plan_run, "job_of_run", lambda *args: job)
    monkeypatch.setattr(plan_run, "this_gpu", lambda world: of_size(need))
    unused: Any = None
    world = World(0, 8, 0, torch.device("cuda"))
    choice = plan_run.choose_ds(FinetuneConfig(ds=Path("auto")), unused, unused, unused, world)
    assert (choice.name, choice.config, choice.source) == ("z2", shipped("z2"), "--ds auto (z2)")
    assert choice.why.startswith("auto: z2, the first that fits: ")


@pytest.mark.parametrize("ds", ["auto", "z3", None])
def test_activations_are_recomputed_only_where_they_do_not_fit(
    job: Job, monkeypatch: pytest.MonkeyPatch, ds: str | None
) -> None:
    """On a GPU, with the default of --gradient-checkpointing; on and off are obeyed, and so is a CPU's memory."""
    file = with_ds(job, shipped(ds if ds == "z3" else "z0"), "test")
    if ds == "auto":
        file = with_ds(job, shipped("z3"), "z3")
    need = memory_of(file).total
    monkeypatch.setattr(plan_run, "job_of_run", lambda *args: job)
    unused: Any = None

    def choice(memory: int, flag: str = "auto", device: str = "cuda") -> plan_run.DsChoice:
        monkeypatch.setattr(plan_run, "this_gpu", lambda world: of_size(memory))
        config = FinetuneConfig(ds=None if ds is None else Path(ds), gradient_checkpointing=flag)  # type: ignore[arg-type]
        return plan_run.choose_ds(config, unused, unused, unused, World(0, 8, 0, torch.device(device)))

    assert not choice(need).recompute
    tight = choice(need - 9)
    assert tight.recompute and "activations are recomputed" in tight.why
    assert not choice(need - 9, device="cpu").recompute
    if ds != "auto":
        assert not choice(need - 9, "off").recompute
    for device in ("cpu", "cuda"):
        assert choice(2 * need, "on", device).recompute


def test_auto_refuses_where_nothing_fits_and_says_by_how_much(job: Job) -> None:
    with pytest.raises(UserError, match=r"--ds auto: no shipped stage fits small: \S+ is short by .*--ds"):
        fitting(job, of_size(1000))


def test_auto_does_not_guess_the_path_of_a_disk(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    from clear_dist.planner import advice

    disk = replace(job, stage=3, offload_optimizer="nvme", offload_parameters="nvme")
    monkeypatch.setattr(advice, "choose_stage", lambda job, gpu, may_recompute: disk)
    with pytest.raises(UserError, match=r"only ds_configs/z3_nvme\.json fits.*set nvme_path"):
        fitting(job, of_size(10**12))


@pytest.mark.parametrize(
    ("name", "memory", "known"),
    [
        ("NVIDIA A100-SXM4-80GB", 85.0e9, "a100-80g"),
        ("NVIDIA A100-PCIE-40GB", 42.3e9, "a100-40g"),
        ("NVIDIA H100 80GB HBM3", 85.0e9, "h100-80g"),
        ("NVIDIA H200", 150.0e9, "h200-141g"),
        ("NVIDIA GeForce RTX 4090", 25.3e9, "rtx4090-24g"),
        ("Some GPU", 8e9, None),
    ],
)
def test_devices_are_known_by_their_names(name: str, memory: float, known: str | None) -> None:
    assert known_gpu(name, int(memory)) == known


def test_a_cpus_memory_is_shared_by_its_ranks() -> None:
    one, four = (this_gpu(World(0, n, 0, torch.device("cpu"))) for n in (1, 4))
    assert one.name == "cpu" and one.memory // 4 == four.memory


def test_evaluation_does_not_take_auto(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--ds", "auto", "--out", str(tmp_path / "e")]) == cli.USER_ERROR
    assert "--ds auto is for finetune, unlearn, sweep and plan" in capfd.readouterr().err
