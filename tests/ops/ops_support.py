"""What the tests of ``token_stats`` share: names and inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clear_dist.ops import NEEDS_REFERENCE, STATISTICS

T, D, V = 5, 6, 11
VOCAB = ["npo_vocab(0.1)", "npo_vocab(2)"]
ALL = [*sorted(STATISTICS), *VOCAB]
CONSTANT = {"logp_ref", "log1mp_ref", "entropy_ref", "top1"}
OF_REFERENCE = [*sorted(NEEDS_REFERENCE), *VOCAB]
LN2 = math.log(2)


def tensors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h, weight, y, h_ref, weight_ref: a student and a reference that clearly differ."""
    g = torch.Generator().manual_seed(0)
    h, h_ref = (torch.randn(T, D, generator=g).to(dtype) for _ in range(2))
    weight, weight_ref = (torch.randn(V, D, generator=g).to(dtype) for _ in range(2))
    y = torch.randint(0, V, (T,), generator=g)
    y[0] = (weight @ h[0]).argmax()  # top1 is 1 somewhere
    return h, weight, y, h_ref, weight_ref


def wide(*values: Tensor) -> list[Tensor]:
    return [x.detach().double() if x.is_floating_point() else x for x in values]


def relative(x: Tensor, truth: Tensor) -> float:
    """|x - truth| / |truth|."""
    return float((x.detach().double() - truth.detach().double()).norm() / truth.detach().double().norm())
