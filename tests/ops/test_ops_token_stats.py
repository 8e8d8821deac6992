"""``token_stats`` against numbers worked out by hand, the same formulas token by token in double precision, and
finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from ops_support import ALL, CONSTANT, LN2, VOCAB, D, T, V, tensors, wide
from torch import Tensor

from clear_dist.ops import HIDDEN_STATISTICS, STATISTICS, token_stats
from clear_dist.ops import npo_vocab_beta as beta_of


def by_hand(name: str, h: Tensor, w: Tensor, y: Tensor, h_ref: Tensor, w_ref: Tensor) -> Tensor:
    """[T] float64, differentiable, straight from the definitions."""
    rows = []
    for t in range(h.shape[0]):
        z, z_ref = w @ h[t], w_ref @ h_ref[t]
        p, q = torch.exp(z) / torch.exp(z).sum(), torch.exp(z_ref) / torch.exp(z_ref).sum()
        m = (p + q) / 2
        beta = beta_of(name) or math.nan
        rows.append(
            {
                "logp": p[y[t]].log(),
                "log1mp": (1 - p[y[t]]).log(),
                "top1": (p[y[t]] == p.max()).double(),
                "entropy": -(p * p.log()).sum(),
                "logp_ref": q[y[t]].log(),
                "log1mp_ref": (1 - q[y[t]]).log(),
                "entropy_ref": -(q * q.log()).sum(),
                "log_ratio": p[y[t]].log() - q[y[t]].log(),
                "cross_rest": -sum(q[v] / (1 - q[y[t]]) * p[v].log() for v in range(len(q)) if v != int(y[t])),
                "kl_forward": (q * (q / p).log()).sum(),
                "kl_reverse": (p * (p / q).log()).sum(),
                "js": ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2,
                "cosine": h[t] @ h_ref[t] / (h[t].norm() * h_ref[t].norm()),
                "l2": ((h[t] - h_ref[t]) ** 2).sum(),
                name if name in VOCAB else "": (2 / beta * torch.log(1 + (p / q) ** beta)).mean(),
            }[name]
        )
    return torch.stack(rows)


# p = (1/2, 1/4, 1/8, 1/8), q = (1/4, 1/8, 1/8, 1/2), y = 1; m = (3/8, 3/16, 1/8, 5/16).
WORKED = {
    "logp": -2 * LN2,
    "log1mp": math.log(3 / 4),
    "top1": 0.0,
    "entropy": 1.75 * LN2,
    "logp_ref": -3 * LN2,
    "log1mp_ref": math.log(7 / 8),
    "entropy_ref": 1.75 * LN2,
    "log_ratio": LN2,
    "cross_rest": (2 / 7 + 3 / 7 + 3 * 4 / 7) * LN2,
    "kl_forward": (-1 / 4 - 1 / 8 + 1) * LN2,
    "kl_reverse": (1 / 2 + 1 / 4 - 1 / 4) * LN2,
    "js": ((3 / 4 * math.log(4 / 3) + 1 / 8 * math.log(2 / 5)) + (3 / 8 * math.log(2 / 3) + 1 / 2 * math.log(8 / 5)))
    / 2,
    "npo_vocab(1)": 2 / 4 * (2 * math.log(3) + math.log(2) + math.log(5 / 4)),
    "npo_vocab(2)": 1 / 4 * (2 * math.log(5) + math.log(2) + math.log(17 / 16)),
}


@pytest.mark.parametrize("name", WORKED)
def test_worked_example(name: str) -> None:
    """The head is the identity and the hidden states are log-probabilities, shifted as logits may be."""
    p = torch.tensor([[1 / 2, 1 / 4, 1 / 8, 1 / 8]], dtype=torch.float64)
    q = torch.tensor([[1 / 4, 1 / 8, 1 / 8, 1 / 2]], dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    got = token_stats(p.log() + 3, eye, torch.tensor([1]), h_ref=q.log() - 5, weight_ref=eye, want=[name])[name]
    assert got.dtype == torch.float64
    assert float(got) == pytest.approx(WORKED[name], abs=1e-14)


def test_worked_example_of_hidden_states() -> None:
    h, h_ref = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    got = token_stats(h, None, None, h_ref=h_ref, want=["cosine", "l2"])
    assert float(got["cosine"]) == pytest.approx(24 / 25, abs=1e-7)
    assert float(got["l2"]) == 2.0


def test_every_statistic_is_worked_out() -> None:
    assert {*WORKED, "cosine", "l2"} >= STATISTICS


@pytest.mark.parametrize("shared_head", [False, True])
@pytest.mark.parametrize("name", ALL)
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
    if name in CONSTANT:
        assert not got[name].requires_grad
        return
    (got[name] * upstream).sum().backward()
    (want * upstream.double()).sum().backward()
    compared = [(h, h64)] if name in HIDDEN_STATISTICS else [(h, h64), (w, w64)]
    for mine, theirs in compared:
        assert mine.grad is not None and theirs.grad is not None
        assert theirs.grad.abs().max() > 0.01
        assert torch.allclose(mine.grad.double(), theirs.grad, atol=5e-6, rtol=1e-4)


@pytest.mark.parametrize("name", [n for n in ALL if n not in CONSTANT])
def test_finite_differences(name: str) -> None:
    h, w, y, h_ref, w_ref = wide(*tensors())

    def of(h: Tensor, w: Tensor) -> Tensor:
        return token_stats(h, w, y, h_ref=h_ref, weight_ref=w_ref, want=[name])[name]

    inputs = (h.requires_grad_(), w.requires_grad_(name not in HIDDEN_STATISTICS))
    assert of(*inputs).dtype == torch.float64
    assert torch.autograd.gradcheck(of, inputs, atol=1e-8, rtol=1e-6)


def test_no_gradient_into_the_reference() -> None:
    h, w, y, h_ref, w_ref = (x.requires_grad_() if x.is_floating_point() else x for x in tensors())
    stats = token_stats(h, w, y, h_ref=h_ref, weight_ref=w_ref, want=ALL)
    torch.stack(list(stats.values())).sum().backward()
    assert h.grad is not None and w.grad is not None
    assert h_ref.grad is None and w_ref.grad is None


def test_a_model_equals_itself() -> None:
    h, w, y, _, _ = tensors()
    stats = token_stats(h, w, y, h_ref=h, want=ALL)
    assert torch.equal(stats["logp"], stats["logp_ref"])
    assert torch.equal(stats["entropy"], stats["entropy_ref"])
    assert torch.equal(stats["l2"], torch.zeros(T))
    assert torch.allclose(stats["cosine"], torch.ones(T))
    for name in ("kl_forward", "kl_reverse", "js"):
        assert stats[name].abs().max() < 1e-6
    assert torch.allclose(stats["npo_vocab(2)"], torch.full((T,), LN2))


def test_bounds() -> None:
    h, w, y, h_ref, w_ref = tensors()
    stats = token_stats(10 * h, w, y, h_ref=10 * h_ref, weight_ref=w_ref, want=STATISTICS)
    assert ((stats["entropy"] >= 0) & (stats["entropy"] <= math.log(V))).all()
    assert ((stats["js"] >= 0) & (stats["js"] <= math.log(2) + 1e-6)).all()
    assert (stats["kl_forward"] > 0).all() and (stats["kl_reverse"] > 0).all()
    assert (stats["log1mp"] <= 0).all() and (stats["cosine"].abs() <= 1 + 1e-6).all()
    assert torch.allclose(stats["logp"].exp() + stats["log1mp"].exp(), torch.ones(T))


def at_logits(z: list[float], name: str, dtype: torch.dtype) -> tuple[float, list[float]]:
    """(value, gradient with respect to the logits) of a statistic of one token whose target is 0."""
    h = torch.tensor([z], dtype=dtype, requires_grad=True)
    value = token_stats(h, torch.eye(len(z), dtype=dtype), torch.tensor([0]), want=[name])[name]
    (gradient,) = torch.autograd.grad(value.sum(), h)
    return float(value.detach()), gradient[0].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1mp_next_to_certainty(dtype: torch.dtype) -> None:
    """1 - p = 1e-30, far below the spacing of numbers at 1. d/dz_y = -p, d/dz_v = p p_v / (1 - p)."""
    value, gradient = at_logits([math.log(2e30), 0.0, 0.0], "log1mp", dtype)
    assert value == pytest.approx(-30 * math.log(10), rel=1e-6)
    assert gradient == pytest.approx([-1.0, 0.5, 0.5], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1mp_next_to_impossible(dtype: torch.dtype) -> None:
    """p = e^-80 / 2: log(1 - p) = -p, not 0."""
    p = math.exp(-80) / 2
    value, gradient = at_logits([-80.0, 0.0, 0.0], "log1mp", dtype)
    assert value == pytest.approx(-p, rel=1e-5)
    assert gradient == pytest.approx([-p, p / 2, p / 2], rel=1e-5)


@pytest.mark.parametrize("scale", [1e4, 1e30])
@pytest.mark.parametrize("name", ALL)
def test_extreme_logits_stay_finite(name: str, scale: float) -> None:
    h, h_ref = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]), torch.tensor([[-1.0, 1.0, 0.5], [0.5, 1.0, 0.0]])
    h.requires_grad_()
    head = torch.eye(3) * scale
    if name in HIDDEN_STATISTICS:
        head, h_ref = None, h_ref * 1e15  # the square of more is no fp32 number
    value = token_stats(h, head, torch.tensor([0, 0]), h_ref=h_ref, want=[name])[name]
    assert value.isfinite().all()
    if name not in CONSTANT:
        assert torch.autograd.grad(value.sum(), h)[0].isfinite().all()


def test_cosine_of_nothing_is_finite() -> None:
    h = torch.zeros(1, D, requires_grad=True)
    value = token_stats(h, None, None, h_ref=torch.zeros(1, D), want=["cosine"])["cosine"]
    assert float(value.detach()) == 0.0
    assert torch.autograd.grad(value.sum(), h)[0].isfinite().all()


def test_bf16_inputs_give_fp32() -> None:
    h, w, y, h_ref, w_ref = tensors(torch.bfloat16)
    stats = token_stats(h, w, y, h_ref=h_ref, weight_ref=w_ref, want=ALL)
    assert set(stats) == set(ALL)
    for name, value in stats.items():
        assert value.dtype == torch.float32
        want = by_hand(name, *wide(h, w, y, h_ref, w_ref))
        # Logits carry 8 bits; hidden states are used as they are.
        assert torch.allclose(value.double(), want, atol=1e-5 if name in HIDDEN_STATISTICS else 0.1), name


def test_single_precision_agrees_with_double() -> None:
    single, double = tensors(), wide(*tensors())
    low = token_stats(*single[:3], h_ref=single[3], weight_ref=single[4], want=ALL)
    high = token_stats(double[0], double[1], double[2], h_ref=double[3], weight_ref=double[4], want=ALL)
    for name in ALL:
        assert high[name].dtype == torch.float64
        assert torch.allclose(low[name].double(), high[name], atol=2e-6, rtol=1e-5), name
