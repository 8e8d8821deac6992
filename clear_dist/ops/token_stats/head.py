"""Per-token statistics of a head, chunk of rows by chunk of rows: a product, one sweep, and a product back.

Logits of a few hundred or thousand tokens exist at a time. Where only hidden states want a gradient (a frozen head, the
rule with LoRA), it is formed in the forward pass, d stat_t / d h_t for every statistic and token, [T, D] each: row t
depends on h_t alone, so whatever the loss, its gradient is a weighted sum of these rows, and backward looks at the
weight no more (ZeRO-3 may have released it). One statistic costs 4TDV this way, one that compares with the reference
6TDV. Where the head itself is trained, backward forms the logits again; the upstream gradients are known then, so that
one sweep and one product serve all statistics.

Shapes: h [T, D], weight [V, D], K statistics; u [T, r] and b [V, r] add u b^T to the student's logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..rows import DIFFERENCE, NAMES, PAIR, SINGLE, bits, row_grad, row_stats
from ..rows.names import CONSTANT, OF_ONE
from .names import npo_vocab_beta
from .products import Head, add_outer


@dataclass(frozen=True)
class Group:
    """Statistics that one sweep computes: bits, and where each stands among what was asked for."""

    want: int
    beta: float
    places: tuple[int, ...]


def groups_of(want: list[str]) -> list[Group]:
    """All in one sweep, but for a second ``npo_vocab``: a sweep knows one beta."""
    betas = [(place, beta) for place, name in enumerate(want) if (beta := npo_vocab_beta(name)) is not None]
    plain = [(NAMES.index(name), place) for place, name in enumerate(want) if npo_vocab_beta(name) is None]
    first, *others = betas or [(-1, 0.0)]
    members: list[tuple[int, int]] = sorted([*plain, *([(NAMES.index("npo_vocab"), first[0])] if betas else [])])
    out = [Group(bits([NAMES[b] for b, _ in members]), first[1], tuple(place for _, place in members))]
    return out + [Group(bits(["npo_vocab"]), beta, (place,)) for place, beta in others]


@dataclass
class Chunk:
    """Logits of some rows, swept. z, r: see ``rows``; found: (group, stats, state) of every group."""

    rows: slice
    z: Tensor
    r: Tensor | None
    y: Tensor | None
    found: list[tuple[Group, Tensor, Tensor]]


class Sweep:
    """The chunks of one call."""

    def __init__(
        self,
        h: Tensor,
        weight: Tensor,
        y: Tensor | None,
        h_ref: Tensor | None,
        weight_ref: Tensor | None,
        u: Tensor | None,
        b: Tensor | None,
        want: str,
        impl: str,
        rows: int,
        wide: bool,
    ) -> None:
        self.want = want.split(",")
        self.groups = groups_of(self.want)
        compares = any(name not in OF_ONE for name in self.want)
        self.mode = SINGLE if not compares else DIFFERENCE if weight_ref is None else PAIR
        self.h, self.y, self.h_ref, self.u, self.b, self.impl = h, y, h_ref, u, b, impl
        self.head = Head(weight, wide)
        self.head_ref = None if weight_ref is None else Head(weight_ref, wide)
        self.rows = min(self.head.rows(rows), len(h))
        self.buffers = self.head.buffers(self.rows, 1 if self.mode == SINGLE else 2)
        self.scratch: list[Tensor] = []

    def __iter__(self) -> Iterator[Chunk]:
        for start in range(0, len(self.h), self.rows):
            rows = slice(start, min(start + self.rows, len(self.h)))
            yield self._chunk(rows)

    def _chunk(self, rows: slice) -> Chunk:
        z, *others = (buffer[: rows.stop - rows.start] for buffer in self.buffers)
        r, h, y = (others or [None])[0], self.h[rows], None if self.y is None else self.y[rows]
        if self.mode == SINGLE:
            self.head.forward([(h, z)])
        elif self.mode == DIFFERENCE:
            assert self.h_ref is not None and r is not None
            h_ref = self.h_ref[rows]
            # The difference is taken in fp32: where student and reference agree in all but their last bits, those are
            # what it consists of.
            self.head.forward([(h_ref, z), (h.float() - h_ref.float(), r)])
        else:
            assert self.h_ref is not None and self.head_ref is not None and r is not None
            self.head.forward([(h, z)])
            self.head_ref.forward([(self.h_ref[rows], r)])
        if self.u is not None and self.b is not None:
            student = r if self.mode == DIFFERENCE else z
            assert student is not None
            student.addmm_(self.u[rows].to(student.dtype), self.b.t().to(student.dtype))
        found = [(group, *row_stats(z, r, y, group.want, self.mode, group.beta, self.impl)) for group in self.groups]
        return Chunk(rows, z, r, y, found)

    def gradient(self, chunk: Chunk, upstream: list[Tensor], last: bool) -> Tensor:
        """[R, V] sum over statistics of upstream [K of the group, R] times d stat / d logits, in ``factor`` precision.

        last: nobody asks for this chunk's logits again, so they may be overwritten.
        """
        total: Tensor | None = None
        for k, ((group, _, state), coef) in enumerate(zip(chunk.found, upstream, strict=True)):
            final = last and k == len(upstream) - 1 and self.head.logits == self.head.factor
            out = chunk.z if final else self._scratch(k % 2)[: len(chunk.z)]
            row_grad(chunk.z, chunk.r, chunk.y, state, coef, group.want, self.mode, group.beta, out, self.impl)
            total = out if total is None else out.add_(total)
        assert total is not None
        return total

    def _scratch(self, slot: int) -> Tensor:
        while len(self.scratch) <= slot:
            shape = (self.rows, self.head.weight.shape[0])
            self.scratch.append(self.head.weight.new_empty(shape, dtype=self.head.factor))
        return self.scratch[slot]


@torch.library.custom_op("clear_dist::head_stats", mutates_args=())
def head_stats(
    h: Tensor,
    weight: Tensor,
    y: Tensor | None,
    h_ref: Tensor | None,
    weight_ref: Tensor | None,
    u: Tensor | None,
    b: Tensor | None,
    want: str,
    keep: bool,
    impl: str,
    rows: int,
    wide: bool,
) -> tuple[Tensor, Tensor]:
    """(stats [K, T] fp32, kept [K with a gradient, T, D] in h's dtype, or [0, T, D] without ``keep``).

    want: names joined by commas. rows: of a chunk, 0 chooses. wide: fp32 logits on a GPU.
    """
    sweep = Sweep(h, weight, y, h_ref, weight_ref, u, b, want, impl, rows, wide)
    stats = h.new_empty(len(sweep.want), len(h), dtype=torch.float32)
    moving = _moving(sweep.want) if keep else []
    kept = h.new_empty(len(moving), *h.shape)
    for chunk in sweep:
        for group, found, _ in chunk.found:
            for place, row in zip(group.places, found, strict=True):
                stats[place, chunk.rows] = row
        for k, place in enumerate(moving):
            one = [(group, stats, state) for group, stats, state in chunk.found if place in group.places]
            group, found, _ = one[0]
            coef = torch.zeros_like(found)
            coef[group.places.index(place)] = 1.0
            alone = Chunk(chunk.rows, chunk.z, chunk.r, chunk.y, one)
            sweep.head.back(sweep.gradient(alone, [coef], k == len(moving) - 1), kept[k, chunk.rows])
    return stats, kept


def _moving(want: list[str]) -> list[int]:
    """Places of the statistics that have a gradient."""
    return [k for k, name in enumerate(want) if name not in CONSTANT]


@head_stats.register_fake
def _(h, weight, y, h_ref, weight_ref, u, b, want, keep, impl, rows, wide):  # pyright: ignore
    names = want.split(",")
    moving = len(_moving(names)) if keep else 0
    return h.new_empty(len(names), h.shape[0], dtype=torch.float32), h.new_empty(moving, *h.shape)


@torch.library.custom_op("clear_dist::head_stats_kept", mutates_args=())
def head_stats_kept(upstream: Tensor, kept: Tensor, want: str) -> Tensor:
    """[T, D]: sum_k upstream[k, t] kept[k, t], in fp32. An op of its own, so that a second derivative is refused."""
    total = torch.zeros(kept.shape[1:], dtype=torch.float32, device=kept.device)
    for k, place in enumerate(_moving(want.split(","))):
        total.addcmul_(upstream[place, :, None], kept[k].float())
    return total.to(kept.dtype)


@head_stats_kept.register_fake
def _(upstream, kept, want):  # pyright: ignore
    return kept.new_empty(kept.shape[1:])


@torch.library.custom_op("clear_dist::head_stats_again", mutates_args=())
def head_stats_again(
    upstream: Tensor,
    h: Tensor,
    weight: Tensor,
    y: Tensor | None,
    h_ref: Tensor | None,
    weight_ref: Tensor | None,
    u: Tensor | None,
    b: Tensor | None,
    want: str,
    impl: str,
    rows: int,
    wide: bool,
    needs: list[bool],
) -> list[Tensor]:
    """Gradients of h, weight, u and b, logits formed again; [0] where ``needs`` does not ask for one."""
    sweep = Sweep(h, weight, y, h_ref, weight_ref, u, b, want, impl, rows, wide)
    of_h, of_weight, of_u, of_b = (
        None if x is None or not need else x.new_zeros(x.shape, dtype=torch.float32)
        for x, need in zip((h, weight, u, b), needs, strict=True)
    )
    upstream = upstream.float()
    for chunk in sweep:
        coefs = [upstream[list(group.places), chunk.rows].contiguous() for group, _, _ in chunk.found]
        g = sweep.gradient(chunk, coefs, last=True)
        if of_h is not None:
            sweep.head.back(g, of_h[chunk.rows])
        if of_weight is not None:
            add_outer(of_weight, g, h[chunk.rows])
        if of_u is not None and b is not None:
            of_u[chunk.rows] = (g @ b.to(g.dtype)).float()
        if of_b is not None and u is not None:
            add_outer(of_b, g, u[chunk.rows])
    given = (h, weight, u, b)
    return [
        h.new_empty(0) if total is None or x is None else total.to(x.dtype)
        for total, x in zip((of_h, of_weight, of_u, of_b), given, strict=True)
    ]


@head_stats_again.register_fake
def _(upstream, h, weight, y, h_ref, weight_ref, u, b, want, impl, rows, wide, needs):  # pyright: ignore
    return [
        h.new_empty(0) if x is None or not need else torch.empty_like(x, memory_format=torch.contiguous_format)
        for x, need in zip((h, weight, u, b), needs, strict=True)
    ]


def _setup(ctx, inputs, output):  # pyright: ignore
    h, weight, y, h_ref, weight_ref, u, b, want, keep, impl, rows, wide = inputs
    _, kept = output
    ctx.mark_non_differentiable(kept)
    ctx.keep, ctx.rest = keep, (want, impl, rows, wide)
    if keep:
        ctx.save_for_backward(kept)
    else:  # the parameters themselves: under ZeRO-3 they are whole again when this backward runs
        ctx.save_for_backward(h, weight, y, h_ref, weight_ref, u, b)


def _backward(ctx, upstream, of_kept):  # pyright: ignore
    del of_kept
    want, impl, rows, wide = ctx.rest
    needs = [ctx.needs_input_grad[k] for k in (0, 1, 5, 6)]
    nothing = [None] * 5
    if ctx.keep:
        (kept,) = ctx.saved_tensors
        return head_stats_kept(upstream, kept, want), None, None, None, None, None, None, *nothing
    h, weight, y, h_ref, weight_ref, u, b = ctx.saved_tensors
    found = head_stats_again(upstream, h, weight, y, h_ref, weight_ref, u, b, want, impl, rows, wide, needs)
    of_h, of_weight, of_u, of_b = (g if need else None for g, need in zip(found, needs, strict=True))
    return of_h, of_weight, None, None, None, of_u, of_b, *nothing


head_stats.register_autograd(_backward, setup_context=_setup)
