"""Update rules: from the gradients of an objective's groups to the one that is applied.

A rule says which groups of terms need a gradient of their own, and how to weigh these gradients. All it is told of
them are their inner products (the Gram matrix): these can be had from sharded gradients by one all-reduce of a few
numbers, so every rule here works under any ZeRO stage. Gradients are those of the **loss** (descent directions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from clear_dist.types import View

from .text import number

if TYPE_CHECKING:
    from .objective import Objective


class UpdateRule(Protocol):
    """``groups`` cuts the objective; ``coefficients`` weighs the groups' gradients g_i: the update's is sum c_i g_i.

    Penalties belong to no group: their gradient is added as it is.
    """

    def groups(self, objective: Objective) -> list[Objective]: ...

    def coefficients(self, gram: Tensor, progress: float) -> Tensor:
        """[G, G] float64 inner products <g_i, g_j>, progress in [0, 1) -> [G] float64."""
        ...

    def shown(self, equation: str) -> str:
        """The equation as it is printed and parsed."""
        ...


@dataclass(frozen=True)
class Sum:
    """The default: one gradient, that of the sum."""

    def groups(self, objective: Objective) -> list[Objective]:
        return [objective]

    def coefficients(self, gram: Tensor, progress: float) -> Tensor:
        del progress
        return torch.ones(1, dtype=gram.dtype)

    def shown(self, equation: str) -> str:
        return equation


@dataclass(frozen=True)
class Orthogonal:
    """Forget along the part of the forget gradient that is orthogonal to the retain gradient.

    With a the gradient of all terms that look beyond RETAIN and r that of the rest: until a fraction ``until`` of
    training, a - (<a, r> / |r|^2) r; then plain descent along r. CLEAR (arXiv 2410.18057, appendix A) prints the
    division by |r|; a projection divides by |r|^2, which is what is done here. Its schedule is 400 epochs of
    forgetting and 100 of fine-tuning, hence until = 0.8.
    """

    until: float = 0.8

    def __post_init__(self) -> None:
        if not 0.0 <= self.until <= 1.0:
            raise ValueError(f"orthogonal: until must lie in 0..1, got {self.until}")

    def groups(self, objective: Objective) -> list[Objective]:
        return _beyond_and_retain(objective, "orthogonal")

    def coefficients(self, gram: Tensor, progress: float) -> Tensor:
        if progress >= self.until:
            return gram.new_tensor([0.0, 1.0])
        return torch.stack([gram.new_tensor(1.0), -_along(gram[0, 1], gram[1, 1])])

    def shown(self, equation: str) -> str:
        return f"orthogonal({equation}, until={number(self.until)})"


@dataclass(frozen=True)
class Conflict:
    """Where the two gradients contradict each other (<a, r> < 0), each loses its component along the other; then
    they are summed (PCGrad, arXiv 2001.06782, algorithm 1, for two tasks)."""

    def groups(self, objective: Objective) -> list[Objective]:
        return _beyond_and_retain(objective, "pcgrad")

    def coefficients(self, gram: Tensor, progress: float) -> Tensor:
        del progress
        product = gram[0, 1].clamp(max=0.0)
        return torch.stack([1.0 - _along(product, gram[0, 0]), 1.0 - _along(product, gram[1, 1])])

    def shown(self, equation: str) -> str:
        return f"pcgrad({equation})"


def _along(product: Tensor, square: Tensor) -> Tensor:
    """<a, r> / |r|^2, and 0 for r = 0."""
    return torch.where(square > 0, product / square.clamp(min=torch.finfo(square.dtype).tiny), 0.0)


def _beyond_and_retain(objective: Objective, name: str) -> list[Objective]:
    from .objective import Objective

    retain = tuple(w for w in objective.terms if w.term.views == (View.RETAIN,))
    beyond = tuple(w for w in objective.terms if w.term.views != (View.RETAIN,))
    if not retain or not beyond:
        raise ValueError(f"{name} weighs retain terms against others: it needs a term on RETAIN and one that is not")
    return [Objective(beyond), Objective(retain)]
