"""What ``bench_ops`` measures: the cases in order of importance, and their inputs.

T rows, D hidden size, V vocabulary. Gradients flow into the student's side only: the head is frozen, as with LoRA.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

OPS = (
    "linear_logp",
    "linear_log_ratio",
    "linear_kl",
    "logits_logp",
    "logits_kl",
    "vocab_npo",
    "hidden_distance",
    "l1_norm",
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BETA = 0.1  # of vocab_npo: the public CLEAR code's
SHARP = 4.0  # standard deviation of the logits: peaked, as a language model's are
COMPARING = {"linear_log_ratio", "linear_kl", "logits_kl", "vocab_npo"}  # ops with a reference model's side
CHECK_ROWS = 32  # rows of which errors are taken: the float64 truth of all would take longer than the benchmark


@dataclass(frozen=True)
class Case:
    """One op at one shape and dtype. ``kind``: of KL, or hidden_distance's target; ``kl``: student to reference."""

    op: str
    dtype: str
    T: int  # l1_norm: the number of tensors
    D: int | None  # l1_norm: the rank
    V: int | None
    kind: str | None = None
    kl: float = 1e-3
    layers: int = 0  # of l1_norm's model
    scaling: bool = False  # one of the points on a curve: only what the curves show is measured
    compile: bool = True  # whether torch.compile is tried: it takes half a minute a shape

    @property
    def name(self) -> str:
        kind = f" {self.kind}" if self.kind else ""
        shape = " x ".join(str(n) for n in (self.T, self.D, self.V) if n)
        return f"{self.op}{kind}, {self.dtype}, {shape}"


@dataclass(frozen=True)
class Inputs:
    """Tensors of a case.

    ``leaves`` is what gradients flow into: (h [T, D],), (z [T, V],) or LoRA's tensors. ``ref``: h_ref, z_ref or
    hidden_distance's target. ``c``: the upstream gradient, [T] and no two alike, or a scalar.
    """

    leaves: tuple[Tensor, ...]
    c: Tensor
    ref: Tensor | None = None
    weight: Tensor | None = None
    y: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """All float tensors changed."""
        ref, weight = (None if x is None else change(x) for x in (self.ref, self.weight))
        return replace(self, leaves=tuple(map(change, self.leaves)), c=change(self.c), ref=ref, weight=weight)

    def rows(self, count: int) -> Inputs:
        """The first rows alone; all of it where there are none."""
        if not self.c.ndim:
            return self
        ref = self.ref if self.ref is None or self.ref.ndim == 1 else self.ref[:count]
        leaves = tuple(x[:count] for x in self.leaves)
        return replace(self, leaves=leaves, c=self.c[:count], ref=ref, y=None if self.y is None else self.y[:count])

    def with_gradients(self) -> Inputs:
        return replace(self, leaves=tuple(x.detach().clone().requires_grad_() for x in self.leaves))

    @property
    def bytes(self) -> int:
        there = [*self.leaves, *(x for x in (self.ref, self.weight) if x is not None)]
        return sum(x.numel() * x.element_size() for x in there)


def lora_shapes(layers: int, rank: int, hidden: int = 4096, inner: int = 11008) -> list[tuple[int, int]]:
    """A and B of LoRA on all seven linear layers of each block of a LLaMA: 448 tensors, 20.0 M numbers at 7B, r = 8."""
    block = [(hidden, hidden)] * 4 + [(hidden, inner)] * 2 + [(inner, hidden)]
    return [shape for _ in range(layers) for m, n in block for shape in ((rank, m), (n, rank))]


def make_inputs(case: Case, device: torch.device, seed: int = 0, kl: float | None = None) -> Inputs:
    """Inputs of a case, rounded to its dtype. A student is its reference plus noise, as far as gives ``kl`` nats."""
    dtype = DTYPES[case.dtype]
    generator = torch.Generator(device).manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    if case.op == "l1_norm":
        tensors = tuple(noise(*shape).mul_(0.02).to(dtype) for shape in lora_shapes(case.layers, case.D or 1))
        return Inputs(tensors, torch.tensor(0.7, device=device))
    T, D, V = case.T, case.D, case.V
    c = (0.5 + torch.rand(T, generator=generator, device=device)) / T
    if case.op == "hidden_distance":
        assert D is not None
        return Inputs((noise(T, D).to(dtype),), c, (noise(D) if case.kind == "vector" else noise(T, D)).to(dtype))

    assert V is not None
    weight = None
    if case.op.startswith("linear"):
        assert D is not None
        weight = (noise(V, D) * (SHARP / math.sqrt(D))).to(dtype)
    ref = noise(T, D).to(dtype) if weight is not None and D else (SHARP * noise(T, V)).to(dtype)
    y = torch.randint(V, (T,), generator=generator, device=device)
    y[::2] = likeliest(ref[::2], weight)  # half of the targets are what the reference would say, half are rare
    student = student_at(case.kl if kl is None else kl, ref, weight, noise(*ref.shape))
    return Inputs((student,), c, ref if case.op in COMPARING else None, weight, y)


def likeliest(states: Tensor, weight: Tensor | None) -> Tensor:
    """[T] argmax of each row of logits, formed a few rows at a time."""
    return torch.cat([(x if weight is None else x @ weight.t()).argmax(-1) for x in states.split(256)])


def student_at(kl: float, ref: Tensor, weight: Tensor | None, noise: Tensor, rows: int = 16) -> Tensor:
    """The reference's states or logits plus noise, rounded to their dtype: KL(reference || student) of about ``kl``.

    The divergence after rounding is what counts; it is found by halving intervals of the noise's logarithm.
    """
    head = None if weight is None else weight.double()

    def made(log_eps: float, n: int) -> Tensor:
        return (ref[:n].float() + math.exp(log_eps) * noise[:n]).to(ref.dtype)

    low, high = math.log(1e-7), math.log(10.0)
    for _ in range(18):
        middle = (low + high) / 2
        if mean_kl(made(middle, rows), ref[:rows], head) < kl:
            low = middle
        else:
            high = middle
    return made(high, len(ref))


def mean_kl(student: Tensor, ref: Tensor, weight64: Tensor | None) -> float:
    """Mean over rows of KL(reference || student), in float64."""
    z, z_ref = (x.double() if weight64 is None else x.double() @ weight64.t() for x in (student, ref))
    logp, logq = z.log_softmax(-1), z_ref.log_softmax(-1)
    return float((logq.exp() * (logq - logp)).sum(-1).mean())


def plan(device: torch.device, quick: bool, ops: Sequence[str]) -> list[Case]:
    """The cases of the wanted ops, most important first."""
    made = _quick() if quick else _gpu() if device.type == "cuda" else _cpu()
    return [case for case in made if case.op in ops]


def _quick() -> list[Case]:
    out = [
        Case(op, dtype, 40, None if op.startswith(("logits", "vocab")) else 24, 136, kind)
        for op in OPS[:6]
        for kind in (("forward", "reverse", "js") if op.endswith("_kl") else (None,))
        for dtype in DTYPES
    ]
    out += [Case("hidden_distance", dtype, 40, 24, None, kind) for dtype in DTYPES for kind in ("vector", "states")]
    out.append(Case("l1_norm", "fp32", 14, 2, None, layers=1))
    out += [Case("logits_kl", "fp32", T, None, 136, "forward", scaling=True) for T in (20, 80)]
    out += [Case("logits_kl", "fp32", 40, None, V, "forward", scaling=True) for V in (64, 272)]
    return out


def _cpu() -> list[Case]:
    rows = [
        Case(op, d, 512, None, 32000, k) for op, k in (("logits_logp", None), ("logits_kl", "forward")) for d in DTYPES
    ]
    heads = [Case(op, "fp32", 2048, 1024, 32000, k) for op, k in (("linear_logp", None), ("linear_kl", "forward"))]
    small = [Case("hidden_distance", d, 5632, 1024, None, k) for d in DTYPES for k in ("vector", "states")]
    lora = [Case("l1_norm", "fp32", 448, 8, None, layers=32)]
    more = [Case(op, "bf16", 256, 512, 32000, k) for op, k in (("linear_logp", None), ("linear_kl", "forward"))]
    more += [Case("linear_log_ratio", "fp32", 512, 512, 32000)]
    more += [Case("logits_kl", d, 512, None, 32000, k, compile=False) for k in ("reverse", "js") for d in DTYPES]
    more += [Case("vocab_npo", d, 512, None, 32000) for d in DTYPES]
    more += [Case("linear_kl", "fp32", 512, 512, 32000, k, compile=False) for k in ("reverse", "js")]
    curves = [Case("logits_kl", "fp32", T, None, 32000, "forward", scaling=True) for T in (64, 128, 256, 1024, 2048)]
    curves += [Case("logits_kl", "fp32", 512, None, V, "forward", scaling=True) for V in (2000, 8000, 128256)]
    curves += [
        Case("linear_kl", "fp32", T, 256, 32000, "forward", scaling=True) for T in (64, 128, 256, 512, 1024, 2048)
    ]
    curves += [Case("linear_kl", "fp32", 512, 256, V, "forward", scaling=True) for V in (2000, 8000, 128256)]
    return rows + heads + small + lora + more + [replace(c, compile=False) for c in curves]


def _gpu() -> list[Case]:
    models = ((4096, 32064), (4096, 128256), (3584, 152064), (5120, 32064))
    heads = [
        Case(op, "bf16", 4096, D, V, k, compile=i == 0)
        for i, (D, V) in enumerate(models)
        for op, k in (("linear_kl", "forward"), ("linear_logp", None))
    ]
    rows = [
        Case(op, "bf16", 4096, None, V, k, compile=V == 32064)
        for V in (32064, 128256, 152064)
        for op, k in (("logits_kl", "forward"), ("logits_logp", None))
    ]
    small = [Case("hidden_distance", "bf16", 8 * 704, 4096, None, k) for k in ("states", "vector")]
    small += [Case("l1_norm", "fp32", 448, r, None, layers=32) for r in (8, 16)]
    first = 4096, 4096, 32064
    more = [Case("linear_log_ratio", "bf16", *first)]
    more += [Case("linear_kl", "bf16", *first, k, compile=False) for k in ("reverse", "js")]
    more += [Case("vocab_npo", "bf16", 4096, None, 32064)]
    more += [Case("logits_kl", "bf16", 4096, None, 32064, k, compile=False) for k in ("reverse", "js")]
    curves = [Case("linear_kl", "bf16", T, 4096, 32064, "forward", scaling=True) for T in (512, 1024, 2048, 8192)]
    curves += [Case("linear_kl", "bf16", 4096, 4096, V, "forward", scaling=True) for V in (8192, 64128)]
    curves += [Case("logits_kl", "bf16", T, None, 32064, "forward", scaling=True) for T in (512, 1024, 2048, 8192)]
    curves += [Case("logits_kl", "bf16", 4096, None, V, "forward", scaling=True) for V in (8192, 64128)]
    wide = [Case(op, "fp32", 4096, None, 32064, k) for op, k in (("logits_kl", "forward"), ("logits_logp", None))]
    return (
        heads[:2]
        + rows[:2]
        + small[:3]
        + heads[2:]
        + rows[2:]
        + more
        + [replace(c, compile=False) for c in curves]
        + wide
    )
