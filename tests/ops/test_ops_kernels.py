"""Kernels against the truth in double precision, beside plain PyTorch in the same precision: no worse anywhere, and
right where plain code is not. Every implementation this machine runs; Triton's own tests are beside this one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from ops_support import relative
from torch import Tensor

from clear_dist.ops import Impl, linear_kl, linear_log_ratio, linear_logp, token_stats
from clear_dist.ops.linear import Kind
from clear_dist.ops.token_stats.reference import token_stats_reference

IMPLS: tuple[Impl, ...] = ("reference", "native")
KINDS: tuple[Kind, ...] = ("forward", "reverse", "js")
SIZES = [(257, 123, 507), (3, 16, 32064), (2, 8, 128256), (2, 8, 152064), (1, 5, 2), (4, 3, 1)]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def inputs(size: tuple[int, int, int], dtype: torch.dtype, apart: float = 1.0, seed: int = 0) -> Inputs:
    """h, h_ref, weight, y, upstream: peaked logits (spread of about 4), a student ``apart`` from its reference."""
    tokens, width, vocabulary = size
    g = torch.Generator().manual_seed(seed)
    h_ref = torch.randn(tokens, width, generator=g)
    h = h_ref + apart * torch.randn(tokens, width, generator=g)
    weight = torch.randn(vocabulary, width, generator=g) * 4 / math.sqrt(width)
    y = torch.randint(0, vocabulary, (tokens,), generator=g)
    upstream = torch.rand(tokens, generator=g) + 0.1
    return h.to(dtype), h_ref.to(dtype), weight.to(dtype), y, upstream


def run(f: Callable[[Tensor], Tensor], h: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """(values, gradient of the hidden states) under a non-uniform upstream gradient."""
    h = h.detach().clone().requires_grad_()
    value = f(h)
    (gradient,) = torch.autograd.grad((value * upstream.to(value.dtype)).sum(), h)
    return value.detach(), gradient


CASES: dict[str, Callable[..., Callable[[Tensor], Tensor]]] = {
    "logp": lambda h_ref, w, y, impl: lambda h: linear_logp(h, w, y, impl=impl),
    "log_ratio": lambda h_ref, w, y, impl: lambda h: linear_log_ratio(h, h_ref, w, y, impl=impl),
    "kl_forward": lambda h_ref, w, y, impl: lambda h: linear_kl(h, h_ref, w, kind="forward", impl=impl),
    "kl_reverse": lambda h_ref, w, y, impl: lambda h: linear_kl(h, h_ref, w, kind="reverse", impl=impl),
    "js": lambda h_ref, w, y, impl: lambda h: linear_kl(h, h_ref, w, kind="js", impl=impl),
}


def plain(name: str, h_ref: Tensor, w: Tensor, y: Tensor, product: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    return lambda h: token_stats_reference(h, w, y, h_ref, None, [name], product=product)[name]


@pytest.mark.parametrize("apart", [1.0, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("impl", IMPLS)
def test_no_worse_than_plain(
    impl: Impl, name: str, size: tuple[int, int, int], dtype: torch.dtype, apart: float
) -> None:
    h, h_ref, w, y, c = inputs(size, dtype, apart)
    value, gradient = run(CASES[name](h_ref, w, y, impl), h, c)
    truth = run(plain(name, h_ref.double(), w.double(), y, None), h.double(), c)
    as_usual = run(plain(name, h_ref, w, y, dtype), h, c)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    rounding = 2**-8 if dtype == torch.bfloat16 else 2e-6  # of the gradient itself, which is stored in h's precision
    floor = 1e-6 * float(c.norm())  # a vocabulary of one has no gradient at all
    for mine, exact, usual, allowed in (
        (value, truth[0], as_usual[0], 2e-6),
        (gradient, truth[1], as_usual[1], rounding),
    ):
        error = float((mine.double() - exact).norm())
        assert error <= 1.05 * float((usual.double() - exact).norm()) + allowed * float(exact.norm()) + floor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kl", [1e-3, 1e-5])
def test_bf16_gradients_where_student_and_reference_nearly_agree(kl: float, kind: Kind) -> None:
    """What plain bf16 gets wrong by a third and more."""
    size = (64, 256, 4000)
    apart = math.sqrt(2 * kl) / 4  # logits differ by about sqrt(2 KL)
    h, h_ref, w, y, c = inputs(size, torch.bfloat16, apart)
    name = {"forward": "kl_forward", "reverse": "kl_reverse", "js": "js"}[kind]
    value, gradient = run(CASES[name](h_ref, w, y, "native"), h, c)
    exact, truth = run(plain(name, h_ref.double(), w.double(), y, None), h.double(), c)
    _, usual = run(plain(name, h_ref, w, y, torch.bfloat16), h, c)
    mine, theirs = relative(gradient, truth), relative(usual, truth)
    print(f"KL {float(exact.mean()):.1e} ({kind}): gradient error {mine:.2%}, plain bf16 {theirs:.0%}")
    assert 0.2 < float(exact.mean()) / (kl / (4 if kind == "js" else 1)) < 5
    assert mine <= 0.02 and theirs >= 0.3
    assert relative(value, exact) < 1e-4


@pytest.mark.parametrize("apart", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("name", CASES)
def test_fp32_gradients_to_five_digits(name: str, apart: float) -> None:
    h, h_ref, w, y, c = inputs((32, 64, 3001), torch.float32, apart)
    value, gradient = run(CASES[name](h_ref, w, y, "native"), h, c)
    exact, truth = run(plain(name, h_ref.double(), w.double(), y, None), h.double(), c)
    assert relative(gradient, truth) <= 1e-5
    assert relative(value, exact) <= (1e-5 if apart > 0.001 else 1e-4)  # a KL of 5e-6 is a sum of squares of 1e-3


@pytest.mark.parametrize("impl", IMPLS)
def test_certainty(impl: Impl) -> None:
    """p(y) -> 1: 1 - p is 1e-13 and the gradient of log p still has its digits; of log(1 - p) too."""
    w = torch.eye(4)
    h = torch.tensor([[31.0, 0.0, 1.0, -1.0]])
    y = torch.tensor([0])
    for name in ("logp", "log1mp"):
        value, gradient = run(lambda x, n=name: token_stats(x, w, y, want=[n], impl=impl)[n], h, torch.ones(1))
        exact, truth = run(plain(name, h.double(), w.double(), y, None), h.double(), torch.ones(1))
        assert value.tolist() == pytest.approx(exact.tolist(), rel=1e-5)
        if impl != "reference" or name == "log1mp":  # plain log p has no digits left there
            assert gradient.tolist()[0] == pytest.approx(truth.tolist()[0], rel=2e-4)


def test_one_sweep_serves_all() -> None:
    """All statistics at once are the statistics one by one."""
    h, h_ref, w, y, c = inputs((20, 16, 301), torch.float32)
    names = ["logp", "log1mp", "top1", "entropy", "logp_ref", "log1mp_ref", "entropy_ref", "log_ratio", "cross_rest"]
    names += ["kl_forward", "kl_reverse", "js", "npo_vocab(0.1)", "npo_vocab(2)"]
    leaf = h.clone().requires_grad_()
    together = token_stats(leaf, w, y, h_ref=h_ref, want=names, impl="native")
    moving = [n for n in names if together[n].requires_grad]
    assert len(moving) == 10
    loss = sum(((k + 1) * together[n] * c).sum() for k, n in enumerate(moving))
    assert isinstance(loss, Tensor)
    (gradient,) = torch.autograd.grad(loss, leaf)
    expected = torch.zeros_like(h)
    for k, name in enumerate(moving):
        value, part = run(lambda x, n=name: token_stats(x, w, y, h_ref=h_ref, want=[n], impl="native")[n], h, c)
        assert torch.allclose(value, together[name].detach(), atol=1e-6, rtol=1e-5)
        expected += (k + 1) * part
    assert relative(gradient, expected) < 1e-5


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_size_of_a_chunk_changes_nothing(rows: int, dtype: torch.dtype) -> None:
    h, h_ref, w, y, c = inputs((130, 24, 401), dtype, 0.3)
    wanted = ["logp", "kl_forward"]

    def both(x: Tensor, rows: int) -> Tensor:
        found = token_stats(x, w, y, h_ref=h_ref, want=wanted, impl="native", rows=rows)
        return found["logp"] + found["kl_forward"]

    value, gradient = run(lambda x: both(x, 0), h, c)
    again, other = run(lambda x: both(x, rows), h, c)
    assert torch.allclose(value, again, atol=2e-6, rtol=1e-6)
    assert relative(other, gradient) < (1e-6 if dtype == torch.float32 else 2e-3)


def test_the_same_bits_every_time_and_whatever_the_threads() -> None:
    h, h_ref, w, y, c = inputs((60, 32, 2003), torch.float32, 0.3)
    f = CASES["kl_reverse"](h_ref, w, y, "native")
    first = run(f, h, c)
    for _ in range(3):
        value, gradient = run(f, h, c)
        assert torch.equal(value, first[0]) and torch.equal(gradient, first[1])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("impl", IMPLS)
def test_tokens_that_are_not_scored(impl: Impl, name: str) -> None:
    h, h_ref, w, y, c = inputs((9, 8, 33), torch.float32)
    skipped = torch.tensor([0, 4, 8])
    y[skipped] = -100
    dirty = h.clone()
    dirty[skipped] = math.nan  # what is not scored may hold anything

    def f(x: Tensor) -> Tensor:
        return token_stats(x, w, y, h_ref=h_ref, want=[name], impl=impl)[name]

    value, gradient = run(f, dirty, c)
    kept = torch.ones(9, dtype=torch.bool)
    kept[skipped] = False
    assert value[skipped].tolist() == [0.0] * 3 and float(gradient[skipped].abs().sum()) == 0
    clean_value, clean = run(
        lambda x: token_stats(x, w, y.clamp(min=0), h_ref=h_ref, want=[name], impl=impl)[name], h, c
    )
    assert torch.allclose(value[kept], clean_value[kept], atol=1e-6)
    assert relative(gradient[kept], clean[kept]) < 1e-6
    y[:] = -100
    value, gradient = run(f, h, c)
    assert float(value.abs().sum()) == 0 and float(gradient.abs().sum()) == 0


@pytest.mark.parametrize("name", CASES)
def test_not_a_number_stays_one(name: str) -> None:
    """A diverged model must not look healthy."""
    h, h_ref, w, y, c = inputs((4, 8, 700), torch.float32)
    h[1, 3] = math.nan
    h[2, 0] = math.inf
    value, _ = run(CASES[name](h_ref, w, y, "native"), h, c)
    assert value.isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize("moved", [-7.0, -3.0, 3.0, 7.0, 12.0])
@pytest.mark.parametrize("name", [*CASES, "cross_rest", "log1mp"])
def test_only_the_target_moved(name: str, moved: float) -> None:
    """What unlearning does: one logit falls or rises, all others stay. Formulas of second order must give way there."""
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(6, 301, generator=g)
    y = torch.randint(0, 301, (6,), generator=g)
    logits[torch.arange(6), y] += 4
    h = logits.clone()
    h[torch.arange(6), y] += moved
    w, c = torch.eye(301), torch.rand(6, generator=g) + 0.1
    value, gradient = run(lambda x: token_stats(x, w, y, h_ref=logits, want=[name], impl="native")[name], h, c)
    exact, truth = run(plain(name, logits.double(), w.double(), y, None), h.double(), c)
    assert float((value.double() - exact).abs().max()) < 1e-6 * max(1.0, float(exact.abs().max()))
    assert float((gradient.double() - truth).norm()) < 1e-5 * float(truth.norm()) + 5e-7
