"""Ops at real sizes on a device: against double precision, beside plain PyTorch, repeatable, in little memory.

On a CPU standing in for a GPU the same code runs at small sizes with the kernels that are there."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clear_dist.ops import (
    Impl,
    available,
    hidden_distance,
    l1_add_grad_,
    l1_norm,
    linear_kl,
    linear_log_ratio,
    linear_logp,
    logits_kl,
    logits_logp,
    token_stats,
    vocab_npo,
)
from clear_dist.ops.token_stats.reference import logits_stats_reference, token_stats_reference

IMPLS: tuple[Impl, ...] = ("triton", "native")
SIZES = [(64, 4096, 32064), (64, 4096, 128256), (64, 3584, 152064), (257, 123, 507), (1, 64, 32000)]
KINDS = ("forward", "reverse", "js")


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest, device: torch.device) -> Impl:
    reason = available(device.type)[request.param]
    if reason is not None:
        pytest.skip(reason)
    return request.param


@pytest.fixture(params=SIZES, ids=str)
def size(request: pytest.FixtureRequest, device: torch.device) -> tuple[int, int, int]:
    tokens, width, vocabulary = request.param
    if device.type == "cpu":
        return min(tokens, 8), min(width, 32), min(vocabulary, 3000)
    return tokens, width, vocabulary


def relative(x: Tensor, truth: Tensor) -> float:
    return float((x.detach().double() - truth.double()).norm() / truth.double().norm())


def states(
    size: tuple[int, int, int], dtype: torch.dtype, apart: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h, h_ref, weight, y, upstream on the device; peaked logits."""
    tokens, width, vocabulary = size
    g = torch.Generator().manual_seed(0)
    h_ref = torch.randn(tokens, width, generator=g)
    h = h_ref + apart * torch.randn(tokens, width, generator=g)
    weight = torch.randn(vocabulary, width, generator=g) * 4 / math.sqrt(width)
    y = torch.randint(0, vocabulary, (tokens,), generator=g)
    upstream = torch.rand(tokens, generator=g) + 0.1
    return h.to(device, dtype), h_ref.to(device, dtype), weight.to(device, dtype), y.to(device), upstream.to(device)


def run(f: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    value = f(x)
    (gradient,) = torch.autograd.grad((value * upstream.to(value.dtype)).sum(), x)
    return value.detach(), gradient


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["logp", "log_ratio", "kl_forward", "kl_reverse", "js"])
def test_no_worse_than_plain(
    impl: Impl, size: tuple[int, int, int], name: str, dtype: torch.dtype, device: torch.device
) -> None:
    h, h_ref, w, y, c = states(size, dtype, 0.05, device)
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "logp": lambda x: linear_logp(x, w, y, impl=impl),
        "log_ratio": lambda x: linear_log_ratio(x, h_ref, w, y, impl=impl),
        "kl_forward": lambda x: linear_kl(x, h_ref, w, kind="forward", impl=impl),
        "kl_reverse": lambda x: linear_kl(x, h_ref, w, kind="reverse", impl=impl),
        "js": lambda x: linear_kl(x, h_ref, w, kind="js", impl=impl),
    }

    def plain(w: Tensor, h_ref: Tensor, product: torch.dtype | None) -> Callable[[Tensor], Tensor]:
        return lambda x: token_stats_reference(x, w, y, h_ref, None, [name], product=product)[name]

    value, gradient = run(calls[name], h, c)
    truth = run(plain(w.double(), h_ref.double(), None), h.double(), c)
    usual = run(plain(w, h_ref, dtype), h, c)
    for mine, exact, theirs, allowed in (
        (value, truth[0], usual[0], 2e-3 if dtype == torch.bfloat16 else 1e-5),
        (gradient, truth[1], usual[1], 6e-3 if dtype == torch.bfloat16 else 1e-5),
    ):
        assert relative(mine, exact) <= 1.05 * relative(theirs, exact) + allowed
    again, same = run(calls[name], h, c)
    assert torch.equal(again, value) and torch.equal(same, gradient), "not repeatable"


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_gradients_where_student_and_reference_nearly_agree(impl: Impl, kind: str, device: torch.device) -> None:
    size = (64, 1024, 32064) if device.type == "cuda" else (8, 64, 2000)
    h, h_ref, w, _, c = states(size, torch.bfloat16, math.sqrt(2e-3) / 4, device)
    name = {"forward": "kl_forward", "reverse": "kl_reverse", "js": "js"}[kind]
    _, gradient = run(lambda x: linear_kl(x, h_ref, w, kind=kind, impl=impl), h, c)  # pyright: ignore
    exact = run(
        lambda x: token_stats_reference(x, w.double(), None, h_ref.double(), None, [name])[name], h.double(), c
    )[1]
    plain = run(lambda x: token_stats_reference(x, w, None, h_ref, None, [name], product=torch.bfloat16)[name], h, c)[1]
    print(f"{kind}: gradient error {relative(gradient, exact):.2%}, plain bf16 {relative(plain, exact):.0%}")
    assert relative(gradient, exact) <= 0.02 and relative(plain, exact) >= 0.3


def test_fp32_logits_of_a_bf16_head(impl: Impl, device: torch.device) -> None:
    h, _, w, y, _ = states((32, 256, 5000), torch.bfloat16, 1.0, device)
    exact = token_stats_reference(h.double(), w.double(), y, None, None, ["logp"])["logp"]
    found = token_stats(h, w, y, want=["logp"], impl=impl, wide=True)["logp"]
    assert float((found.double() - exact).abs().max()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("vocabulary", [507, 32064, 128256, 152064])
def test_given_logits(impl: Impl, vocabulary: int, dtype: torch.dtype, device: torch.device) -> None:
    if device.type == "cpu":
        vocabulary = min(vocabulary, 2001)
    g = torch.Generator().manual_seed(0)
    z_ref = (3 * torch.randn(16, vocabulary, generator=g)).to(device, dtype)
    z = (z_ref.float() + 0.05 * torch.randn(16, vocabulary, generator=g).to(device)).to(dtype)
    y = torch.randint(0, vocabulary, (16,), generator=g).to(device)
    y[3] = -100
    c = torch.rand(16, generator=g).to(device) + 0.1
    calls: dict[str, tuple[Callable[[Tensor], Tensor], Tensor | None]] = {
        "logp": (lambda x: logits_logp(x, y, impl=impl), y),
        "kl_forward": (lambda x: logits_kl(x, z_ref, kind="forward", impl=impl), None),
        "kl_reverse": (lambda x: logits_kl(x, z_ref, kind="reverse", impl=impl), None),
        "js": (lambda x: logits_kl(x, z_ref, kind="js", impl=impl), None),
        "npo_vocab(0.5)": (lambda x: vocab_npo(x, z_ref, beta=0.5, impl=impl), None),
    }
    for name, (f, target) in calls.items():
        value, gradient = run(f, z, c)
        exact = run(lambda x, n=name, t=target: logits_stats_reference(x, z_ref.double(), t, [n])[n], z.double(), c)
        assert relative(value, exact[0]) < 1e-4, name
        assert relative(gradient, exact[1]) < (6e-3 if dtype == torch.bfloat16 else 1e-4), name


def test_a_target_outside_the_vocabulary_is_not_a_number(impl: Impl, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("a CPU refuses it")
    z = torch.randn(3, 100, device=device, requires_grad=True)
    value = logits_logp(z, torch.tensor([5, 100, -1], device=device), impl=impl)
    assert value.isnan().tolist() == [False, True, True]
    value.sum().backward()
    assert z.grad is not None and z.grad[0].isfinite().all() and z.grad[1:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("one", [False, True])
def test_hidden_distance(impl: Impl, one: bool, dtype: torch.dtype, device: torch.device) -> None:
    rows, width = (5632, 4096) if device.type == "cuda" else (9, 123)
    g = torch.Generator().manual_seed(0)
    h = torch.randn(rows, width, generator=g).to(device, dtype)
    target = (
        torch.randn(width, generator=g).to(device) if one else torch.randn(rows, width, generator=g).to(device, dtype)
    )
    c = torch.rand(rows, generator=g).to(device)
    value, gradient = run(lambda x: hidden_distance(x, target, impl=impl), h, c)
    exact = run(lambda x: (x - target.double()).square().sum(-1), h.double(), c)
    assert relative(value, exact[0]) < 1e-6
    assert relative(gradient, exact[1]) < {torch.bfloat16: 5e-3, torch.float16: 1e-3, torch.float32: 1e-6}[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_l1_of_many_tensors(impl: Impl, dtype: torch.dtype, device: torch.device) -> None:
    g = torch.Generator().manual_seed(0)
    shapes = [(8, 4096), (4096, 8), (3,), (), (11008, 8), (0, 5), (1, 1)] * (30 if device.type == "cuda" else 1)
    tensors = [torch.randn(shape, generator=g).to(device, dtype).requires_grad_() for shape in shapes]
    value = l1_norm(tensors, impl=impl)
    assert relative(value, torch.stack([w.detach().double().abs().sum() for w in tensors]).sum()) < 1e-6
    for w, gradient in zip(tensors, torch.autograd.grad(value, tensors), strict=True):
        assert torch.equal(gradient, w.detach().sign())
    grads = [torch.ones_like(w) for w in tensors]
    l1_add_grad_(tensors, grads, 0.5, impl=impl)
    for w, gradient in zip(tensors, grads, strict=True):
        assert torch.equal(gradient, 1 + 0.5 * w.detach().sign())


def test_memory(impl: Impl, device: torch.device) -> None:
    """At most an eighth of what plain fp32 code takes."""
    if device.type == "cpu":
        pytest.skip("measured on a GPU; on a CPU by benchmarks/bench_ops.py")
    h, h_ref, w, _, c = states((2048, 1024, 64000), torch.bfloat16, 0.05, device)

    def peak(f: Callable[[Tensor], Tensor]) -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(f, h, c)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    mine = peak(lambda x: linear_kl(x, h_ref, w, impl=impl))
    plain = peak(lambda x: token_stats_reference(x, w, None, h_ref, None, ["kl_forward"])["kl_forward"])
    print(f"peak {mine / 1e6:.0f} MB, plain fp32 {plain / 1e6:.0f} MB")
    assert mine <= plain / 8
