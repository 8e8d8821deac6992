"""The other Triton kernels in the interpreter, against float64. Run by test_ops_triton_others.py, or by hand:
``TRITON_INTERPRET=1 pytest tests/ops/triton_others.py``."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from clear_dist.ops.hidden_distance.triton import distance, distance_grad
from clear_dist.ops.l1_norm import triton as l1
from clear_dist.ops.rows import triton as rows
from clear_dist.ops.rows.triton_math import exp_parts, less, log1p_parts, log_cosh_half
from clear_dist.ops.triton_launch import launch


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("one_target", [True, False])
@pytest.mark.parametrize("M, D", [(1, 1), (5, 123), (3, 1024), (2, 2500)])
def test_hidden_distance(M: int, D: int, one_target: bool) -> None:
    h, target = normal(M, D + 3)[:, :D], normal(D, seed=1) if one_target else normal(M, D, seed=1)
    want = (h.double() - target.double()).square().sum(-1)
    got = distance(h, target)
    assert got.dtype == torch.float32 and torch.allclose(got.double(), want, rtol=1e-6)
    assert torch.equal(got, distance(h.contiguous(), target))
    c = normal(M, seed=2)
    grad = distance_grad(h, target, c)
    assert grad.dtype == h.dtype
    assert torch.allclose(grad.double(), 2 * c.double()[:, None] * (h.double() - target.double()), rtol=1e-6, atol=1e-7)


def test_hidden_distance_of_other_dtypes() -> None:
    """Values of bf16 inputs are used as they are: no difference is rounded to bf16."""
    h, target = normal(4, 300).bfloat16(), normal(300, seed=1)
    assert torch.allclose(distance(h, target), (h.float() - target).square().sum(-1), rtol=1e-6)
    assert torch.allclose(distance(target.expand(4, 300), h), (h.float() - target).square().sum(-1), rtol=1e-6)


def test_hidden_distance_of_nothing() -> None:
    assert distance(torch.empty(0, 5), torch.empty(5)).shape == (0,)
    assert distance_grad(torch.empty(0, 5), torch.empty(5), torch.empty(0)).shape == (0, 5)
    assert distance(torch.empty(3, 0), torch.empty(0)).tolist() == [0, 0, 0]


def many() -> list[Tensor]:
    """Sizes around a chunk's, both dtypes mixed, an empty one, one with holes and one that is transposed."""
    sizes = [1, 5, l1.CHUNK - 1, l1.CHUNK, l1.CHUNK + 1, 40000, 0]
    out = [normal(n, seed=n) for n in sizes] + [normal(n, seed=n).bfloat16() for n in (7, 20000)]
    return [*out, normal(6, 9)[:, :5], normal(6, 9).t(), normal(100)[3:]]


def test_l1_norm() -> None:
    tensors = many()
    got = l1.l1_norm(tensors)
    assert got.dtype == torch.float32 and got.shape == ()
    want = sum(float(x.double().abs().sum()) for x in tensors)
    assert float(got) == pytest.approx(want, rel=1e-6)
    assert torch.equal(got, l1.l1_norm(tensors))
    tensors[5][17] += 1000  # the table of addresses is kept, not what is there
    assert float(l1.l1_norm(tensors)) == pytest.approx(sum(float(x.double().abs().sum()) for x in tensors), rel=1e-6)
    assert float(l1.l1_norm([])) == 0.0 and float(l1.l1_norm([torch.empty(0)])) == 0.0


def test_l1_add_sign() -> None:
    tensors = many()
    tensors[5][:100] = 0
    grads = [normal(*x.shape, seed=3) for x in tensors]
    grads[-2] = normal(6, 9, seed=3).t()  # laid out as the tensor is
    grads[-3] = normal(6, 12, seed=3)[:, :5]  # with holes
    want = [g + 0.3 * x.float().sign() for x, g in zip(tensors, grads, strict=True)]
    before = [x.clone() for x in tensors]
    l1.l1_add_sign(tensors, grads, torch.tensor(0.3))
    for i, (got, expected) in enumerate(zip(grads, want, strict=True)):
        assert torch.equal(got, expected), i
    assert all(torch.equal(x, old) for x, old in zip(tensors, before, strict=True))


def test_chunks_are_even_and_cover_everything() -> None:
    tensors = [normal(n) for n in (5, l1.CHUNK, 3 * l1.CHUNK + 1)]
    table, aligned = l1._table(tensors, None)
    assert aligned and table[:, 2].tolist() == [5, l1.CHUNK, l1.CHUNK, l1.CHUNK, l1.CHUNK, 1]
    assert table[2:, 0].tolist() == [tensors[2].data_ptr() + 4 * l1.CHUNK * i for i in range(4)]
    assert not l1._table([normal(9)[1:]], None)[1]


def test_configurations() -> None:
    assert rows.config_for(9, 512, 2, True) == rows.SMALL
    assert rows.config_for(9, 152064, 2, True) == rows.LARGE
    assert rows.config_for(9, 152063, 2, False) == rows.MEDIUM
    assert rows.config_for(12, 32064, 4, True) == rows.MEDIUM  # a device the table does not know
    assert set(rows.CONFIGS.values()) <= set(rows.CANDIDATES)


def test_autotuning_changes_nothing_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rows.AUTOTUNE, "1")
    z = normal(2, 50)
    assert torch.allclose(rows.row_stats(z, None, None, 8, 0, 0.0)[0][0], -(z.softmax(-1) * z.log_softmax(-1)).sum(-1))


@triton.jit
def small_functions(x, tail, p, out, n: tl.constexpr):
    k = tl.arange(0, n)
    u = tl.load(x + k)
    w, expm1, second = exp_parts(u)
    s, c = log1p_parts(tl.minimum(tl.maximum(u, -0.5), 1.0))
    tl.store(out + k, w)
    tl.store(out + n + k, expm1)
    tl.store(out + 2 * n + k, second)
    tl.store(out + 3 * n + k, 2 * s + c)
    tl.store(out + 4 * n + k, log_cosh_half(u, tl.load(tail + k)))
    tl.store(out + 5 * n + k, less(tl.load(p + k), 0.25, u))


def test_small_functions_keep_their_digits() -> None:
    x = torch.cat([torch.logspace(-6, 0.7, 512), -torch.logspace(-6, 0.7, 512)])
    wide = x.double()
    out = torch.empty(6, len(x))
    launch(
        small_functions, 1, x.device, x, torch.log1p(torch.exp(-x.abs())), (0.25 * wide.exp()).float(), out, n=len(x)
    )
    second = torch.stack([wide**n / float(math.factorial(n)) for n in range(2, 40)]).sum(0)
    half = wide.abs() / 2
    log_cosh = torch.log1p(torch.expm1(half).square() / (2 * torch.exp(half)))
    wants = [wide.exp(), wide.expm1(), second, wide.clamp(-0.5, 1).log1p(), log_cosh, 0.25 * wide.expm1()]
    for got, want, bound in zip(out, wants, [3e-7, 6e-7, 2e-6, 4e-7, 3e-6, 1e-6], strict=True):
        assert float(((got.double() - want) / want).abs().max()) < bound
