"""What fits, what is short, and what to change."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest
from planner_jobs import job

from clear_dist.errors import UserError
from clear_dist.planner.advice import ROOM, changes, choose_stage, judge, recomputing, stages
from clear_dist.planner.hardware import GPUS, Gpu, gpu_of
from clear_dist.planner.memory import memory_of

H100 = gpu_of("h100-80g")


def roomy(need: int) -> Gpu:
    """The smallest GPU that a job of ``need`` bytes fits with a tenth to spare."""
    return replace(H100, memory=ceil(need / ROOM))


def test_short_is_what_is_missing() -> None:
    plain = job(full=True)
    verdict = judge(plain, H100)
    assert not verdict.fits and verdict.short == memory_of(plain).total - H100.memory > 0
    assert judge(job(), H100) == type(verdict)(True, 0, ())


def test_changes_say_what_they_save() -> None:
    plain = job(full=True)
    verdict = judge(plain, H100)
    assert "enough" in verdict.changes[0]
    for text, other in changes(plain):
        saved = memory_of(plain).total - memory_of(other).total
        line = next((c for c in verdict.changes if c.startswith(f"{text}: ")), None)
        assert (line is not None) == (saved > 0)
        if line is not None:
            assert f"saves {saved / 1e9:.3g} GB" in line and line.endswith("enough") == (saved >= verdict.short)


def test_lora_is_advised_for_full() -> None:
    plain = job(full=True)
    other = dict(changes(plain))["LoRA instead of --full"]
    assert memory_of(other).total == pytest.approx(memory_of(job()).total, rel=0.05)


def test_first_stage_that_fits() -> None:
    assert choose_stage(job(), H100).stage == 0
    full = job(full=True)
    order = [other for name, other in stages(full).items() if name != "z0"]  # z0 is for LoRA
    totals = [memory_of(other).total for other in order]
    for memory in totals:
        first = next(other for other, total in zip(order, totals, strict=True) if total <= memory)
        assert choose_stage(full, roomy(memory)) == first
    assert len({choose_stage(full, roomy(memory)).stage for memory in totals}) > 1


def test_where_nothing_fits_the_closest_is_given() -> None:
    crumb = replace(H100, memory=1)
    found = choose_stage(job(full=True), crumb)
    tried = [o for name, o in stages(job(full=True)).items() if name != "z0"]
    assert memory_of(found).total == min(memory_of(o).total for o in tried)


def test_gpu_names() -> None:
    assert gpu_of("H100-80G").name == "h100-80g" and {"a100-40g", "h200-141g", "mi300x-192g", "cpu"} <= set(GPUS)
    with pytest.raises(UserError, match=r"h100-90g.*did you mean h100-80g"):
        gpu_of("h100-90g")


def test_recomputing_comes_before_offloading_and_after_sharding() -> None:
    plain = job(full=True)
    hosted = memory_of(stages(plain)["z3_offload"]).total
    sharded = memory_of(stages(plain)["z3"]).total
    recomputed = memory_of(replace(stages(plain)["z3"], checkpointing=True)).total
    assert recomputed < sharded and hosted < sharded
    for memory, checkpointing in ((sharded, False), (sharded - 9, True), (recomputed, True)):
        found = choose_stage(plain, roomy(memory), may_recompute=True)
        assert found.checkpointing is checkpointing and not found.offload_optimizer
        assert memory_of(found).total <= memory
    assert choose_stage(plain, roomy(recomputed - 9), may_recompute=True).offload_optimizer
    assert choose_stage(plain, roomy(sharded - 9)).offload_optimizer, "only where it may"
    assert recomputing(plain, H100).checkpointing is (memory_of(plain).total > ROOM * H100.memory)
