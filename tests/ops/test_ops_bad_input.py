"""Ways to call an op wrongly: a ValueError that names the argument, in every implementation. Unusual inputs that are
right work. The native ops underneath, which anybody may call, raise."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from clear_dist import ops
from clear_dist.ops import HeadAdapter, native
from clear_dist.ops.rows.names import DIFFERENCE, NAMES, PAIR, SINGLE, bits

IMPLS = ("reference", "native")
T, D, V, R = 4, 6, 9, 2
LONG, META = torch.long, torch.device("meta")
WANT = ("logp", "kl_forward", "log_ratio", "npo_vocab(0.5)")


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def right() -> dict[str, dict[str, Any]]:
    """Function -> arguments that are right."""
    h, y, z = numbers(T, D), torch.tensor([0, V - 1, -100, 3]), numbers(T, V)
    head = {"h": h, "weight": numbers(V, D), "y": y, "adapter": HeadAdapter(numbers(R, D), numbers(V, R))}
    both = head | {"h_ref": h + 0.1, "weight_ref": numbers(V, D) + 1}
    two = {"z": z, "z_ref": z + 1}
    return {
        "token_stats": both | {"want": WANT, "rows": 0, "logp_ref": None},
        "linear_logp": head,
        "linear_log_ratio": both,
        "linear_kl": both | {"kind": "js"},
        "logits_logp": {"z": z, "y": y},
        "logits_kl": two | {"kind": "reverse"},
        "vocab_npo": two | {"beta": 0.1},
        "hidden_distance": {"h": h, "target": h + 1},
        "l1_norm": {"tensors": [h, y.float()]},
        "l1_add_grad_": {"tensors": [h, y.float()], "grads": [h + 1, y.float()], "scale": 1.0},
    }


def wrong_for(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(what is wrong, a value that is) for an argument, judged by its name and the right value."""
    if name in ("h", "h_ref", "weight", "weight_ref", "z", "z_ref", "target"):
        yield "0 dimensions", torch.tensor(1.0)
        yield "3 dimensions", value[None]
        yield "whole numbers", value.long()
        yield "complex", value.to(torch.complex64)
        yield "other device", value.to(META)
        if name != "target":
            yield "1 dimension", value[0]
    if name in ("h_ref", "weight", "weight_ref", "z_ref", "target"):  # h and z say what the others are to fit
        yield "other columns", torch.cat([value, value], 1)
    if name in ("h_ref", "z_ref", "target"):
        yield "other rows", value[:-1]
    if name == "weight_ref":
        yield "other vocabulary", numbers(V + 1, D)
    if name == "weight":
        yield "no vocabulary", numbers(0, D)
    if name == "z":
        yield "no vocabulary", numbers(T, 0)
    if name == "y":
        yield "2 dimensions", value[:, None]
        yield "other rows", value[1:]
        yield "float", value.float()
        yield "int32", value.int()
        yield "other device", value.to(META)
        for outside in (-1, V, 2**40, -101):
            yield str(outside), torch.tensor([0, 1, outside, -100])
    if name == "adapter":
        a, b = value.a, value.b
        yield "a: other width", HeadAdapter(numbers(R, D + 1), b)
        yield "a: 1 dimension", HeadAdapter(a[0], b)
        yield "a: whole numbers", HeadAdapter(a.long(), b)
        yield "a: other device", HeadAdapter(a.to(META), b)
        yield "b: other vocabulary", HeadAdapter(a, numbers(V + 1, R))
        yield "b: other rank", HeadAdapter(a, numbers(V, R + 1))
        yield "b: whole numbers", HeadAdapter(a, b.long())
        yield "b: other device", HeadAdapter(a, b.to(META))
    if name == "logp_ref":
        yield "other rows", numbers(T + 1)
        yield "2 dimensions", numbers(T, 1)
        yield "other device", numbers(T).to(META)
        yield "complex", numbers(T).to(torch.complex64)
    if name == "rows":
        yield "negative", -1
    if name == "kind":
        yield "unknown", "sideways"
    if name == "beta":
        yield from ((repr(x), x) for x in (0, 0.0, -0.1, math.nan, math.inf, -math.inf))
    if name == "tensors":
        yield "none", []
        yield "whole numbers", [value[0], value[1].long()]
        yield "complex", [value[0].to(torch.complex64), value[1]]
        yield "other device", [value[0], value[1].to(META)]
    if name == "grads":
        yield "too few", value[:1]
        yield "other shape", [value[0], value[1][:-1]]
        yield "other shape, as many elements", [value[0].t().contiguous(), value[1]]
        yield "whole numbers", [value[0], value[1].long()]
        yield "not contiguous", [value[0].t().contiguous().t(), value[1]]
        yield "other device", [value[0].to(META), value[1]]
    if name == "scale":
        yield "two", torch.ones(2)
        yield "none", torch.ones(0)
        yield "other device", torch.ones((), device=META)
    if name == "want":
        yield "unknown", ["logp", "logq"]


WRONG = [
    pytest.param(function, name, value, id=f"{function}-{name}-{what}")
    for function, arguments in right().items()
    for name, good in arguments.items()
    for what, value in wrong_for(name, good)
]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("function, name, value", WRONG)
def test_a_wrong_argument_is_named(function: str, name: str, value: Any, impl: str) -> None:
    """Where two do not fit each other, either: both are in the message."""
    arguments = right()[function] | {name: value}
    given = [g.clone() for g in arguments.get("grads", [])]
    word = "statistics" if name == "want" else name
    with pytest.raises(ValueError, match=rf"\b{word}\b"):
        getattr(ops, function)(**arguments, impl=impl)
    for g, was in zip(arguments.get("grads", []), given, strict=True):
        assert g.device == META or torch.equal(g, was), "refused, and yet a part was done"


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("outside", [-1, V, 2**40])
@pytest.mark.parametrize("function", [name for name, arguments in right().items() if "y" in arguments])
def test_a_target_is_named_with_its_row(function: str, outside: int, impl: str) -> None:
    y = torch.tensor([0, -100, outside, outside])
    message = re.escape(f"y[2]: {outside} is not in 0..{V - 1}, nor -100 (not scored)")
    with pytest.raises(ValueError, match=f"^{message}$"):
        getattr(ops, function)(**right()[function] | {"y": y}, impl=impl)


@pytest.mark.parametrize("function", right())
def test_an_unknown_implementation(function: str) -> None:
    with pytest.raises(ValueError, match=r"unknown impl 'fast'; known: \['auto', 'native', 'reference', 'triton'\]"):
        getattr(ops, function)(**right()[function], impl="fast")


@pytest.mark.parametrize("name, value", [("rows", -1), ("size", 0), ("size", -3)])
def test_control(name: str, value: int) -> None:
    sizes = {"rows": 2, "size": 3} | {name: value}
    if name == "size":
        with pytest.raises(ValueError, match="size"):
            ops.control_vector(value, 0)
    if value < 0:
        with pytest.raises(ValueError, match=name):
            ops.control_noise(sizes["rows"], sizes["size"], torch.Generator())


def test_every_function_is_here() -> None:
    functions = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    assert functions - set(right()) == {"available", "control_noise", "control_vector", "npo_vocab_beta"}
    for name, arguments in right().items():
        known = set(inspect.signature(getattr(ops, name)).parameters)
        assert set(arguments) <= known and known - set(arguments) <= {"impl", "wide", "weight_ref", "y"}


def apart(x: Any) -> Any:
    """The same numbers, every second element of memory; tensors in lists and adapters too."""
    if isinstance(x, HeadAdapter):
        return HeadAdapter(apart(x.a), apart(x.b), x.scale)
    if isinstance(x, list):
        return [apart(w) for w in x]
    if not isinstance(x, Tensor):
        return x
    far = torch.stack([x, torch.zeros_like(x)], -1)[..., 0]
    assert far.numel() < 2 or not far.is_contiguous()
    return far


def outcome(function: str, arguments: dict[str, Any], impl: str) -> list[Tensor]:
    found = getattr(ops, function)(**arguments, impl=impl)
    if function == "l1_add_grad_":
        return arguments["grads"]
    return list(found.values()) if isinstance(found, dict) else [found]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("function", right())
def test_memory_need_not_be_contiguous(function: str, impl: str) -> None:
    expected = outcome(function, right()[function], impl)
    far = {name: x if name == "grads" else apart(x) for name, x in right()[function].items()}
    for mine, good in zip(outcome(function, far, impl), expected, strict=True):
        assert torch.allclose(mine, good, atol=1e-5), function


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("function", right())
def test_no_rows(function: str, impl: str) -> None:
    """T = 0 works; a vocabulary of none is refused all the same."""
    arguments = right()[function]
    for name in ("h", "h_ref", "y", "z", "z_ref", "target"):
        if isinstance(arguments.get(name), Tensor):
            arguments[name] = arguments[name][:0]
    for name in ("tensors", "grads"):
        if name in arguments:
            arguments[name] = [x[:0] for x in arguments[name]]
    for x in outcome(function, arguments, impl):
        assert x.numel() == 0 or (function == "l1_norm" and x.item() == 0)
    if "z" in arguments:
        empty = torch.zeros(0, 0)
        with pytest.raises(ValueError, match="z: expected at least one column"):
            outcome(function, arguments | {"z": empty} | ({"z_ref": empty} if "z_ref" in arguments else {}), impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_no_hidden_size(impl: Any) -> None:
    h, w, y = torch.zeros(3, 0), torch.zeros(V, 0), torch.tensor([0, 1, -100])
    assert ops.linear_logp(h, w, y, impl=impl).tolist() == pytest.approx([-math.log(V), -math.log(V), 0])
    assert ops.linear_kl(h, h, w, impl=impl).tolist() == [0, 0, 0]
    assert ops.hidden_distance(h, h, impl=impl).tolist() == [0, 0, 0]


def test_a_device_without_kernels() -> None:
    """All on it: the reference runs, here without numbers. What was asked for by name is refused."""
    arguments: dict[str, Any] = {"h": numbers(T, D).to(META), "weight": numbers(V, D).to(META)}
    y = torch.zeros(T, dtype=LONG, device=META)
    assert ops.linear_logp(**arguments, y=y).shape == (T,)
    with pytest.raises(ValueError, match="impl='native' cannot run here: the native extension has no meta kernels"):
        ops.linear_logp(**arguments, y=y, impl="native")


# The native ops themselves. Everything is small, so that what is written where it should not be would be seen by ASAN.
Z, OTHER, Y = numbers(T, V), numbers(T, V) + 1, torch.tensor([0, V - 1, -100, 3])
LOGP, KL = bits(["logp"]), bits(["kl_forward"])
STATS: dict[str, Any] = {"z": Z, "r": OTHER, "y": Y, "want": LOGP | KL, "form": PAIR, "beta": 0.0}
GRAD: dict[str, Any] = STATS | {"state": numbers(8, T), "coef": numbers(2, T), "out": torch.empty(T, V)}
DISTANCE: dict[str, Any] = {"h": Z, "target": OTHER}
SIGNS: dict[str, Any] = {"tensors": [Z], "grads": [OTHER.clone()], "scale": torch.tensor(1.0)}
OPS: dict[str, dict[str, Any]] = {
    "row_stats": STATS,
    "row_grad": GRAD,
    "hidden_distance": DISTANCE,
    "hidden_distance_grad": DISTANCE | {"c": numbers(T)},
    "l1_norm": {"tensors": [Z, OTHER]},
    "l1_add_sign": SIGNS,
}
MATRIX: list[Callable[[Tensor], Tensor]] = [
    lambda x: x[0],
    lambda x: x[None],
    lambda x: x[0, 0],
    lambda x: x.double(),
    lambda x: x.half(),
    lambda x: x.long(),
    lambda x: x[:, ::2],
    lambda x: x.t().contiguous().t(),
    lambda x: x[:-1],
    lambda x: x[:, :-1],
    lambda x: x[:, :0],
]
NATIVE_WRONG: dict[str, list[Any]] = {
    "z": [*(f(Z) for f in MATRIX), Z.bfloat16()],
    "r": [*(f(OTHER) for f in MATRIX), OTHER.bfloat16(), None],
    "y": [Y[:-1], Y[:, None], Y.int(), Y.float(), torch.stack([Y, Y], 1)[:, 0]]
    + [torch.tensor([0, 1, bad, 2]) for bad in (-1, -101, V, 2**40, -(2**63))],
    "want": [-1, 1 << len(NAMES), 1 << 40, -(2**63)],
    "form": [SINGLE, 3, -1, 2**40],
    "state": [numbers(7, T), numbers(8, T + 1), numbers(8, T).double(), numbers(T, 8).t(), numbers(8 * T)],
    "coef": [numbers(1, T), numbers(3, T), numbers(2, T - 1), numbers(2, T).bfloat16(), numbers(T, 2).t(), numbers(T)],
    "out": [*(f(torch.empty(T, V)) for f in MATRIX), torch.empty(T, V).bfloat16()],
    "h": [*(f(Z) for f in MATRIX)],
    "target": [*(f(OTHER) for f in MATRIX if f(OTHER).shape != (V,)), numbers(V + 1), numbers(2 * V)[::2]],
    "c": [numbers(T + 1), numbers(T, 1), numbers(T).double(), numbers(2 * T)[::2], torch.tensor(1.0)],
    "tensors": [[], [Z.t()], [Z.double()], [Z.half()], [Z.long()], [Z[:, ::2]]],
    "grads": [[], [OTHER.t()], [OTHER[:-1]], [OTHER.double()], [OTHER.long()], [OTHER, OTHER]],
    "scale": [torch.ones(2), torch.ones(0), torch.tensor(1.0, dtype=torch.float64), torch.tensor(1)],
}


@pytest.mark.parametrize("op, name", [(op, name) for op, given in OPS.items() for name in given if name != "beta"])
def test_native_ops_raise(op: str, name: str) -> None:
    assert native.load() is None
    call = getattr(torch.ops.clear_dist, op)
    call(**OPS[op])
    for k, value in enumerate(NATIVE_WRONG[name]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            call(**OPS[op] | {name: value})
            pytest.fail(f"{op}: {name} number {k} was taken")


def test_native_ops_are_not_asked_for_what_they_were_not_given() -> None:
    """Statistics that need a target or a second distribution without it: not what happens to lie in memory."""
    assert native.load() is None
    call = torch.ops.clear_dist.row_stats
    taken: list[str] = []
    for name in NAMES:
        of_target = name in ("logp", "log1mp", "top1", "logp_ref", "log1mp_ref", "log_ratio", "cross_rest")
        of_two = name not in ("logp", "log1mp", "top1", "entropy")
        for form, r, y in ((SINGLE, None, Y), (PAIR, OTHER, None), (DIFFERENCE, OTHER, None)):
            if (of_two and form == SINGLE) or (of_target and y is None):
                try:
                    call(Z, r, y, bits([name]), form, 0.5)
                except RuntimeError:
                    continue
                taken.append(f"{name} in form {form}")
    assert not taken, taken
