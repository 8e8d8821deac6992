"""The floors ``bench_ops`` holds the ops against: the least any implementation needs on this very device.

The larger of two: a case's matrix products at the device's own measured matmul rate, and its unavoidable reads and
writes at the device's own measured copy bandwidth. With T rows, D hidden size, V vocabulary, and a frozen head:

* ``linear_logp``                      2TDV flops forward, 4TDV with the gradient
* ``linear_log_ratio``, ``linear_kl``  4TDV forward (two heads), 6TDV with the gradient
* ``logits_*``, ``vocab_npo``          every logit read once, every gradient written once
* ``hidden_distance``, ``l1_norm``     likewise

A rate is what a plain copy or product reaches, not the hardware's limit: an op that mostly reads may come out a little
under 1, since a copy also writes, and everything does where other work slowed the measurement of the rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.common import seconds_of
from benchmarks.ops_cases import COMPARING, DTYPES, Case, lora_shapes


@dataclass(frozen=True)
class Rates:
    """What the device does, measured: bytes read and written per second of a large copy, flops per second of a large
    matrix product by dtype."""

    copy: float
    matmul: dict[str, float]

    def best(self, dtype: str) -> float:
        """Of the products precise enough for inputs of ``dtype``: a CPU may be slower in bf16 than in fp32."""
        return max(self.matmul[dtype], self.matmul["fp32"])


def measure_rates(device: torch.device, quick: bool = False) -> Rates:
    """The best of several rounds: a floor must not be too high."""
    gpu = device.type == "cuda"
    size = 1 << (22 if quick else 28 if gpu else 26)  # fp32 elements
    m, k, n = (4096, 4096, 32064) if gpu else (64, 64, 512) if quick else (1024, 1024, 8192)
    rounds, calls = (2, 1) if quick else (20, 10) if gpu else (5, 1)
    source, target = torch.ones(size, device=device), torch.empty(size, device=device)
    matmul: dict[str, float] = {}

    def best(work: Callable[[], object]) -> float:
        def block() -> None:
            for _ in range(calls):
                work()

        block()
        return min(seconds_of(block, device) for _ in range(rounds)) / calls

    for name, dtype in DTYPES.items():
        a, b = (torch.randn(*s, device=device).to(dtype) for s in ((m, k), (n, k)))
        matmul[name] = 2.0 * m * n * k / best(lambda a=a, b=b: a @ b.t())
    return Rates(2.0 * 4 * size / best(lambda: target.copy_(source)), matmul)


def flops(case: Case, backward: bool) -> float:
    """Of the matrix products that cannot be avoided; 0 for ops without a head."""
    if not case.op.startswith("linear"):
        return 0.0
    heads = 2 if case.op in COMPARING else 1
    return 2.0 * case.T * (case.D or 0) * (case.V or 0) * (heads + backward)


def least_bytes(case: Case, backward: bool) -> float:
    """Every input read once; with ``backward`` every gradient written once. Logits that an op forms do not count."""
    size = DTYPES[case.dtype].itemsize
    sides = 2 if case.op in COMPARING else 1
    if case.op == "l1_norm":
        return size * sum(m * n for m, n in lora_shapes(case.layers, case.D or 1)) * (1.0 + backward)
    if case.op == "hidden_distance":
        target = case.T if case.kind == "states" else 1
        return size * float(case.D or 0) * (case.T * (1 + backward) + target)
    width = (case.D if case.op.startswith("linear") else case.V) or 0
    head = (case.V or 0) * width if case.op.startswith("linear") else 0
    return size * float(case.T * width * (sides + backward) + head)


def floor_ms(case: Case, rates: Rates, backward: bool) -> float:
    return 1e3 * max(flops(case, backward) / rates.best(case.dtype), least_bytes(case, backward) / rates.copy)
