"""What the row kernels compute, in float64 and plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clear_dist.ops.rows.names import CONSTANT, DIFFERENCE, IGNORE, NAMES, OF_ONE, SINGLE

OF_TARGET = {"logp", "log1mp", "top1", "logp_ref", "log1mp_ref", "cross_rest"}


def names_for(mode: int, has_y: bool) -> list[str]:
    """The statistics that can be asked for, in the order of the bits."""
    return [n for n in NAMES if (mode != SINGLE or n in OF_ONE) and (has_y or n not in OF_TARGET | {"log_ratio"})]


def truth(z: Tensor, r: Tensor | None, y: Tensor | None, mode: int, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """(student logits [T, V] float64, a leaf; name -> [T] float64). Rows with y = -100 are computed for y = 0."""
    wide = [x.detach().double() for x in (z, r) if x is not None]
    student = (sum(wide) if mode == DIFFERENCE else wide[0]).clone().requires_grad_()  # pyright: ignore[reportAttributeAccessIssue]
    logp = student.log_softmax(-1)
    stats: dict[str, Tensor] = {"entropy": -xlogx(logp)}
    at = None if y is None else y.clamp(min=0)[:, None]
    if at is not None:
        stats["logp"], stats["log1mp"] = target(student, at)
        stats["top1"] = (student.gather(1, at)[:, 0] >= student.amax(-1)).double()
    if mode == SINGLE:
        return student, stats
    reference = wide[0] if mode == DIFFERENCE else wide[1]
    logq = reference.log_softmax(-1)
    stats["entropy_ref"] = -xlogx(logq)
    if at is not None:
        stats["logp_ref"], stats["log1mp_ref"] = target(reference, at)
        stats["log_ratio"] = stats["logp"] - stats["logp_ref"]
        rest = reference.scatter(1, at, -math.inf).softmax(-1) if reference.shape[1] > 1 else torch.zeros_like(logq)
        stats["cross_rest"] = -(rest * logp).sum(-1)
    p, q = logp.exp(), logq.exp()
    mean = torch.logaddexp(logp, logq) - math.log(2)
    stats["kl_forward"] = (q * (logq - logp)).sum(-1)
    stats["kl_reverse"] = (p * (logp - logq)).sum(-1)
    stats["js"] = (p * (logp - mean) + q * (logq - mean)).sum(-1) / 2
    stats["npo_vocab"] = 2 / beta * torch.nn.functional.softplus(beta * (logp - logq)).mean(-1)
    return student, stats


def xlogx(logp: Tensor) -> Tensor:
    return (logp.exp() * logp.clamp(min=-1e35)).sum(-1)


def target(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """(log p, log(1 - p)) of the target, exact at both ends even for float64."""
    others = z.scatter(1, at, -math.inf).logsumexp(-1) if z.shape[1] > 1 else torch.full_like(z[:, 0], -math.inf)
    gap = z.gather(1, at)[:, 0] - others
    return torch.nn.functional.logsigmoid(gap), torch.nn.functional.logsigmoid(-gap)


def gradient(student: Tensor, stats: dict[str, Tensor], coef: dict[str, Tensor], y: Tensor | None) -> Tensor:
    """[T, V] float64: of sum coef * stats over the rows that are scored."""
    total = student.sum() * 0
    for name, c in coef.items():
        if name not in CONSTANT:
            scored = torch.ones_like(c) if y is None else (y != IGNORE).to(c.dtype)
            total = total + (stats[name] * (c * scored).double()).sum()
    return torch.autograd.grad(total, student, retain_graph=True)[0]
