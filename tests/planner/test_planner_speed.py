"""FLOPs by hand, traffic by hand, and the roofline's directions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planner_jobs import job

from clear_dist.planner.flops import flops_of
from clear_dist.planner.hardware import gpu_of
from clear_dist.planner.job import Job
from clear_dist.planner.speed import speed_of
from clear_dist.planner.traffic import traffic_of

H100 = gpu_of("h100-80g")


def _text(**changes: object) -> Job:
    return job("llama-3.1-8b", **{"pictures": 0, **changes})


def test_lora_needs_no_gradient_of_frozen_weights() -> None:
    lora, full = _text(attention="flash"), job("llama-3.1-8b", full=True, pictures=0, attention="flash")
    d, wide, kv, tokens = 4096, 14336, 1024, 4096
    base = 32 * (2 * d * d + 2 * d * kv + 3 * d * wide)
    adapters = lora.shape.count(trainable=True)
    attention = 3 * 32 * 2 * tokens * 2048 * d
    head = 2 * 512 * d * 128_256
    assert flops_of(lora).needed == tokens * (4 * base + 6 * adapters) + attention + 2 * head
    assert flops_of(full).needed == tokens * 6 * base + attention + 4 * head
    assert flops_of(lora).hardware == flops_of(lora).needed


def test_what_is_done_besides() -> None:
    plain = job(attention="flash")
    again = flops_of(replace(plain, checkpointing=True))
    assert again.needed == flops_of(plain).needed and again.hardware > 1.3 * again.needed
    assert flops_of(replace(plain, attention="sdpa")).hardware > flops_of(plain).hardware
    assert flops_of(replace(plain, frozen_tower_cached=True)).needed < flops_of(plain).needed
    assert flops_of(replace(plain, reference="adapter")).needed > 1.3 * flops_of(plain).needed
    shallow = flops_of(replace(plain, depth=8, frozen_tower_cached=True)).needed
    assert shallow < 0.3 * flops_of(replace(plain, frozen_tower_cached=True)).needed


def test_traffic_by_hand() -> None:
    full = job(full=True, accumulation=3)
    ring = 2 * full.shape.count(trainable=True) * 7 // 8
    assert traffic_of(full).all_reduce == pytest.approx(2 * ring, rel=1e-9)
    one, two = (traffic_of(replace(full, stage=stage)) for stage in (1, 2))
    assert (one.all_gather, one.reduce_scatter, one.all_reduce) == (ring, ring, 0)
    assert two.reduce_scatter == 3 * ring  # in every micro-batch
    three = traffic_of(replace(full, stage=3, persistence=0))
    everything = 2 * full.shape.count() * 7 / 8
    assert three.all_gather == pytest.approx(3 * 2 * everything, rel=1e-6)  # forward and backward
    assert three.inside == three.all_gather + three.reduce_scatter


def test_one_rank_sends_nothing() -> None:
    alone = traffic_of(job(gpus=1, stage=3))
    assert alone.all_gather == alone.reduce_scatter == alone.all_reduce == alone.host == 0


def test_lora_sends_little() -> None:
    lora = traffic_of(job())
    assert lora.all_reduce == pytest.approx(2 * 2 * 19_988_480 * 7 / 8, rel=1e-6)


def test_zeropp_spares_the_network() -> None:
    plain = traffic_of(job(full=True, stage=3, gpus=32))
    less = traffic_of(job(full=True, stage=3, gpus=32, hpz=8, quantized_weights=True, quantized_gradients=True))
    outside = less.all_gather + less.reduce_scatter - less.inside
    assert outside < 0.3 * (plain.all_gather + plain.reduce_scatter - plain.inside)


def test_offload_moves_bytes_to_the_host() -> None:
    moved = traffic_of(job(full=True, stage=3, offload_optimizer="cpu", offload_parameters="cpu"))
    assert moved.host > traffic_of(job(full=True, stage=3, offload_optimizer="cpu")).host > 0


def test_roofline() -> None:
    plain = job(full=True, stage=3)
    found = speed_of(plain, H100)
    assert found.flops_needed == 8 * flops_of(plain).needed
    assert 0 < found.mfu < 0.65 and found.tokens_per_s == pytest.approx(8 * 4096 / found.step_s)
    assert found.mfu == pytest.approx(found.flops_needed / (found.step_s * 8 * H100.flops_bf16))
    exposed, hidden = found.communication_s
    assert exposed >= 0 and 0 < hidden <= found.compute_s
    slow = speed_of(replace(plain, gpus=32), replace(H100, network=1e8))
    assert slow.step_s > 2 * found.step_s and slow.communication_s[0] > 0
    assert speed_of(plain, H100, efficiency=0.3).step_s > found.step_s


def test_accumulation_costs_time_and_not_throughput() -> None:
    once, thrice = (speed_of(job(accumulation=n), H100) for n in (1, 3))
    assert thrice.step_s > 2.9 * once.step_s and thrice.tokens_per_s >= once.tokens_per_s
