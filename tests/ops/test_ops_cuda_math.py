"""The CUDA kernels on a CPU: ``cuda_emulator.h`` runs their sources thread by thread, and the numbers are held to
float64: one row in shared memory, of one block or of several, rows without room there, rows that are not aligned."""

from __future__ import annotations

import ctypes

import pytest
import torch
from cuda_emulated import CXX, DTYPES, L1, ONE, Case, Distance, Kernels, check, compile_emulated, gradient_of, stats_of

from clear_dist.ops.rows.names import DIFFERENCE, IGNORE, PAIR, SINGLE

pytestmark = pytest.mark.skipif(CXX is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return compile_emulated(request.config.rootpath, tmp_path_factory.mktemp("emulated"))


@pytest.mark.parametrize("where", ["cluster", "block", "fallback"])
@pytest.mark.parametrize("mode", [SINGLE, PAIR, DIFFERENCE])
def test_every_statistic(kernels: Kernels, mode: int, where: str) -> None:
    for name in ("rows_stats", "rows_grad"):
        kernels[name].emulate(int(where == "cluster"), 3000 if where == "fallback" else 227 * 1024)
    try:
        for V, gap in ((1300, 0), (507, 3)):
            check(kernels, Case(mode, V, gap=gap))
    finally:
        for name in ("rows_stats", "rows_grad"):
            kernels[name].emulate(1, 227 * 1024)


@pytest.mark.parametrize("mode", [PAIR, DIFFERENCE])
def test_rows_that_are_never_aligned_together(kernels: Kernels, mode: int) -> None:
    """Every column by itself, shared among the blocks of a cluster."""
    check(kernels, Case(mode, 1300, gap=1, gap_r=0))


@pytest.mark.parametrize("mode", [SINGLE, PAIR, DIFFERENCE])
@pytest.mark.parametrize("V", [1, 2, 3, 8, 9, 67])
def test_small_vocabularies(kernels: Kernels, mode: int, V: int) -> None:
    finite = None if V > 1 else ("logp", "entropy") if mode == SINGLE else ("logp", "kl_forward", "kl_reverse", "js")
    check(kernels, Case(mode, V, want=finite))


@pytest.mark.parametrize("mode", [PAIR, DIFFERENCE])
@pytest.mark.parametrize("apart", [0.0, 1e-3, 0.1, 2.0, 30.0])
def test_near_and_far(kernels: Kernels, mode: int, apart: float) -> None:
    check(kernels, Case(mode, 600, apart=apart), atol=4e-6 if apart < 10 else 5e-5)


@pytest.mark.parametrize("moved", [-7.5, 7.5])
def test_all_but_the_target_move_together(kernels: Kernels, moved: float) -> None:
    """Near rows whose normalisers are far apart: what is small beside them must stay."""
    case = Case(DIFFERENCE, 400, apart=0.05)
    case.r += moved
    assert case.y is not None
    for t in range(4):
        case.r[t, case.y[t]] = 0.0
        case.z[t, case.y[t]] = -4.0
    check(kernels, case, atol=6e-6)


@pytest.mark.parametrize("mode", [SINGLE, PAIR, DIFFERENCE])
def test_without_targets(kernels: Kernels, mode: int) -> None:
    check(kernels, Case(mode, 300, targets=False))


@pytest.mark.parametrize("want", [("logp",), ("logp", "log1mp", "top1"), ("log_ratio",), ("kl_forward",), ("js",)])
@pytest.mark.parametrize("mode", [SINGLE, PAIR, DIFFERENCE])
def test_short_kernels(kernels: Kernels, mode: int, want: tuple[str, ...]) -> None:
    if mode != SINGLE or set(want) <= set(ONE):
        check(kernels, Case(mode, 300, want=want))


@pytest.mark.parametrize("gap", [0, 1, 8])
@pytest.mark.parametrize("dtype", [(torch.bfloat16,) * 2, (torch.float16,) * 2, (torch.float32, torch.bfloat16)])
@pytest.mark.parametrize("mode", [SINGLE, PAIR, DIFFERENCE])
def test_dtypes(kernels: Kernels, mode: int, dtype: tuple[torch.dtype, torch.dtype], gap: int) -> None:
    check(kernels, Case(mode, 410, dtypes=dtype, gap=gap))
    check(kernels, Case(mode, 203, dtypes=dtype, gap=gap, want=("logp",)))


def test_a_kullback_leibler_next_to_nothing(kernels: Kernels) -> None:
    """Digits of a divergence of 1e-7, and of its gradient: nothing cancels."""
    case = Case(DIFFERENCE, 1300, apart=3e-4, want=("kl_forward", "kl_reverse", "js"))
    want, _, gradient = case.truth()
    stats, state = stats_of(kernels, case)
    assert want.max() < 1e-6
    torch.testing.assert_close(stats[:, :4].double(), want, atol=0, rtol=2e-3)
    for k in range(2):
        coef = torch.zeros(3, case.T)
        coef[k] = 1
        out = torch.empty(case.T, case.V)
        gradient_of(kernels, case, state, coef, out)
        exact = gradient(coef[:, :4])
        assert (out[:4].double() - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize("over", ["z", "r"])
@pytest.mark.parametrize("mode", [PAIR, DIFFERENCE])
def test_in_place(kernels: Kernels, mode: int, over: str) -> None:
    case = Case(mode, 9000, gap=1)
    case.y = torch.tensor([253, 0, 8999, 4500, IGNORE, -1])  # 253: written by the first thread that gets to write
    _, state = stats_of(kernels, case)
    coef = torch.rand(len(case.want), case.T)
    fresh = torch.empty(case.T, case.V + 1)[:, : case.V]
    gradient_of(kernels, case, state, coef, fresh)
    target = case.z if over == "z" else case.r
    gradient_of(kernels, case, state, coef, target)
    assert torch.equal(fresh[:5], target[:5]) and target[5].isnan().all()


@pytest.mark.parametrize("scale", [1e4, 1e30])
@pytest.mark.parametrize("mode", [SINGLE, PAIR, DIFFERENCE])
def test_extreme_logits_stay_finite(kernels: Kernels, mode: int, scale: float) -> None:
    case = Case(mode, 3)
    student = scale * torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]).repeat(3, 1)
    reference = scale * torch.tensor([[-1.0, 1.0, 0.5], [0.5, 1.0, 0.0]]).repeat(3, 1)
    case.z.copy_(reference if mode == DIFFERENCE else student)
    case.r.copy_(student - reference if mode == DIFFERENCE else reference)
    case.y = torch.zeros(6, dtype=torch.int64)
    stats, state = stats_of(kernels, case)
    assert stats.isfinite().all() and state.isfinite().all()
    out = torch.empty(6, 3)
    gradient_of(kernels, case, state, torch.ones(len(case.want), 6), out)
    assert out.isfinite().all()


def test_nan_shows(kernels: Kernels) -> None:
    for mode in (SINGLE, PAIR, DIFFERENCE):
        case = Case(mode, 40)
        case.z[0, 11] = float("nan")
        stats, state = stats_of(kernels, case)
        assert stats[0, 0].isnan() and not stats[:, 1].isnan().any()
        out = torch.empty(case.T, case.V)
        gradient_of(kernels, case, state, torch.ones(len(case.want), case.T), out)
        assert out[0].isnan().any() and not out[1].isnan().any()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("shared_target", [False, True])
def test_distance(kernels: Kernels, shared_target: bool, offset: int) -> None:
    library = kernels["distance"]
    for a, a_code in DTYPES.items():
        for b, b_code in DTYPES.items():
            h = torch.randn(3, 77 + offset)[:, offset:].to(a)
            target = torch.randn(77).to(b) if shared_target else torch.randn(3, 77).to(b)
            stride = 0 if shared_target else 77
            call = Distance(h.data_ptr(), target.data_ptr(), h.stride(0), stride, 3, 77, a_code, b_code, 0)
            out, c, g = torch.empty(3), torch.randn(3), torch.empty(3, 77, dtype=a)
            assert library.clear_dist_cuda_distance(ctypes.byref(call), ctypes.c_void_p(out.data_ptr()), None) == 0
            pointers = [ctypes.c_void_p(x.data_ptr()) for x in (c, g)]
            assert library.clear_dist_cuda_distance_grad(ctypes.byref(call), *pointers, None) == 0
            apart = h.double() - target.double()
            torch.testing.assert_close(out.double(), apart.square().sum(-1), atol=0, rtol=1e-6)
            torch.testing.assert_close(
                g, (2 * c.double()[:, None] * apart).to(a), atol=1e-6, rtol=1e-2 if a != torch.float32 else 1e-5
            )


def test_l1(kernels: Kernels) -> None:
    library = kernels["l1"]
    sizes = (5, 0, 16384, 40001, 1, 0)
    for grad_dtype, grad_code in DTYPES.items():
        flat = [torch.randn(n + 1) for n in sizes]
        tensors = [
            x[1:].to(d).clone() if i % 2 else x.to(d)[1:]
            for i, (x, d) in enumerate(zip(flat, list(DTYPES) * 2, strict=True))
        ]
        grads = [torch.randn(n).to(grad_dtype) for n in sizes]
        before = [g.clone() for g in grads]
        table, pieces = (L1 * len(sizes))(), 0
        for row, w, g in zip(table, tensors, grads, strict=True):
            row.data, row.grad, row.count, row.first_piece = w.data_ptr(), g.data_ptr(), w.numel(), pieces
            row.dtype, row.grad_dtype = DTYPES[w.dtype], grad_code
            pieces += -(-w.numel() // 16384)
        room, partial = torch.empty(64 * len(sizes), dtype=torch.uint8), torch.empty(pieces)
        out, scale = torch.empty(()), torch.tensor(0.25)
        counts = (ctypes.c_int64(len(sizes)), ctypes.c_int64(pieces), ctypes.c_void_p(room.data_ptr()))
        tail = [ctypes.c_void_p(x.data_ptr()) for x in (partial, out)]
        assert library.clear_dist_cuda_l1_norm(table, *counts, *tail, 0, None) == 0
        torch.testing.assert_close(float(out), float(sum(w.double().abs().sum() for w in tensors)), rtol=1e-6, atol=0)
        assert library.clear_dist_cuda_l1_add_sign(table, *counts, ctypes.c_void_p(scale.data_ptr()), 0, None) == 0
        for w, g, old in zip(tensors, grads, before, strict=True):
            assert torch.equal(g, (old.float() + 0.25 * w.float().sign()).to(grad_dtype))
