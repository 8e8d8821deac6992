"""Statistics of ready-made logits against double precision: values, gradients, strides, the ends of the range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ops_support import relative
from torch import Tensor

from clear_dist.ops import Impl, logits_kl, logits_logp, native, vocab_npo
from clear_dist.ops.rows.names import NAMES, PAIR, SINGLE

IMPLS: tuple[Impl, ...] = ("reference", "native")
BETA = 0.7
SIZES = [(257, 507), (3, 32064), (4, 1), (1, 2), (1, 17)]
Op = Callable[[Tensor, Tensor, Tensor, Impl], Tensor]
OPS: dict[str, Op] = {
    "logp": lambda z, z_ref, y, impl: logits_logp(z, y, impl=impl),
    "forward": lambda z, z_ref, y, impl: logits_kl(z, z_ref, impl=impl),
    "reverse": lambda z, z_ref, y, impl: logits_kl(z, z_ref, kind="reverse", impl=impl),
    "js": lambda z, z_ref, y, impl: logits_kl(z, z_ref, kind="js", impl=impl),
    "npo": lambda z, z_ref, y, impl: vocab_npo(z, z_ref, beta=BETA, impl=impl),
}
TWO = [name for name in OPS if name != "logp"]
# A row whose first column happens to be an outlier has a KL divergence with a digit less.
OF_VALUES: dict[str, Any] = {"atol": 4e-6, "rtol": 4e-5}


def truth(name: str, z: Tensor, z_ref: Tensor, y: Tensor) -> Tensor:
    """[T] float64, from the definitions."""
    logp, logq = z.double().log_softmax(-1), z_ref.detach().double().log_softmax(-1)
    p, q, half = logp.exp(), logq.exp(), math.log(2)
    mean = torch.logaddexp(logp, logq) - half
    found: dict[str, Callable[[], Tensor]] = {
        "logp": lambda: logp.gather(1, y.clamp(min=0)[:, None])[:, 0] * (y != -100),
        "forward": lambda: (q * (logq - logp)).sum(-1),
        "reverse": lambda: (p * (logp - logq)).sum(-1),
        "js": lambda: (p * (logp - mean) + q * (logq - mean)).sum(-1) / 2,
        "npo": lambda: (2 / BETA * F.softplus(BETA * (logp - logq))).mean(-1),
    }
    return found[name]()


def inputs(rows: int, columns: int, dtype: torch.dtype, apart: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, z_ref, y (some rows not scored), upstream: of both signs, no two alike."""
    g = torch.Generator().manual_seed(rows + columns)
    z_ref = 3 * torch.randn(rows, columns, generator=g)
    z = z_ref + apart * torch.randn(rows, columns, generator=g)
    y = torch.randint(0, columns, (rows,), generator=g)
    y[1::5] = -100
    return z.to(dtype), z_ref.to(dtype), y, torch.randn(rows, generator=g)


def run(name: str, z: Tensor, z_ref: Tensor, y: Tensor, upstream: Tensor, impl: Impl | None) -> tuple[Tensor, Tensor]:
    """(values, gradient of z); of the truth where ``impl`` is None."""
    leaf = z.detach().requires_grad_()
    value = truth(name, leaf, z_ref, y) if impl is None else OPS[name](leaf, z_ref, y, impl)
    (gradient,) = torch.autograd.grad((value * upstream.to(value.dtype)).sum(), leaf)
    return value.detach(), gradient


def check(name: str, impl: Impl, given: tuple[Tensor, Tensor, Tensor, Tensor], atol: float = 5e-6) -> None:
    z, z_ref, y, upstream = given
    value, gradient = run(name, z, z_ref, y, upstream, impl)
    exact, of_exact = run(name, z.double(), z_ref, y, upstream, None)
    assert value.dtype == torch.float32 and gradient.dtype == z.dtype and gradient.shape == z.shape
    torch.testing.assert_close(value.double(), exact, **OF_VALUES)
    # What a gradient is stored in rounds it: 2^-8 of each of its numbers in bf16, 2^-11 in fp16.
    rounding = {torch.bfloat16: 2**-7.9, torch.float16: 2**-10.9, torch.float32: 5e-5}[z.dtype]
    torch.testing.assert_close(gradient.double(), of_exact, atol=atol, rtol=rounding)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("impl", IMPLS)
def test_values_and_gradients(impl: Impl, name: str, dtype: torch.dtype, size: tuple[int, int]) -> None:
    check(name, impl, inputs(*size, dtype))


@pytest.mark.parametrize("apart", [0.05, 30.0])
@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("impl", IMPLS)
def test_near_and_far(impl: Impl, name: str, apart: float) -> None:
    # Logarithms of ratios reach 100, of which single precision keeps 4e-6; p (u - KL) is made of such.
    check(name, impl, inputs(33, 401, torch.float32, apart), atol=5e-6 if apart < 1 else 3e-5)


def laid_out(z: Tensor, how: str) -> Tensor:
    """The same numbers lying otherwise in memory; what lies between is NaN."""
    rows, columns = z.shape
    if how == "slice":
        wide = z.new_full((rows, columns + 5), math.nan)
        wide[:, 2 : columns + 2] = z
        return wide[:, 2 : columns + 2]
    if how == "every other row":
        wide = z.new_full((2 * rows, columns), math.nan)
        wide[::2] = z
        return wide[::2]
    if how == "every other column":
        wide = z.new_full((rows, 2 * columns), math.nan)
        wide[:, ::2] = z
        return wide[:, ::2]
    assert how == "transposed"
    return z.t().contiguous().t()


@pytest.mark.parametrize("how", ["slice", "every other row", "every other column", "transposed"])
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("impl", IMPLS)
def test_however_it_lies_in_memory(impl: Impl, name: str, how: str) -> None:
    z, z_ref, y, c = inputs(6, 53, torch.float32)
    expected = run(name, z, z_ref, y, c, impl)
    far_y = torch.stack([y, torch.full_like(y, 99)], 1)[:, 0]
    far_c = torch.stack([c, torch.full_like(c, math.nan)], 1)[:, 0]
    far, far_ref = laid_out(z, how), laid_out(z_ref, how)
    for given, other in ((far, z_ref), (z, far_ref), (far, far_ref)):
        value, gradient = run(name, given, other, far_y, far_c, impl)
        assert torch.allclose(value, expected[0], atol=1e-6) and torch.allclose(gradient, expected[1], atol=1e-6)


@pytest.mark.parametrize("how", ["row", "column"])
def test_a_vocabulary_of_one_has_any_stride(how: str) -> None:
    """torch gives a dimension of one element whatever stride it likes, and calls it contiguous."""
    z = torch.randn(1, 5).t() if how == "column" else torch.randn(5, 7).as_strided((5, 1), (7, 3))
    assert z.shape == (5, 1) and z.stride(1) != 1
    y = torch.zeros(5, dtype=torch.long)
    for name, f in OPS.items():
        expected = 2 * math.log(2) / BETA if name == "npo" else 0.0
        assert f(z, z, y, "native").tolist() == pytest.approx([expected] * 5)


@pytest.mark.parametrize("impl", IMPLS)
def test_rows_that_are_not_scored(impl: Impl) -> None:
    """0, without a gradient, whatever they hold; and all of them at once."""
    z, z_ref, y, c = inputs(11, 40, torch.float32)
    skipped = y == -100
    assert 0 < int(skipped.sum()) < 11
    dirty = z.clone()
    dirty[skipped] = math.nan
    value, gradient = run("logp", dirty, z_ref, y, c, impl)
    clean = run("logp", z, z_ref, y, c, impl)
    assert torch.equal(value, clean[0]) and torch.equal(gradient, clean[1])
    assert value[skipped].tolist() == [0.0] * int(skipped.sum()) and (gradient[skipped] == 0).all()
    value, gradient = run("logp", dirty * math.nan, z_ref, torch.full_like(y, -100), c, impl)
    assert (value == 0).all() and (gradient == 0).all()


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("impl", IMPLS)
def test_no_row_stays_connected(impl: Impl, name: str) -> None:
    z = torch.zeros(0, 7, requires_grad=True)
    value = OPS[name](z, torch.zeros(0, 7), torch.zeros(0, dtype=torch.long), impl)
    assert value.shape == (0,) and value.dtype == torch.float32
    value.sum().backward()
    assert z.grad is not None and z.grad.shape == (0, 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("impl", IMPLS)
def test_inputs_stay_as_they_are_and_a_kept_graph_repeats(impl: Impl, name: str, dtype: torch.dtype) -> None:
    z, z_ref, y, c = inputs(9, 130, dtype)
    before = [x.clone() for x in (z, z_ref, y, c)]
    leaf, other = z.requires_grad_(), z_ref.requires_grad_()
    loss = (OPS[name](leaf, other, y, impl) * c).sum()
    loss.backward(retain_graph=True)
    assert leaf.grad is not None and other.grad is None
    once = leaf.grad.clone()
    loss.backward(retain_graph=True)
    assert torch.equal(leaf.grad, 2 * once)
    leaf.grad = None
    loss.backward()
    assert leaf.grad is not None and torch.equal(leaf.grad, once)
    assert leaf.grad.untyped_storage().data_ptr() not in {z.data_ptr(), z_ref.data_ptr()}
    assert all(torch.equal(x.detach(), was) for x, was in zip((z, z_ref, y, c), before, strict=True))


@pytest.mark.parametrize("columns", [1, 5, 64, 1100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_every_element_is_written(name: str, dtype: torch.dtype, columns: int) -> None:
    """The native op, into memory full of NaN, and over the logits themselves; nothing beside the result is touched."""
    assert native.load() is None
    z, z_ref, y, c = inputs(7, columns, dtype)
    mode, target = (SINGLE, y) if name == "logp" else (PAIR, None)
    bit = 1 << NAMES.index({"logp": "logp", "npo": "npo_vocab", "js": "js"}.get(name, f"kl_{name}"))
    exact, of_exact = run(name, z.double(), z_ref, y, c, None)
    for place in ("fresh", "wider", "z", "r")[: 3 if mode == SINGLE else 4]:
        first, second = z.clone(), None if mode == SINGLE else z_ref.clone()
        room = torch.full((7, columns + 3), math.nan, dtype=dtype)
        out = {"fresh": torch.full_like(z, math.nan), "wider": room[:, :columns], "z": first, "r": second}[place]
        assert out is not None
        stats, state = torch.ops.clear_dist.row_stats(first, second, target, bit, mode, BETA)
        torch.ops.clear_dist.row_grad(first, second, target, state, c[None], bit, mode, BETA, out)
        torch.testing.assert_close(stats[0].double(), exact, **OF_VALUES)
        rounding = 2**-7.9 if dtype == torch.bfloat16 else 5e-5
        torch.testing.assert_close(out.double(), of_exact, atol=5e-6, rtol=rounding)
        assert name != "logp" or (out[y == -100] == 0).all()
        assert room[:, columns:].isnan().all()
        for kept, was in ((first, z), (second, z_ref)):
            assert kept is None or kept is out or torch.equal(kept, was)


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_gradients_where_student_and_reference_nearly_agree(kind: str) -> None:
    """Logits 1e-4 apart: the gradient is a difference of probabilities that agree in four digits."""
    z, z_ref, y, c = inputs(64, 4001, torch.float32, 1e-4)
    exact, truth_gradient = run(kind, z.double(), z_ref, y, c, None)
    value, gradient = run(kind, z, z_ref, y, c, "native")
    plain_value, plain = run(kind, z, z_ref, y, c, "reference")
    mine, theirs = relative(gradient, truth_gradient), relative(plain, truth_gradient)
    print(f"{kind}: gradient error {mine:.1e}, plain fp32 {theirs:.1e}")
    assert mine <= 1e-3 and mine < theirs
    assert relative(value, exact) <= 1e-3 and relative(value, exact) < relative(plain_value, exact)
    assert (value >= 0).all()


@pytest.mark.parametrize("name", TWO)
def test_a_model_equals_itself(name: str) -> None:
    z, _, y, c = inputs(20, 507, torch.bfloat16)
    value, gradient = run(name, z, z.clone(), y, c, "native")
    if name == "npo":
        assert value.tolist() == pytest.approx([2 * math.log(2) / BETA] * 20)
        return
    assert (value == 0).all() and (gradient == 0).all()


@pytest.mark.parametrize("scale", [1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("impl", IMPLS)
def test_extreme_logits(impl: Impl, name: str, dtype: torch.dtype, scale: float) -> None:
    """Finite, and the values right: so large that differences of 1 are lost, ties and certainties are what is left."""
    z = torch.tensor([[1.0, -1.0, 0.5, 0.0], [0.0, 1.0, 0.0, 1.0], [-1.0, -1.0, -1.0, 1.0]]) * scale
    z_ref = torch.tensor([[-1.0, 1.0, 0.25, 0.0], [1.0, 0.0, 1.0, 0.0], [-1.0, 1.0, -1.0, -1.0]]) * scale
    z, z_ref, y, c = z.to(dtype), z_ref.to(dtype), torch.tensor([1, 0, -100]), torch.ones(3)
    value, gradient = run(name, z, z_ref, y, c, impl)
    assert value.isfinite().all() and gradient.isfinite().all()
    exact, of_exact = run(name, z.double(), z_ref, y, c, None)
    if name == "js" and scale > 1e10:
        # A log-normaliser of 1e30 cannot hold the log 2 of a tie: bounded is what is left.
        assert ((value >= 0) & (value <= math.log(2) + 1e-6)).all()
        return
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=3e-4)
    if scale < 1e10:  # a normaliser of 1e4 in single precision: probabilities to 1 part in 2000
        torch.testing.assert_close(gradient.double(), of_exact, rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("impl", IMPLS)
def test_not_a_number_stays_one(impl: Impl, name: str) -> None:
    z, z_ref, _, c = inputs(3, 300, torch.float32)
    z[1, 299], z[2, 4] = math.nan, math.inf
    value, gradient = run(name, z, z_ref, torch.tensor([0, 1, 2]), c, impl)
    assert value.isnan().tolist() == [False, True, True]
    assert gradient[0].isfinite().all() and gradient[1:].isnan().any(-1).all()


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("name", OPS)
def test_double_precision(name: str, impl: Impl) -> None:
    z, z_ref, y, c = inputs(5, 23, torch.float64)
    value, gradient = run(name, z, z_ref, y, c, impl)
    exact = run(name, z, z_ref, y, c, None)
    assert value.dtype == gradient.dtype == torch.float64
    torch.testing.assert_close((value, gradient), exact, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("of_reference", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("of_student", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", TWO)
def test_two_precisions(name: str, of_student: torch.dtype, of_reference: torch.dtype) -> None:
    """Neither is rounded to the other's."""
    z, z_ref, y, c = inputs(6, 101, torch.float32, 0.3)
    for impl in ("auto", *IMPLS):
        check(name, impl, (z.to(of_student), z_ref.to(of_reference), y, c))


@pytest.mark.parametrize("name", TWO)
def test_a_reference_in_double_precision_is_not_rounded(name: str) -> None:
    z, z_ref, y, c = inputs(6, 101, torch.float32, 1e-6)
    z_ref = z_ref.double() + 1e-9
    value, gradient = run(name, z, z_ref, y, c, "auto")
    assert value.dtype == torch.float64 and gradient.dtype == torch.float32
    with pytest.raises(ValueError, match="float64 is for impl='reference'"):
        run(name, z, z_ref, y, c, "native")
