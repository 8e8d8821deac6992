"""Steps that are left out, and runs that are told to leave: what follows is what would have followed."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from engine_support import fresh, metrics, run, sick, step_module
from torch import Tensor

from clear_dist.engine.loop import whole_parameters
from clear_dist.engine.world import World
from clear_dist.errors import Preempted
from clear_dist.methods import FORGET as F
from clear_dist.methods import RETAIN as R
from clear_dist.methods import nll
from clear_dist.models import Model

pytestmark = pytest.mark.filterwarnings("ignore:.*(all_gather_into_tensor|reduce_scatter_tensor):FutureWarning")


def trained_weights(student: Model) -> dict[str, Tensor]:
    """Whole, under ZeRO-3 too."""
    named = [(n, p) for n, p in student.module.named_parameters() if p.requires_grad]
    with whole_parameters([p for _, p in named]):
        return {n: p.detach().clone() for n, p in named}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_steps_that_are_no_numbers_are_left_out_up_to_a_cap(
    base_dir: Path, world: World, tmp_path: Path, stage: int, accumulation: int
) -> None:
    """One of four: the weights stand still there, the schedule goes on, and a second one is too much."""
    third = sick(2 * accumulation + 1, math.nan, until=3 * accumulation)
    first = sick(1, math.inf, until=1)  # a micro-batch alone is enough
    for name, sickness, skipped in (("third", third, [3]), ("first", first, [1])):
        student = fresh(base_dir)
        seen = [trained_weights(student)]
        run(
            step_module(student),
            student,
            sickness,
            world,
            tmp_path / name,
            stage=stage,
            accumulation=accumulation,
            max_skipped=1,
            schedule="linear",
            on_step=lambda step, line, to=seen, of=student: to.append(trained_weights(of)),
        )
        lines = metrics(tmp_path / name)
        assert [line["step"] for line in lines if "skipped" in line] == skipped
        assert [line["skipped_so_far"] for line in lines if "skipped" in line] == [1]
        assert all("sick(FORGET) is not finite" in line["skipped"] for line in lines if "skipped" in line)
        lrs = [line["lr"] for line in lines]
        assert lrs == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4]), "the schedule does not stand still"
        for step in range(1, 5):
            same = all(torch.equal(seen[step][n], seen[step - 1][n]) for n in seen[0])
            assert same == (step in skipped), step
    with pytest.raises(
        FloatingPointError, match=r"step 2: .*not finite; the weights are those of step 1\. 1 step\(s\)"
    ):
        student = fresh(base_dir)
        run(step_module(student), student, sick(1, math.nan), world, tmp_path / "cap", stage=stage, max_skipped=1)


def test_a_step_left_out_leaves_nothing_behind(base_dir: Path, world: World, tmp_path: Path) -> None:
    """What follows is bit for bit what follows where that step was never drawn (plain SGD has no memory)."""
    after = {}
    for name, objective, steps in (("sick", sick(2, math.nan, until=2), 2), ("well", sick(9, 1.0), 1)):
        student = fresh(base_dir)
        run(step_module(student), student, objective, world, tmp_path / name, steps=steps, stage=2, max_skipped=1,
            optimizer="sgd")  # fmt: skip
        after[name] = trained_weights(student)
    assert all(torch.equal(after["sick"][n], w) for n, w in after["well"].items())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("stage", [0, 3])
def test_a_run_that_is_told_to_leave_saves_and_goes_on_bit_for_bit(
    base_dir: Path, world: World, tmp_path: Path, stage: int, number: signal.Signals
) -> None:
    def told(step: int, line: object) -> None:
        if step == 2:
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)]
    objective = nll(R) - nll(F)
    student = fresh(base_dir)
    with pytest.raises(Preempted, match=rf"told to leave \({number.name}\): step 3 of 5 is saved.*the same command"):
        run(step_module(student), student, objective, world, tmp_path / "cut", stage=stage, steps=5, on_step=told)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    student = fresh(base_dir)
    run(step_module(student), student, objective, world, tmp_path / "cut", stage=stage, steps=5, resume=True)
    found = trained_weights(student)
    student = fresh(base_dir)
    run(step_module(student), student, objective, world, tmp_path / "whole", stage=stage, steps=5)
    assert all(torch.equal(found[n], w) for n, w in trained_weights(student).items())
    assert [line["step"] for line in metrics(tmp_path / "cut")] == [1, 2, 3, 4, 5]


def test_a_signal_during_the_last_step_lets_the_run_finish(base_dir: Path, world: World, tmp_path: Path) -> None:
    student = fresh(base_dir)

    def told(step: int, line: object) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run(step_module(student), student, nll(F), world, tmp_path, steps=4, on_step=told).steps == 4
