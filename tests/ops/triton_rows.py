"""Row kernels in Triton's interpreter, against float64. Run by test_ops_triton_rows.py, or by hand:
``TRITON_INTERPRET=1 pytest tests/ops/triton_rows.py``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from triton_truth import gradient, names_for, truth

from clear_dist.ops.rows.names import CONSTANT, DIFFERENCE, IGNORE, NAMES, PAIR, SINGLE, STATE, bits
from clear_dist.ops.rows.triton import row_grad, row_stats

# Interpreted with numpy, which warns where a GPU does not: log 0 and values a tl.where leaves aside.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
MODES = [SINGLE, PAIR, DIFFERENCE]
BETA = 0.5
SCALE = {"alike": 1e-4, "near": 1.0, "far": 6.0}  # of student minus reference; far rows have some |x| > 8


def inputs(T: int, V: int, mode: int, scale: float, seed: int = 0) -> tuple[Tensor, Tensor | None, Tensor]:
    g = torch.Generator().manual_seed(seed)
    reference, x = 3 * torch.randn(T, V, generator=g), scale * torch.randn(T, V, generator=g)
    y = torch.randint(0, V, (T,), generator=g)
    if mode == SINGLE:
        return reference, None, y
    return (reference + x, reference, y) if mode == PAIR else (reference, x, y)


def stats_of(
    z: Tensor, r: Tensor | None, y: Tensor | None, mode: int, names: list[str] | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    names = names_for(mode, y is not None) if names is None else names
    stats, state = row_stats(z, r, y, bits(names), mode, BETA)
    assert stats.shape == (len(names), z.shape[0]) and stats.dtype == torch.float32
    assert state.shape == (STATE, z.shape[0]) and state.dtype == torch.float32
    return dict(zip(names, stats, strict=True)), state


def grad_of(
    z: Tensor, r: Tensor | None, y: Tensor | None, mode: int, state: Tensor, coef: dict[str, Tensor],
    names: list[str] | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    names = names_for(mode, y is not None) if names is None else names
    # One statistic's gradient is asked of a kernel for that one alone: its state holds all it needs.
    names = list(coef) if len(coef) == 1 else names
    rows = torch.stack([coef.get(n, torch.zeros(z.shape[0])) for n in names])
    out = torch.full_like(z, float("nan")) if out is None else out
    row_grad(z, r, y, state, rows, bits(names), mode, BETA, out)
    return out


def random_coef(names: list[str], T: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(7)
    return {n: torch.randn(T, generator=g) for n in names if n not in CONSTANT}


def close(got: Tensor, want: Tensor, rtol: float, atol: float, what: object) -> None:
    assert torch.allclose(got.double(), want.detach(), rtol=rtol, atol=atol), (
        f"{what}: {float((got.double() - want).abs().max()):.2e} off, values to {float(want.abs().max()):.2e}"
    )


QUICK = {("far", 1), ("far", 2), ("far", 3), ("near", 3), ("far", 4097), ("near", 4097), ("far", 507), ("near", 507)}
SIZES = [
    pytest.param(scale, T, V, marks=() if (scale, V) in QUICK else pytest.mark.slow)
    for scale in SCALE
    for T, V in [(2, 507), (1, 4097), (1, 1), (1, 2), (2, 3)]
]


@pytest.mark.parametrize("has_y", [True, False], ids=["target", "no_target"])
@pytest.mark.parametrize("scale, T, V", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_values_and_gradients(mode: int, T: int, V: int, has_y: bool, scale: str) -> None:
    z, r, y = inputs(T, V, mode, SCALE[scale])
    y = y if has_y else None
    if mode != SINGLE and V > 100:
        assert r is not None
        x = z - r if mode == PAIR else r
        shift = x[:, :1] if y is None else x.gather(1, y[:, None])
        assert ((x - shift).abs().amax(1) > 8).all() == (scale == "far")
    stats, state = stats_of(z, r, y, mode)
    student, want = truth(z, r, y, mode, BETA)
    for name, value in stats.items():
        close(value, want[name], 3e-6, 3e-6, name)
    coef = random_coef(list(stats), T)
    for name in coef if V in (507, 2) else ():  # they take time
        one = {name: coef[name]}
        exact = gradient(student, want, one, y)
        close(grad_of(z, r, y, mode, state, one), exact, 2e-5, 2e-6, f"gradient of {name}")
    close(grad_of(z, r, y, mode, state, coef), gradient(student, want, coef, y), 2e-5, 1e-5, "combined gradient")


@pytest.mark.parametrize("mode", [PAIR, DIFFERENCE])
@pytest.mark.parametrize("has_y", [True, False], ids=["target", "no_target"])
def test_nearly_equal_distributions_keep_their_digits(mode: int, has_y: bool) -> None:
    """Divergences of 1e-8: the digits of values and gradients, not only their absolute error."""
    z, r, y = inputs(2, 507, mode, 1e-4)
    y = y if has_y else None
    stats, state = stats_of(z, r, y, mode)
    student, want = truth(z, r, y, mode, BETA)
    for name in ("kl_forward", "kl_reverse", "js"):
        assert want[name].max() < 1e-7
        close(stats[name], want[name], 1e-3, 0, name)
    names = ["kl_forward", "kl_reverse", "js", *(["cross_rest"] if has_y else [])]
    for name, c in random_coef(names, 2).items():
        exact = gradient(student, want, {name: c}, y)
        got = grad_of(z, r, y, mode, state, {name: c})
        assert (got - exact).norm() < 1e-3 * exact.norm(), name


@pytest.mark.parametrize("mode", [PAIR, DIFFERENCE])
@pytest.mark.parametrize("shift", [-7.0, -3.0, 3.0, 7.0])
def test_only_the_target_moved(mode: int, shift: float) -> None:
    """All others are off by the same constant, seen from the target: sums of exponentials that all but cancel."""
    z, r, y = inputs(2, 507, mode, 1e-3)
    moved = z if mode == PAIR else r
    assert moved is not None
    moved.scatter_add_(1, y[:, None], torch.full((2, 1), shift))
    stats, state = stats_of(z, r, y, mode)
    student, want = truth(z, r, y, mode, BETA)
    for name, value in stats.items():
        close(value, want[name], 2e-6, 3e-6, name)
    for name, c in random_coef(list(stats), 2).items():
        close(grad_of(z, r, y, mode, state, {name: c}), gradient(student, want, {name: c}, y), 2e-5, 2e-6, name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("logit", [40.0, -70.0])
def test_certain_and_impossible_targets(mode: int, logit: float) -> None:
    """p(y) -> 1 and p(y) -> 0: log(1 - p) and every gradient keep their digits."""
    z, r, y = inputs(2, 507, mode, 1.0)
    for x in (z,) if mode != PAIR else (z, r):
        assert x is not None
        x.scatter_(1, y[:, None], logit)
    stats, state = stats_of(z, r, y, mode)
    student, want = truth(z, r, y, mode, BETA)
    for name in {"logp", "log1mp", "logp_ref", "log1mp_ref"} & set(stats):
        close(stats[name], want[name], 1e-5, 0, name)
    for name in ("logp", "log1mp"):
        c = torch.ones(2)
        # Products below the smallest normal number are rounded, or flushed on a GPU.
        close(grad_of(z, r, y, mode, state, {name: c}), gradient(student, want, {name: c}, y), 3e-5, 1e-37, name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1e4, 1e30])
@pytest.mark.parametrize("has_y", [True, False], ids=["target", "no_target"])
def test_extreme_logits_stay_finite(mode: int, scale: float, has_y: bool) -> None:
    student = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.3, 0.1, 0.7]]) * scale
    reference = torch.tensor([[-1.0, 1.0, 0.5], [0.5, 1.0, 0.0], [0.1, 0.7, 0.3]]) * scale
    z = reference if mode == DIFFERENCE else student
    r = {SINGLE: None, PAIR: reference, DIFFERENCE: student - reference}[mode]
    y = torch.zeros(3, dtype=torch.int64) if has_y else None
    stats, state = stats_of(z, r, y, mode)
    for name, value in stats.items():
        assert value.isfinite().all(), name
    for name, c in random_coef(list(stats), 3).items():
        assert grad_of(z, r, y, mode, state, {name: c}).isfinite().all(), name
    if has_y:
        close(stats["logp"], truth(z, r, y, mode, BETA)[1]["logp"], 1e-5, 0, "logp")


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_are_not_scored_and_targets_out_of_range(mode: int) -> None:
    z, r, y = inputs(6, 507, mode, 1.0)
    plain, state = stats_of(z, r, y, mode)
    coef = random_coef(list(plain), 6)
    grad = grad_of(z, r, y, mode, state, coef)
    y[0], y[2], y[3], y[5] = IGNORE, 507, -1, 2**40
    stats, state = stats_of(z, r, y, mode)
    for name, value in stats.items():
        assert value[0] == 0 and value[[2, 3, 5]].isnan().all(), name
        assert torch.equal(value[[1, 4]], plain[name][[1, 4]]), name
    assert (state[:, 0] == 0).all() and state[:, [2, 3, 5]].isnan().all()
    got = grad_of(z, r, y, mode, state, coef)
    assert (got[0] == 0).all() and got[[2, 3, 5]].isnan().all()
    assert torch.equal(got[[1, 4]], grad[[1, 4]])


@pytest.mark.parametrize("mode", MODES)
def test_in_place_and_strided(mode: int) -> None:
    """Rows of wider matrices; the gradient over the logits themselves; every time the same bits."""
    wide = [
        None if x is None else torch.cat([x, torch.full((2, 9), float("nan"))], 1)
        for x in inputs(2, 507, mode, 6.0)[:2]
    ]
    z, r = (None if x is None else x[:, :507] for x in wide)
    y = inputs(2, 507, mode, 6.0)[2]
    assert z is not None
    stats, state = stats_of(z, r, y, mode)
    again, state_again = stats_of(z.contiguous(), None if r is None else r.contiguous(), y, mode)
    assert torch.equal(state, state_again) and all(torch.equal(stats[n], again[n]) for n in stats)
    coef = random_coef(list(stats), 2)
    fresh = grad_of(z, r, y, mode, state, coef)
    for place in range(1 if r is None else 2):
        copies = [None if x is None else x.clone(memory_format=torch.preserve_format) for x in (z, r)]
        into = copies[place]
        assert into is not None and copies[0] is not None
        grad_of(copies[0], copies[1], y, mode, state, coef, out=into)
        assert torch.equal(into, fresh)
        frame = wide[place]
        assert frame is not None and frame[:, 507:].isnan().all()


@pytest.mark.parametrize("mode", MODES)
def test_each_statistic_alone_is_what_it_is_among_all(mode: int) -> None:
    """What is not asked for is not compiled in: every subset must give the same numbers."""
    z, r, y = inputs(1, 507, mode, 3.0)
    every, state = stats_of(z, r, y, mode)
    coef = random_coef(list(every), 1)
    for name in every:
        alone, own_state = stats_of(z, r, y, mode, [name])
        close(alone[name], every[name].double(), 1e-6, 1e-7, name)
        if name in coef:
            one = {name: coef[name]}
            close(grad_of(z, r, y, mode, own_state, one), grad_of(z, r, y, mode, state, one).double(), 1e-5, 1e-6, name)


@pytest.mark.parametrize("mode", MODES)
def test_bf16_logits_are_read_as_they_are(mode: int) -> None:
    z, r, y = inputs(1, 507, mode, 1.0)
    low = [None if x is None else x.bfloat16() for x in (z, r)]
    exact = [None if x is None else x.float() for x in low]
    assert low[0] is not None and exact[0] is not None
    got, want = stats_of(low[0], low[1], y, mode)[0], stats_of(exact[0], exact[1], y, mode)[0]
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_a_model_equals_itself() -> None:
    z, _, y = inputs(2, 507, SINGLE, 1.0)
    stats, state = stats_of(z, z.clone(), y, PAIR)
    for name in ("logp", "log1mp", "entropy"):
        assert torch.equal(stats[name], stats[name + "_ref"]), name
    for name in ("log_ratio", "kl_forward", "kl_reverse", "js"):
        assert (stats[name] == 0).all(), name
    for name in ("kl_forward", "kl_reverse", "js"):
        assert (grad_of(z, z.clone(), y, PAIR, state, {name: torch.ones(2)}) == 0).all(), name


@pytest.mark.parametrize("mode", MODES)
def test_ties_count_as_top(mode: int) -> None:
    student = torch.tensor([[0.1, 0.7, 0.7], [0.7, 0.7, 0.1], [0.1, 0.1, 0.7]])
    reference = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.0], [0.0, 0.5, 0.25]])
    z = reference if mode == DIFFERENCE else student
    r = {SINGLE: None, PAIR: reference, DIFFERENCE: student - reference}[mode]
    assert stats_of(z, r, torch.tensor([1, 0, 1]), mode, ["top1"])[0]["top1"].tolist() == [1.0, 1.0, 0.0]


def test_no_rows() -> None:
    stats, state = row_stats(torch.empty(0, 7), None, None, bits(["entropy"]), SINGLE, 0.0)
    assert stats.shape == (1, 0) and state.shape == (STATE, 0)
    row_grad(torch.empty(0, 7), None, None, state, stats, bits(["entropy"]), SINGLE, 0.0, torch.empty(0, 7))


def test_every_statistic_is_tried() -> None:
    assert names_for(PAIR, True) == list(NAMES)
