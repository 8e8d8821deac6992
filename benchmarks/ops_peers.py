"""Who computes the ops in ``bench_ops``: this project's implementations, plain PyTorch, and other people's libraries.

Peers in plain PyTorch are written as training code writes them:

* ``eager``        everything in the inputs' dtype: bf16 log-softmax, bf16 sums for bf16 inputs
* ``eager_fp32``   the logits raised to fp32 first, as Hugging Face models do (not for fp32 inputs: it is ``eager``)
* ``compile``      ``torch.compile`` of the latter
* ``checkpoint``   the latter in chunks of 256 rows, recomputed in the backward pass, as TRL does
* ``torch_lce``    ``torch.nn.functional.linear_cross_entropy``, chunked, where PyTorch has it
* ``foreach``      ``torch._foreach_norm`` and a sum, for many tensors

Libraries are called with their defaults. Some return the mean over rows only: an upstream gradient per token cannot
reach them, and ``mean`` says so; they are measured with what they can do and held to the truth of that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.ops_cases import BETA, COMPARING, Case, Inputs

IMPLEMENTATIONS = ("reference", "triton", "native", "auto")
ON_CURVES = {"triton", "native", "eager", "eager_fp32", "checkpoint", "liger", "fla"}
CHUNK = 256
# fn(leaf, ref, weight, y) -> [T]
Plain = Callable[[Tensor, Tensor | None, Tensor | None, Tensor | None], Tensor]


@dataclass(frozen=True)
class Variant:
    """One way to compute a case. ``run`` gives [T] (``mean``: their mean); without it ``skip`` says why."""

    name: str
    run: Callable[[Inputs], Tensor] | None = None
    skip: str | None = None
    mean: bool = False
    note: str = ""


def wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


# --- plain PyTorch


def row_function(op: str, kind: str | None) -> Callable[[Tensor, Tensor | None, Tensor | None], Tensor]:
    """fn(logits [T, V], reference logits, y) -> [T], in the dtype of the logits."""

    def logp(z: Tensor, y: Tensor | None) -> Tensor:
        assert y is not None
        return z.log_softmax(-1).gather(-1, y[:, None])[:, 0]

    def kl(log_of: Tensor, log_from: Tensor) -> Tensor:
        """KL(from || of)."""
        return F.kl_div(log_of, log_from, reduction="none", log_target=True).sum(-1)

    def divergence(z: Tensor, z_ref: Tensor | None, y: Tensor | None) -> Tensor:
        del y
        assert z_ref is not None
        p, q = z.log_softmax(-1), z_ref.log_softmax(-1)
        if kind == "js":
            mean = torch.logaddexp(p, q) - math.log(2)
            return (kl(mean, p) + kl(mean, q)) / 2
        return kl(p, q) if kind == "forward" else kl(q, p)

    def npo(z: Tensor, z_ref: Tensor | None, y: Tensor | None) -> Tensor:
        del y
        assert z_ref is not None
        ratio = z.log_softmax(-1) - z_ref.log_softmax(-1)
        return -(2 / BETA) * F.logsigmoid(-BETA * ratio).mean(-1)

    if op.endswith("_kl"):
        return divergence
    if op == "vocab_npo":
        return npo
    if op == "linear_log_ratio":
        return lambda z, z_ref, y: logp(z, y) - logp(z_ref if z_ref is not None else z, y)
    return lambda z, z_ref, y: logp(z, y)


def plain(case: Case, raised: bool) -> Plain:
    """An op in plain PyTorch; with ``raised`` in at least fp32 from the logits on."""
    change = wide if raised else (lambda x: x)
    if case.op == "hidden_distance":

        def distance(h: Tensor, target: Tensor | None, weight: Tensor | None, y: Tensor | None) -> Tensor:
            del weight, y
            assert target is not None
            return (change(h) - change(target)).pow(2).sum(-1)

        return distance
    of_rows = row_function(case.op, case.kind)

    def of_logits(x: Tensor, ref: Tensor | None, weight: Tensor | None, y: Tensor | None) -> Tensor:
        z_ref = None
        if ref is not None:
            with torch.no_grad():
                z_ref = change(ref if weight is None else ref @ weight.t())
        return of_rows(change(x if weight is None else x @ weight.t()), z_ref, y)

    return of_logits


def called(function: Plain, x: Inputs) -> Tensor:
    return function(x.leaves[0], x.ref, x.weight, x.y)


def in_chunks(function: Plain, x: Inputs) -> Tensor:
    """Rows 256 at a time, their logits formed again in the backward pass."""
    h = x.leaves[0]
    parts: list[Tensor] = []
    for at in range(0, len(h), CHUNK):
        ref, y = (None if part is None else part[at : at + CHUNK] for part in (x.ref, x.y))
        parts.append(checkpoint(function, h[at : at + CHUNK], ref, x.weight, y, use_reentrant=False))
    return torch.cat(parts)


def truth(case: Case, x: Inputs) -> Tensor:
    """[T] (a scalar for l1_norm) in float64: what the op is, of the very inputs everybody else is given."""
    exact = x.each(lambda t: t if t.dtype == torch.float64 else t.double())
    if case.op == "l1_norm":
        return one_by_one(exact)
    return called(plain(case, raised=True), exact)


def one_by_one(x: Inputs) -> Tensor:
    return torch.stack([t.abs().sum() for t in x.leaves]).sum()


def foreach(x: Inputs) -> Tensor:
    return torch.stack(torch._foreach_norm(list(x.leaves), 1)).sum()  # pyright: ignore[reportPrivateImportUsage]


def compiled(function: Plain) -> Callable[[Inputs], Tensor]:
    """``torch.compile``; each case starts with nothing compiled, so that none runs into the limit of recompilations."""
    made: list[Plain] = []

    def run(x: Inputs) -> Tensor:
        if not made:
            torch._dynamo.reset()
            made.append(torch.compile(function, fullgraph=True, dynamic=False))
        return called(made[0], x)

    return run


# --- this project


def ours(case: Case, impl: str, device: torch.device) -> Variant:
    """One of the project's implementations, or the reason it cannot be measured here."""
    if impl == "triton" and device.type == "cpu":
        return Variant(impl, skip="on the CPU Triton only interprets: no benchmark")
    from clear_dist import ops

    function: Any = getattr(ops, case.op, None)
    if function is None:
        return Variant(impl, skip=f"clear_dist.ops has no {case.op}")
    try:
        reason = import_module("clear_dist.ops.dispatch").available().get(impl)
    except ImportError:
        reason = None
    if reason:
        return Variant(impl, skip=reason)

    def run(x: Inputs) -> Tensor:
        a, ref, weight, y = x.leaves[0], x.ref, x.weight, x.y
        calls: dict[str, Callable[[], Tensor]] = {
            "linear_logp": lambda: function(a, weight, y, impl=impl),
            "linear_log_ratio": lambda: function(a, ref, weight, y, impl=impl),
            "linear_kl": lambda: function(a, ref, weight, kind=case.kind, impl=impl),
            "logits_logp": lambda: function(a, y, impl=impl),
            "logits_kl": lambda: function(a, ref, kind=case.kind, impl=impl),
            "vocab_npo": lambda: function(a, ref, beta=BETA, impl=impl),
            "hidden_distance": lambda: function(a, ref, impl=impl),
            "l1_norm": lambda: function(list(x.leaves), impl=impl),
        }
        return calls[case.op]()

    return Variant(impl, run)


# --- other people's


def library(name: str, module: str, function: str, device: torch.device) -> Any:
    """A function of an optional library, or a Variant that says why there is none."""
    if device.type == "cpu":
        return Variant(name, skip="Triton kernels: needs a GPU")
    try:
        return getattr(import_module(module), function)
    except Exception as error:  # a library that cannot be imported must not end the run, whatever its trouble
        return Variant(name, skip=f"{module}: {type(error).__name__}: {error}".splitlines()[0])


def negated(loss: Callable[[Tensor, Tensor, Tensor], Tensor], x: Inputs) -> Tensor:
    """Log-probabilities, or their ratio to the reference's, from a fused cross-entropy(h, weight, y) -> [T]."""
    weight, y = x.weight, x.y
    assert weight is not None and y is not None
    out = -loss(x.leaves[0], weight, y)
    if x.ref is None:
        return out
    with torch.no_grad():
        ref = -loss(x.ref, weight, y)
    return out - ref


def cross_entropies(device: torch.device) -> Iterator[Variant]:
    """Fused cross-entropies, one loss a token."""
    chunked = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if chunked is None:
        yield Variant("torch_lce", skip="this PyTorch has no chunked linear_cross_entropy")
    else:
        lce: Any = F.linear_cross_entropy
        options = chunked()
        yield Variant("torch_lce", partial(negated, lambda h, w, y: lce(h, w, y, reduction="none", options=options)))
    found = library("liger", "liger_kernel.transformers.functional", "liger_fused_linear_cross_entropy", device)
    yield as_variant("liger", found, lambda f: partial(negated, lambda h, w, y: f(h, w, y, reduction="none")))
    found = library("cce", "cut_cross_entropy", "linear_cross_entropy", device)
    made = as_variant("cce", found, lambda f: partial(negated, lambda h, w, y: f(h, w, y, reduction="none")))
    yield Variant(made.name, made.run, made.skip, note="leaves out small gradients by default")


def divergences(case: Case, device: torch.device) -> Iterator[Variant]:
    """Fused divergences of two heads: the mean over rows only."""
    beta = {"forward": 0.0, "reverse": 1.0, "js": 0.5}[case.kind or "forward"]
    found = library("liger", "liger_kernel.transformers.functional", "liger_fused_linear_jsd", device)

    def liger(f: Any) -> Callable[[Inputs], Tensor]:
        return lambda x: f(x.leaves[0], x.weight, x.ref, x.weight, jsd_beta=beta)

    yield as_variant("liger", found, liger, mean=True)
    if case.kind == "forward":
        found = library("fla", "fla.modules.fused_kl_div", "fused_kl_div_loss", device)
        yield as_variant("fla", found, lambda f: lambda x: f(x.leaves[0], x.ref, x.weight, x.weight), mean=True)


def liger_of_logits(f: Any, x: Inputs) -> Tensor:
    """Liger's KL starts from log-probabilities; those it leaves to PyTorch."""
    assert x.ref is not None
    logp, logq = wide(x.leaves[0]).log_softmax(-1), wide(x.ref).log_softmax(-1)
    return f(logp, logq, reduction="batchmean", log_target=True)


def as_variant(name: str, found: Any, make: Callable[[Any], Callable[[Inputs], Tensor]], mean: bool = False) -> Variant:
    return found if isinstance(found, Variant) else Variant(name, make(found), mean=mean)


# --- all of them


def variants(case: Case, device: torch.device, quick: bool = False) -> list[Variant]:
    """Everybody who computes a case, this project first."""
    out = [ours(case, impl, device) for impl in IMPLEMENTATIONS]
    if case.op == "l1_norm":
        return [*out, Variant("eager", one_by_one), Variant("foreach", foreach)]
    raised = plain(case, raised=True)
    out.append(Variant("eager", partial(called, plain(case, raised=False))))
    if case.dtype != "fp32":
        out.append(Variant("eager_fp32", partial(called, raised)))
    if quick or not case.compile:
        reason = "not with --quick" if quick else "tried at another shape of this op"
        out.append(Variant("compile", skip=reason))
    else:
        out.append(Variant("compile", compiled(raised)))
    if case.op.startswith("linear"):
        out.append(Variant("checkpoint", partial(in_chunks, raised)))
        out += divergences(case, device) if case.op == "linear_kl" else cross_entropies(device)
    elif case.op == "logits_kl" and case.kind == "forward":
        found = library("liger", "liger_kernel.transformers.functional", "liger_kl_div", device)
        out.append(as_variant("liger", found, lambda f: partial(liger_of_logits, f), mean=True))
    if case.scaling:
        out = [v for v in out if v.name in ON_CURVES]
    assert case.op not in COMPARING or case.kl > 0
    return out
