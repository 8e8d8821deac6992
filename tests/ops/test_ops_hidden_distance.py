"""``hidden_distance`` and the control vector against hand-worked numbers and finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from clear_dist.ops import control_noise, control_vector, hidden_distance

M, D = 4, 7


def states(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(M, D, generator=g).to(dtype), torch.randn(M, D, generator=g).to(dtype)


def test_worked_example() -> None:
    h = torch.tensor([[1.0, 2.0], [0.0, -3.0]], dtype=torch.float64)
    assert hidden_distance(h, torch.tensor([1.0, 0.0])).tolist() == [4.0, 10.0]
    assert hidden_distance(h, torch.tensor([[1.0, 2.0], [4.0, 0.0]])).tolist() == [0.0, 25.0]


@pytest.mark.parametrize("one_target", [False, True])
def test_finite_differences(one_target: bool) -> None:
    h, target = states(torch.float64)
    target = target[0] if one_target else target
    assert hidden_distance(h, target).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: hidden_distance(x, target), (h.requires_grad_(),))


def test_gradient_into_the_states_only() -> None:
    h, target = states(torch.float32)
    h.requires_grad_()
    target.requires_grad_()
    hidden_distance(h, target).sum().backward()
    assert h.grad is not None and torch.allclose(h.grad, 2 * (h - target).detach())
    assert target.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sums_in_fp32(dtype: torch.dtype) -> None:
    """In bf16 the sum of 4096 equal terms would stop growing at 256 of them, in fp16 it would overflow at 65504."""
    h = torch.full((2, 4096), 5.0, dtype=dtype)
    value = hidden_distance(h, torch.zeros(4096))
    assert value.dtype == torch.float32
    assert value.tolist() == [25 * 4096.0] * 2


def test_target_keeps_its_precision() -> None:
    """c * u in fp32 against bf16 states: the target is not rounded to them."""
    target = torch.full((D,), 1 + 2**-12)
    assert hidden_distance(torch.ones(1, D).bfloat16(), target).item() == pytest.approx(D * 2**-24, rel=1e-6)


@pytest.mark.parametrize("one_target", [False, True])
def test_no_row_stays_connected(one_target: bool) -> None:
    h = torch.zeros(0, D, requires_grad=True)
    value = hidden_distance(h, torch.zeros(D) if one_target else torch.zeros(0, D))
    assert value.shape == (0,)
    value.sum().backward()
    assert h.grad is not None


@pytest.mark.parametrize("shape", [(M, D + 1), (D + 1,), (1, D), (M, 1), (M,), ()])
def test_shapes_must_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"target \[M, D\] or \[D\], got \[4, 7\]"):
        hidden_distance(torch.zeros(M, D), torch.zeros(shape))


def test_unknown_implementation_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown impl 'fast'"):
        hidden_distance(torch.zeros(M, D), torch.zeros(D), impl="fast")  # pyright: ignore[reportArgumentType]


def test_control_vector() -> None:
    u = control_vector(64, seed=3)
    assert u.shape == (64,) and u.dtype == torch.float32 and u.device.type == "cpu"
    assert float(u.norm()) == pytest.approx(1.0, abs=1e-6)
    assert (u >= 0).all()
    # Uniform before the scaling: the mean of u^2 is 1/3, so the largest component is near sqrt(3/D) of the length.
    assert float(u.max()) == pytest.approx(math.sqrt(3 / 64), rel=0.15)
    assert torch.equal(u, control_vector(64, seed=3))
    assert not torch.allclose(u, control_vector(64, seed=4), atol=1e-2)


def test_control_vector_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    control_vector(8, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_control_vector_needs_a_size() -> None:
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        control_vector(0, seed=0)


def test_control_noise_is_redrawn_and_normalised_over_the_batch() -> None:
    g = torch.Generator().manual_seed(0)
    first, second = control_noise(M, D, g), control_noise(M, D, g)
    assert first.shape == (M, D) and float(first.norm()) == pytest.approx(1.0, abs=1e-6)
    assert not torch.allclose(first, second, atol=1e-2)
    assert not torch.allclose(first[0], first[1], atol=1e-2)
    assert torch.equal(first, control_noise(M, D, torch.Generator().manual_seed(0)))
    assert control_noise(0, D, g).shape == (0, D)
