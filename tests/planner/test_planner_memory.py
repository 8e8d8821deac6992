"""State by hand, what grows with ranks, and what each setting moves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import ceil

import pytest
from planner_jobs import job

from clear_dist.models import Nf4Linear, add_lora, inspect_model, load_model, meta_model, with_base_weights
from clear_dist.planner.advice import changes, choose_stage, judge
from clear_dist.planner.hardware import gpu_of
from clear_dist.planner.job import Job
from clear_dist.planner.memory import Memory, memory_of
from clear_dist.planner.shape import shape_of
from clear_dist.planner.state import state_of

PARTS = ("weights", "gradients", "optimizer", "reference", "activations", "workspace", "communication", "fragmentation")


def test_state_by_hand_at_every_stage() -> None:
    full = job(full=True)
    count, trained = full.shape.count(), full.shape.count(trainable=True)
    zero, one, two = (state_of(replace(full, stage=stage)) for stage in (0, 1, 2))
    flat = ceil(trained / 16) * 16
    assert (zero.weights, zero.gradients, zero.optimizer) == (2 * count, 2 * trained, 12 * trained)
    assert (one.gradients, one.optimizer) == (2 * trained, 12 * flat // 8)
    assert (two.gradients, two.optimizer) == (2 * flat // 8, 12 * flat // 8)
    assert one.weights == two.weights == 2 * (count - trained + flat)
    assert state_of(replace(full, bf16=False)).optimizer == 8 * trained  # no master copy
    assert state_of(replace(full, optimizer="sgd")).optimizer == 4 * trained


def test_zero3_pads_every_tensor() -> None:
    three = replace(job(), stage=3, gpus=7, persistence=0)
    shards = [ceil(t.numel / 7) for t in three.shape.tensors]
    trained = [ceil(t.numel / 7) for t in three.shape.tensors if t.trainable]
    found = state_of(three)
    assert found.weights == 2 * sum(shards) > 2 * three.shape.count() / 7
    assert found.optimizer == 12 * sum(trained) and found.whole == 0
    kept = state_of(replace(three, persistence=4096)).whole
    norms = [t.numel for t in three.shape.tensors if t.numel <= 4096]
    assert kept == 2 * sum(ceil(n / 7) * 7 for n in norms) > 0


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_nothing_grows_with_ranks(stage: int, full: bool) -> None:
    """At the same micro-batch, up to 16 ranks: the total falls or stays, but for padding of shards."""
    found = [memory_of(job(full=full, stage=stage, gpus=n)) for n in (2, 4, 8, 16)]
    for few, many in pairwise(found):
        assert many.total <= few.total + 16_384
        assert many.host <= few.host
    assert found[-1].communication == found[0].communication


def test_parts_sum_to_the_total() -> None:
    found = memory_of(job(full=True, stage=2, reference="copy"))
    assert found.total == sum(getattr(found, part) for part in PARTS)
    assert found.state == found.weights + found.gradients + found.optimizer


def test_offload_moves_state_to_the_host() -> None:
    here = job(full=True, stage=3)
    state = state_of(here)
    both = memory_of(replace(here, offload_optimizer="cpu", offload_parameters="cpu"))
    widened = 2 * state.gradients  # in fp32, for the optimiser
    assert both.optimizer == 0 and both.host == state.weights + state.gradients + widened + state.optimizer
    assert both.weights == state.whole
    disk = memory_of(replace(here, offload_optimizer="nvme", offload_parameters="nvme"))
    assert disk.total == both.total and disk.host < both.host


def _less(changed: Job, plain: Job, part: str) -> int:
    return int(getattr(memory_of(plain), part) - getattr(memory_of(changed), part))


def test_each_setting_moves_its_part() -> None:
    plain = job(tokens=8192, rows=4)
    assert _less(replace(plain, checkpointing=True), plain, "activations") > 0.8 * memory_of(plain).activations
    assert _less(replace(plain, attention="flash"), plain, "activations") > 0
    assert _less(replace(plain, depth=8), plain, "activations") > 0.6 * memory_of(plain).activations
    assert _less(plain, replace(plain, impl="logits"), "workspace") > 0
    copied = memory_of(replace(plain, reference="copy"))
    weights = 2 * sum(t.numel for t in plain.shape.tensors if not t.lora)
    assert copied.reference == weights + 2 * plain.shape.vocab * plain.shape.hidden  # a model, and its head at hand
    assert memory_of(replace(plain, reference="adapter")).reference == 0


def test_reference_copy_is_sharded_with_the_rest() -> None:
    whole, sharded = (memory_of(job(reference="copy", stage=stage)).reference for stage in (2, 3))
    assert sharded < whole / 6


def test_hpz_keeps_a_second_copy() -> None:
    plain = job(stage=3, gpus=16, persistence=0)
    second = _less(plain, replace(plain, hpz=8), "weights")
    assert second == pytest.approx(2 * plain.shape.count() / 8, rel=1e-3)


def test_memory_is_frozen() -> None:
    zero = dict.fromkeys((*PARTS, "host"), 1)
    assert Memory(**zero).total == len(PARTS)


def test_packed_weights_are_counted_to_the_byte() -> None:
    """Against a real model: parameters and buffers of the student as a run makes it, LoRA included."""
    info = with_base_weights(inspect_model("tiny"), "nf4")
    model = load_model(info, dtype="fp32", device="cpu")
    module = add_lora(model.module, 4, 8.0, model.family)
    meta, config, _ = meta_model("tiny", lora_r=4, full=False)
    job = Job(shape_of(meta, config, "tiny"), 1, 64, 1, 8, 0, bf16=False, nf4=True)
    layers = [m for m in module.modules() if isinstance(m, Nf4Linear)]
    packed = sum(b.numel() * b.element_size() for m in layers for b in m.buffers())
    plain = sum(p.numel() * p.element_size() for p in module.parameters())
    assert layers and state_of(job).weights == packed + plain
    assert state_of(replace(job, stage=2)).weights == packed + plain + 4 * (job.shape.count(trainable=True) % 2)
    full = state_of(replace(job, nf4=False)).weights
    assert full - state_of(job).weights == sum(4 * m.packed_elements for m in layers) - packed


def test_packed_weights_leave_no_stage_that_shards_them() -> None:
    packed = replace(job("llava-1.5-7b"), nf4=True)
    assert {name for name, _ in changes(packed)}.isdisjoint({"--ds z3", "--ds z3_offload", "--base-weights nf4"})
    assert choose_stage(packed, replace(gpu_of("h100-80g"), memory=1)).stage < 3
    assert memory_of(packed).weights < 0.35 * memory_of(replace(packed, nf4=False)).weights
    small = replace(gpu_of("rtx4090-24g"), memory=18 * 10**9)
    advice = judge(replace(job("llava-1.5-7b"), gpus=1), small).changes
    assert any(change.startswith("--base-weights nf4") for change in advice), advice
