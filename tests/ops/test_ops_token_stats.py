"""``token_stats`` against the same formulas written out in double precision, one token at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clear_dist.ops import NEEDS_REFERENCE, STATISTICS, token_stats

T, D, V = 5, 6, 11


def tensors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h, weight, y, h_ref, weight_ref: a student and a reference that clearly differ."""
    g = torch.Generator().manual_seed(0)
    h, h_ref = (torch.randn(T, D, generator=g).to(dtype) for _ in range(2))
    weight, weight_ref = (torch.randn(V, D, generator=g).to(dtype) for _ in range(2))
    return h, weight, torch.randint(0, V, (T,), generator=g), h_ref, weight_ref


def by_hand(name: str, h: Tensor, w: Tensor, y: Tensor, h_ref: Tensor, w_ref: Tensor) -> Tensor:
    """[T] float64, differentiable, straight from the definitions."""
    rows = []
    for t in range(h.shape[0]):
        z, z_ref = w @ h[t], w_ref @ h_ref[t]
        p, q = torch.exp(z) / torch.exp(z).sum(), torch.exp(z_ref) / torch.exp(z_ref).sum()
        m = (p + q) / 2
        rows.append(
            {
                "logp": p[y[t]].log(),
                "entropy": -(p * p.log()).sum(),
                "logp_ref": q[y[t]].log(),
                "kl_forward": (q * (q / p).log()).sum(),
                "kl_reverse": (p * (p / q).log()).sum(),
                "js": ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2,
            }[name]
        )
    return torch.stack(rows)


@pytest.mark.parametrize("shared_head", [False, True])
@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_values_and_gradients(name: str, shared_head: bool) -> None:
    h, w, y, h_ref, w_ref = tensors()
    upstream = torch.linspace(-1, 2, T)
    h.requires_grad_()
    w.requires_grad_()
    got = token_stats(h, w, y, h_ref=h_ref, weight_ref=None if shared_head else w_ref, want=[name])
    assert set(got) == {name}
    assert got[name].dtype == torch.float32 and got[name].shape == (T,)

    h64, w64 = (x.detach().double().requires_grad_() for x in (h, w))
    # The reference's head is a constant even where it is the student's own.
    head = w.detach().double() if shared_head else w_ref.double()
    want = by_hand(name, h64, w64, y, h_ref.double(), head)
    assert torch.allclose(got[name].double(), want, atol=2e-6, rtol=1e-5)
    if name == "logp_ref":
        assert not got[name].requires_grad
        return
    (got[name] * upstream).sum().backward()
    (want * upstream.double()).sum().backward()
    for mine, theirs in ((h, h64), (w, w64)):
        assert mine.grad is not None and theirs.grad is not None
        assert theirs.grad.abs().max() > 0.01
        assert torch.allclose(mine.grad.double(), theirs.grad, atol=5e-6, rtol=1e-4)


def test_no_gradient_into_the_reference() -> None:
    h, w, y, h_ref, w_ref = (x.requires_grad_() if x.is_floating_point() else x for x in tensors())
    stats = token_stats(h, w, y, h_ref=h_ref, weight_ref=w_ref, want=STATISTICS)
    torch.stack(list(stats.values())).sum().backward()
    assert h.grad is not None and w.grad is not None
    assert h_ref.grad is None and w_ref.grad is None


def test_a_model_equals_itself() -> None:
    h, w, y, _, _ = tensors()
    stats = token_stats(h, w, y, h_ref=h, want=STATISTICS)
    assert torch.equal(stats["logp"], stats["logp_ref"])
    for name in ("kl_forward", "kl_reverse", "js"):
        assert stats[name].abs().max() < 1e-6


def test_bounds() -> None:
    h, w, y, h_ref, w_ref = tensors()
    stats = token_stats(10 * h, w, y, h_ref=10 * h_ref, weight_ref=w_ref, want=STATISTICS)
    assert ((stats["entropy"] >= 0) & (stats["entropy"] <= math.log(V))).all()
    assert ((stats["js"] >= 0) & (stats["js"] <= math.log(2) + 1e-6)).all()
    assert (stats["kl_forward"] > 0).all() and (stats["kl_reverse"] > 0).all()


def test_bf16_inputs_give_fp32() -> None:
    h, w, y, h_ref, w_ref = tensors(torch.bfloat16)
    stats = token_stats(h, w, y, h_ref=h_ref, weight_ref=w_ref, want=STATISTICS)
    for name, value in stats.items():
        assert value.dtype == torch.float32
        want = by_hand(name, *(x.double() if x.is_floating_point() else x for x in (h, w, y, h_ref, w_ref)))
        assert torch.allclose(value.double(), want, atol=0.1), name  # logits carry 8 bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_token_stays_connected(dtype: torch.dtype) -> None:
    """A rank without an example of a view still takes part in the same backward."""
    h = torch.zeros(0, D, dtype=dtype, requires_grad=True)
    w = torch.zeros(V, D, dtype=dtype, requires_grad=True)
    stats = token_stats(h, w, torch.zeros(0, dtype=torch.long), h_ref=torch.zeros(0, D, dtype=dtype), want=STATISTICS)
    assert set(stats) == STATISTICS
    assert all(v.shape == (0,) and v.dtype == torch.float32 for v in stats.values())
    torch.cat([v for v in stats.values() if v.requires_grad]).sum().backward()
    assert w.grad is not None and float(w.grad.abs().sum()) == 0


def test_unknown_statistic_is_refused() -> None:
    h, w, y, _, _ = tensors()
    with pytest.raises(ValueError, match=r"unknown statistics \['logq'\].*'logp'"):
        token_stats(h, w, y, want=["logp", "logq"])


@pytest.mark.parametrize("name", sorted(NEEDS_REFERENCE))
def test_reference_must_be_given(name: str) -> None:
    h, w, y, _, _ = tensors()
    with pytest.raises(ValueError, match=f"{name}.*need h_ref"):
        token_stats(h, w, y, want=[name])


def test_unknown_implementation_is_refused() -> None:
    h, w, y, _, _ = tensors()
    with pytest.raises(ValueError, match="unknown impl 'fast'"):
        token_stats(h, w, y, impl="fast")  # pyright: ignore[reportArgumentType]
