"""What training does to an op: keeps graphs, accumulates, releases weights, compiles, trains the head, adapts it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ops_support import relative
from torch import Tensor

from clear_dist.ops import HeadAdapter, hidden_distance, l1_norm, linear_kl, linear_logp, logits_kl, native, token_stats
from clear_dist.ops.hidden_distance import distance, distance_grad
from clear_dist.ops.l1_norm import l1
from clear_dist.ops.logits import logits_stat, logits_stat_grad
from clear_dist.ops.token_stats.head import head_stats, head_stats_again, head_stats_kept
from clear_dist.ops.token_stats.reference import token_stats_reference

T, D, V, R = 21, 12, 301, 3
WANT = ["logp", "entropy", "log_ratio", "kl_forward", "kl_reverse", "js", "cross_rest", "log1mp", "npo_vocab(0.5)"]


def inputs(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=g) for name, shape in SHAPES.items()}
    made["y"] = torch.randint(0, V, (T,), generator=g)
    return made


SHAPES = {"h": (T, D), "h_ref": (T, D), "w": (V, D), "w_ref": (V, D), "a": (R, D), "b": (V, R), "c": (len(WANT), T)}


def loss_of(found: dict[str, Tensor], c: Tensor) -> Tensor:
    return sum(((c[k].to(found[name].dtype) * found[name]).sum() for k, name in enumerate(WANT)), start=c.new_zeros(()))


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("trained", ["h", "h w", "w", "h a b", "h b", "a b", "h w a b"])
@pytest.mark.parametrize("rows", [0, 8])
def test_whatever_is_trained(trained: str, untied: bool, rows: int) -> None:
    """Frozen head, trained head, LoRA on the head, tied and untied with the reference's: as autograd on plain code."""
    given = inputs()
    adapted = "a" in trained or "b" in trained

    def gradients(given: dict[str, Tensor], impl: str) -> list[Tensor]:
        x = {name: value.detach().clone() for name, value in given.items()}
        leaves = [x[name].requires_grad_() for name in trained.split()]
        found = token_stats(
            x["h"],
            x["w"],
            x["y"],
            h_ref=x["h_ref"],
            weight_ref=x["w_ref"] if untied else None,
            adapter=HeadAdapter(x["a"], x["b"], 0.5) if adapted else None,
            want=WANT,
            impl=impl,  # pyright: ignore[reportArgumentType]
            rows=rows,
        )
        return list(torch.autograd.grad(loss_of(found, x["c"]), leaves))

    exact = gradients({n: v.double() if v.is_floating_point() else v for n, v in given.items()}, "reference")
    for name, mine, truth in zip(trained.split(), gradients(given, "native"), exact, strict=True):
        assert mine.shape == truth.shape and mine.dtype == torch.float32
        assert relative(mine, truth) < 1e-5, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [False, True])
def test_a_kept_graph_gives_the_same_again_and_accumulates(trained: bool, dtype: torch.dtype) -> None:
    x = inputs()
    h, w = x["h"].to(dtype).requires_grad_(), x["w"].to(dtype).requires_grad_(trained)
    found = token_stats(h, w, x["y"], h_ref=x["h_ref"].to(dtype), want=WANT, impl="native")
    loss = loss_of(found, x["c"])
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in (h, w) if p.grad is not None]
    assert len(first) == 1 + trained
    loss.backward()
    for p, once in zip([p for p in (h, w) if p.grad is not None], first, strict=True):
        assert p.grad is not None and torch.equal(p.grad, 2 * once)


def test_upstream_gradients_of_every_scale() -> None:
    """Row t's gradient is c_t times its own: exactly, whatever its neighbours'."""
    x = inputs()
    scales = 10.0 ** torch.linspace(-20, 10, T)

    def gradient(c: Tensor) -> Tensor:
        h = x["h"].clone().requires_grad_()
        (linear_kl(h, x["h_ref"], x["w"], impl="native") * c).sum().backward()
        assert h.grad is not None
        return h.grad

    assert torch.allclose(gradient(scales), scales[:, None] * gradient(torch.ones(T)), rtol=1e-6, atol=0)
    assert float(gradient(torch.zeros(T)).abs().sum()) == 0


def test_a_frozen_head_may_go_before_backward() -> None:
    """ZeRO-3 releases it, or fills its memory with something else: backward does not look."""
    x = inputs()
    h = x["h"].clone().requires_grad_()
    expected = torch.autograd.grad(linear_logp(h, x["w"], x["y"], impl="native").sum(), h)[0]
    w = x["w"].clone()
    loss = linear_logp(h, w, x["y"], impl="native").sum()
    w.data.fill_(math.nan)
    w.data = torch.empty(0)
    assert torch.equal(torch.autograd.grad(loss, h)[0], expected)


def test_nothing_is_formed_that_nobody_asks_for() -> None:
    x = inputs()
    stats, kept = head_stats(x["h"], x["w"], x["y"], None, None, None, None, "logp,top1", True, "native", 0, False)
    assert stats.shape == (2, T) and kept.shape == (1, T, D)
    with torch.no_grad():
        assert not linear_logp(x["h"].requires_grad_(), x["w"], x["y"], impl="native").requires_grad


def test_a_second_derivative_is_refused() -> None:
    x = inputs()
    for trained in (False, True):
        h = x["h"].clone().requires_grad_()
        w = x["w"].clone().requires_grad_(trained)
        (g,) = torch.autograd.grad(linear_logp(h, w, x["y"], impl="native").sum(), h, create_graph=True)
        with pytest.raises(RuntimeError):
            g.sum().backward()
    z = torch.randn(3, 7, requires_grad=True)
    (g,) = torch.autograd.grad(logits_kl(z, torch.randn(3, 7), impl="native").sum(), z, create_graph=True)
    with pytest.raises(RuntimeError):
        g.sum().backward()


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("impl", ["reference", "native"])
def test_no_token_and_one(tokens: int, impl: Any) -> None:
    x = inputs()
    h, w = x["h"][:tokens].clone().requires_grad_(), x["w"].clone().requires_grad_()
    found = token_stats(h, w, x["y"][:tokens], h_ref=x["h_ref"][:tokens], want=WANT, impl=impl)
    sum((v.sum() for v in found.values()), start=h.new_zeros(())).backward()
    assert h.grad is not None and w.grad is not None and h.grad.shape == (tokens, D)
    assert bool(w.grad.abs().sum() > 0) == (tokens > 0)


def test_transposed_and_sliced_inputs() -> None:
    x = inputs()
    expected = linear_logp(x["h"], x["w"], x["y"], impl="native")
    h = torch.cat([x["h"], x["h"]], 1)[:, :D]
    w = x["w"].t().contiguous().t()
    y = torch.stack([x["y"], x["y"]], 1)[:, 0]
    assert torch.allclose(linear_logp(h, w, y, impl="native"), expected, atol=1e-5)


COMPILED: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "linear_logp": lambda x: linear_logp(x["h"], x["w"], x["y"]),
    "linear_kl": lambda x: linear_kl(x["h"], x["h_ref"], x["w"], kind="js"),
    "trained_head": lambda x: linear_kl(x["h"], x["h_ref"], x["w"] + x["h"].mean()),
    "token_stats": lambda x: sum(
        token_stats(x["h"], x["w"], x["y"], h_ref=x["h_ref"], want=("logp", "kl_forward", "cosine")).values(),
        start=torch.zeros(T),
    ),
    "logits_kl": lambda x: logits_kl(x["h"] @ x["w"].t(), x["h_ref"] @ x["w"].t()),
    "hidden_distance": lambda x: hidden_distance(x["h"], x["h_ref"]),
    "l1_norm": lambda x: l1_norm([x["h"], x["h"] * 2]).expand(T),
}


@pytest.mark.parametrize("name", COMPILED)
def test_no_graph_break(name: str) -> None:
    """Traced whole, forward and backward (no code is generated: what is tested is that the ops can be traced)."""

    def run(f: Callable[[dict[str, Tensor]], Tensor]) -> tuple[Tensor, Tensor]:
        x = inputs()
        x["h"].requires_grad_()
        value = f(x)
        (gradient,) = torch.autograd.grad((value * x["c"][0]).sum(), x["h"])
        return value.detach(), gradient

    expected = run(COMPILED[name])
    torch._dynamo.reset()
    found = run(torch.compile(COMPILED[name], fullgraph=True, backend="aot_eager"))
    assert torch.allclose(found[0], expected[0], atol=1e-6) and torch.allclose(found[1], expected[1], atol=1e-6)


def test_opcheck() -> None:
    """Schemas, fake implementations and autograd registrations, of our ops and of the native ones."""
    assert native.load() is None
    x = inputs()
    h = x["h"].clone().requires_grad_()
    rest = (x["w"], x["y"], x["h_ref"], None, None, None)
    checks: list[tuple[Any, tuple[Any, ...]]] = [
        (head_stats, (h, *rest, "kl_forward,logp", True, "native", 0, False)),
        (head_stats, (h, x["w"].clone().requires_grad_(), *rest[1:], "kl_forward,logp", False, "native", 0, False)),
        (head_stats_kept, (x["c"][:2].contiguous(), torch.randn(2, T, D), "kl_forward,logp")),
        (head_stats_again, (x["c"][:1], x["h"], *rest, "logp", "native", 0, False, [True, True, False, False])),
        (logits_stat, (torch.randn(4, 9, requires_grad=True), torch.randn(4, 9), None, "js", 0.0, "native")),
        (distance, (h, x["h_ref"], "native")),
        (distance_grad, (x["h"], x["h_ref"], torch.randn(T), "native")),
        (l1, ([x["h"], x["w"]], "native")),
    ]
    z, r, y = torch.randn(4, 9), torch.randn(4, 9), torch.tensor([0, 8, -100, 3])
    ops = torch.ops.clear_dist
    _, state = ops.row_stats(z, r, y, 1, 1, 0.0)
    checks += [
        (logits_stat_grad, (torch.randn(4), z, r, y, state, "logp", 0.0, "native")),
        (ops.row_stats.default, (z, r, y, 1 << 9, 1, 0.0)),
        (ops.row_grad.default, (z, r, y, state, torch.randn(1, 4), 1, 1, 0.0, torch.empty(4, 9))),
        (ops.hidden_distance.default, (z, r)),
        (ops.hidden_distance_grad.default, (z, r, torch.randn(4))),
        (ops.l1_norm.default, ([z, r],)),
        (ops.l1_add_sign.default, ([z], [r], torch.tensor(0.5))),
    ]
    for op, arguments in checks:
        torch.library.opcheck(op, arguments)


def test_reference_is_what_autograd_makes_of_it() -> None:
    """The reference has no gradient code of its own; finite differences of all statistics at once."""
    x = {n: v.double() if v.is_floating_point() else v for n, v in inputs().items()}

    def f(h: Tensor) -> Tensor:
        found = token_stats_reference(h, x["w"][:9], x["y"][:2] % 9, x["h_ref"][:2], None, WANT)
        return torch.stack([found[name] for name in WANT])

    assert torch.autograd.gradcheck(f, (x["h"][:2].clone().requires_grad_(),), atol=1e-7, rtol=1e-5)
