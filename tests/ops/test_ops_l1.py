"""``l1_norm`` and ``l1_add_grad_`` against float64: many tensors of odd sizes, mixed dtypes, and what is no number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from clear_dist.ops import Impl, l1_add_grad_, l1_norm

IMPLS: tuple[Impl, ...] = ("reference", "native")
# Around the width of a vector, of a block of sums, and of a piece that one thread takes.
SIZES: tuple[tuple[int, ...], ...] = (
    *((), (1,), (0,), (3, 0, 2), (7,), (5, 3), (2, 3, 4, 5), (16, 33), (1023,), (1025,)),
    *((65535,), (65536,), (65537,), (3, 50001)),
)
FP32, BF16 = torch.float32, torch.bfloat16
DTYPES: dict[str, tuple[torch.dtype, ...]] = {"fp32": (FP32,), "bf16": (BF16,), "mixed": (FP32, BF16, torch.float16)}


def many(dtypes: tuple[torch.dtype, ...], seed: int = 0) -> list[Tensor]:
    """One of each size, some of their elements exactly 0."""
    g = torch.Generator().manual_seed(seed)
    made = [torch.randn(size, generator=g) * (torch.rand(size, generator=g) > 0.1) for size in SIZES]
    return [w.to(dtypes[k % len(dtypes)]) for k, w in enumerate(made)]


def truth(tensors: list[Tensor]) -> float:
    return sum(float(w.detach().double().abs().sum()) for w in tensors)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("impl", [*IMPLS, "auto"])
def test_value_and_gradient(impl: Impl, dtypes: str) -> None:
    tensors = many(DTYPES[dtypes])
    leaves = [w.requires_grad_() for w in tensors]
    value = l1_norm(leaves, impl=impl)
    assert value.shape == () and value.dtype == torch.float32
    assert value.item() == pytest.approx(truth(tensors), rel=2e-6)
    (-2.5 * value).backward()
    for w in leaves:
        assert w.grad is not None and w.grad.dtype == w.dtype
        assert torch.equal(w.grad, -2.5 * w.detach().sign())
        assert (w.grad[w.detach() == 0] == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_alone_and_in_a_crowd(impl: Impl) -> None:
    for w in many((FP32, BF16)):
        assert l1_norm([w], impl=impl).item() == pytest.approx(truth([w]), rel=2e-6)
    crowd = [torch.full((3,), 0.5 + k) for k in range(450)]
    assert l1_norm(crowd, impl=impl).item() == 3 * sum(0.5 + k for k in range(450))
    w = torch.randn(9)
    assert l1_norm([w, w], impl=impl).item() == pytest.approx(2 * truth([w]), rel=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
def test_small_terms_are_not_lost(impl: Impl) -> None:
    """4 million elements of 1e-3 behind one of 1e4; in bf16, a sum of ones would stop at 256."""
    values = torch.full((1 << 22,), 1e-3)
    assert l1_norm([torch.tensor([1e4]), values], impl=impl).item() == pytest.approx(1e4 + 4194.304, rel=1e-6)
    assert l1_norm([torch.ones(70001, dtype=torch.bfloat16)], impl=impl).item() == 70001


@pytest.mark.parametrize("impl", IMPLS)
def test_however_it_lies_in_memory(impl: Impl) -> None:
    w = torch.randn(12, 20)
    for view in (w.t(), w[:, 3:9], w[::2], w[:, ::3], w[0, 0], w[:1].expand(5, 20)):
        leaf = view.detach().requires_grad_()
        value = l1_norm([leaf], impl=impl)
        value.backward()
        assert value.item() == pytest.approx(truth([view]), rel=1e-6)
        assert leaf.grad is not None and torch.equal(leaf.grad, view.sign())


@pytest.mark.parametrize("impl", IMPLS)
def test_only_what_is_trained_gets_a_gradient(impl: Impl) -> None:
    frozen, trained = torch.randn(4), torch.randn(3, 2).requires_grad_()
    value = l1_norm([frozen, trained], impl=impl)
    value.backward(retain_graph=True)
    value.backward()
    assert frozen.grad is None and trained.grad is not None
    assert torch.equal(trained.grad, 2 * trained.detach().sign())


@pytest.mark.parametrize("impl", IMPLS)
def test_nothing_at_all_is_zero_and_stays_connected(impl: Impl) -> None:
    empty = [torch.zeros(0, requires_grad=True), torch.zeros(2, 0, requires_grad=True)]
    value = l1_norm(empty, impl=impl)
    assert value.item() == 0 and value.shape == ()
    value.backward()
    assert all(w.grad is not None for w in empty)
    l1_add_grad_(empty, [torch.zeros(0), torch.zeros(2, 0)], 1.0, impl=impl)


@pytest.mark.parametrize("given", [1.5, torch.tensor(1.5), torch.tensor([1.5], dtype=torch.float64), 2], ids=repr)
@pytest.mark.parametrize("of_grads", [FP32, BF16], ids=str)
@pytest.mark.parametrize("of_tensors", [FP32, BF16], ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_adding_in_place(impl: Impl, of_tensors: torch.dtype, of_grads: torch.dtype, given: float | Tensor) -> None:
    tensors, grads = many((of_tensors,)), many((of_grads,), seed=1)
    before = [w.clone() for w in tensors]
    places = [g.data_ptr() for g in grads]
    pairs = zip(tensors, grads, strict=True)
    expected = [(g.double() + float(given) * w.double().sign()).to(of_grads) for w, g in pairs]
    l1_add_grad_([w.requires_grad_() for w in tensors], grads, given, impl=impl)
    assert [g.data_ptr() for g in grads] == places
    assert all(torch.equal(g, e) for g, e in zip(grads, expected, strict=True))
    assert all(torch.equal(w.detach(), b) for w, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("impl", ["auto", *IMPLS])
def test_adding_what_backward_would(impl: Impl) -> None:
    """Mixed dtypes, each tensor's gradient in its own, and tensors that do not lie in one piece."""
    tensors = [*many((FP32, BF16)), torch.randn(6, 8).t(), torch.randn(6, 8)[:, ::2]]
    leaves = [w.detach().clone(memory_format=torch.preserve_format).requires_grad_() for w in tensors]
    (0.25 * l1_norm(leaves, impl=impl)).backward()
    grads = [torch.zeros(w.shape, dtype=w.dtype) for w in tensors]
    l1_add_grad_(tensors, grads, 0.25, impl=impl)
    for g, leaf in zip(grads, leaves, strict=True):
        assert leaf.grad is not None and torch.equal(g, leaf.grad)


def test_fp16_and_double_precision_run_too() -> None:
    for dtype in (torch.float16, torch.float64):
        w, g = torch.tensor([1.0, -2.0, 0.0], dtype=dtype), torch.ones(3, dtype=dtype)
        assert l1_norm([w, torch.ones(2)]).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert l1_norm([w, torch.ones(2)]).item() == 5
        l1_add_grad_([w, torch.ones(1)], [g, torch.ones(1).bfloat16()], 0.5)
        assert g.tolist() == [1.5, 0.5, 1.0]


def test_threads_change_nothing(threads: Callable[[int], None]) -> None:
    tensors = many((FP32, BF16))
    found: list[tuple[Tensor, list[Tensor]]] = []
    for count in (1, 2):
        threads(count)
        grads = many((FP32,), seed=1)
        l1_add_grad_(tensors, grads, 0.3, impl="native")
        found.append((l1_norm(tensors, impl="native"), grads))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.parametrize("size", [1, 5, 40, 70001])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_not_a_number_stays_one(impl: Impl, dtype: torch.dtype, size: int) -> None:
    w = torch.ones(size, dtype=dtype)
    w[-1] = math.nan
    assert l1_norm([torch.ones(3), w], impl=impl).isnan()
    w[-1] = -math.inf
    assert l1_norm([torch.ones(3), w], impl=impl).item() == math.inf
    grads = torch.zeros(size)
    grads[-1] = math.nan
    l1_add_grad_([torch.ones(size, dtype=dtype)], [grads], 1.0, impl=impl)
    assert grads.isnan().sum() == 1 and (grads[:-1] == 1).all()


def test_a_weight_that_is_no_number_has_the_same_sign_everywhere() -> None:
    """All implementations of one op agree, and with the gradient that autograd gives: sign(NaN) is what torch says."""
    w = torch.tensor([math.nan, 1.0, -1.0])
    found: dict[str, list[bool]] = {"torch": w.sign().isnan().tolist()}
    for impl in IMPLS:
        grads = torch.zeros(3)
        l1_add_grad_([w], [grads], 1.0, impl=impl)
        found[f"{impl}, in place"] = grads.isnan().tolist()
        leaf = w.clone().requires_grad_()
        l1_norm([leaf], impl=impl).backward()
        assert leaf.grad is not None
        found[f"{impl}, backward"] = leaf.grad.isnan().tolist()
    assert len({tuple(x) for x in found.values()}) == 1, found
