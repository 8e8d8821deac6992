"""The algebra: objectives are weighted sums of terms, and say what they need.

A **term** is a statistic on one view (``nll(FORGET)``) or on a pair of views bound example by example
(``dpo(IDK, FORGET)``). A **penalty** looks at parameters (``l1(LORA)``). A **weight** is a number or a schedule
over training (SCRUB's alternation). An **update rule** replaces "sum and step"; the default is :class:`Sum`.
Everything else in the toolkit follows from ``objective.needs``: collation, forward passes, reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from clear_dist.types import TokenStats, View

Stats = Mapping[View, TokenStats]
ParameterSet = Literal["lora", "all"]

# Statistics that compare the student with the reference model.
REFERENCE_STATISTICS = frozenset({"logp_ref", "kl_forward", "kl_reverse", "js"})


class Schedule(Protocol):
    """A weight that changes over training."""

    def at(self, progress: float) -> float:
        """The factor at ``progress`` = step / total steps, in [0, 1)."""
        ...


@dataclass(frozen=True)
class Until:
    """1 until a fraction of training is done, 0 afterwards (SCRUB: forget first, then only repair)."""

    fraction: float

    def at(self, progress: float) -> float:
        return 1.0 if progress < self.fraction else 0.0

    def __str__(self) -> str:
        return f"until({self.fraction:g})"


@dataclass(frozen=True)
class Term:
    """One summand, without its weight.

    name: as printed, e.g. ``npo(FORGET, beta=0.5)``; views: what it looks at; wants: per-token statistics it
    reads on every one of its views; value: (stats of its views, in order) -> this rank's part of the scalar.
    """

    name: str
    views: tuple[View, ...]
    wants: frozenset[str]
    value: Callable[..., Tensor] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Weighted:
    """factor x schedule x term."""

    term: Term
    factor: float = 1.0
    schedule: Schedule | None = None

    def weight(self, progress: float) -> float:
        return self.factor * (1.0 if self.schedule is None else self.schedule.at(progress))


@dataclass(frozen=True)
class Penalty:
    """factor x norm of the trainable parameters: ``l1``, as a sum or a mean over their elements.

    Independent of the data, hence of batch size, ranks and accumulation: the engine adds its gradient once
    per optimiser step, from the local shards under ZeRO.
    """

    norm: Literal["l1"]
    parameters: ParameterSet
    reduction: Literal["sum", "mean"] = "sum"
    factor: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.norm}({self.parameters.upper()}, {self.reduction})"


class UpdateRule(Protocol):
    """How gradients become an update. ``groups`` says which parts of the objective need a gradient of their own;
    ``combine`` turns these (each a list of local shards) into one, given an all-reduced inner product."""

    def groups(self, objective: Objective) -> list[Objective]: ...

    def combine(
        self, gradients: list[list[Tensor]], dot: Callable[[list[Tensor], list[Tensor]], Tensor]
    ) -> list[Tensor]: ...


@dataclass(frozen=True)
class Sum:
    """The default: one gradient, that of the sum."""

    def groups(self, objective: Objective) -> list[Objective]:
        return [objective]

    def combine(
        self, gradients: list[list[Tensor]], dot: Callable[[list[Tensor], list[Tensor]], Tensor]
    ) -> list[Tensor]:
        del dot
        return gradients[0]


@dataclass(frozen=True)
class Needs:
    """What an objective asks of data and models.

    views: in a fixed order; wants: view -> statistics; reference: views on which the reference is evaluated.
    """

    views: tuple[View, ...]
    wants: Mapping[View, frozenset[str]]
    reference: frozenset[View]


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms plus penalties, and the rule that turns it into an update.

    Objectives add, subtract and scale: ``nll(RETAIN) - 0.5 * nll(FORGET)``.
    """

    terms: tuple[Weighted, ...] = ()
    penalties: tuple[Penalty, ...] = ()
    rule: UpdateRule = Sum()

    def __add__(self, other: Objective) -> Objective:
        rule = other.rule if isinstance(self.rule, Sum) else self.rule
        if not (isinstance(self.rule, Sum) or isinstance(other.rule, Sum)):
            raise ValueError("two update rules cannot be added; keep one")
        return Objective(self.terms + other.terms, self.penalties + other.penalties, rule)

    def __sub__(self, other: Objective) -> Objective:
        return self + (-other)

    def __neg__(self) -> Objective:
        return -1.0 * self

    def __mul__(self, factor: float | Schedule) -> Objective:
        if isinstance(factor, (int, float)):
            scaled = tuple(replace(w, factor=w.factor * factor) for w in self.terms)
            penalties = tuple(replace(p, factor=p.factor * factor) for p in self.penalties)
            return replace(self, terms=scaled, penalties=penalties)
        if self.penalties or any(w.schedule is not None for w in self.terms):
            raise ValueError("a schedule multiplies plain terms only, once")
        return replace(self, terms=tuple(replace(w, schedule=factor) for w in self.terms))

    __rmul__ = __mul__

    @property
    def needs(self) -> Needs:
        wants: dict[View, frozenset[str]] = {}
        for weighted in self.terms:
            for view in weighted.term.views:
                wants[view] = wants.get(view, frozenset()) | weighted.term.wants
        views = tuple(v for v in View if v in wants)
        reference = frozenset(v for v in views if wants[v] & REFERENCE_STATISTICS)
        return Needs(views, wants, reference)

    def __call__(self, stats: Stats, progress: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, parts): this rank's share of the scalar, and each term's unweighted share, detached.

        Shares add up over ranks and accumulation steps to the value of the equation on the global batch.
        A term whose weight is 0 at this moment is left out of the sum but still reported.
        """
        loss: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for weighted in self.terms:
            value = weighted.term.value(*(stats[v] for v in weighted.term.views))
            name = weighted.term.name
            parts[name] = parts.get(name, torch.zeros_like(value.detach())) + value.detach()
            weight = weighted.weight(progress)
            # Multiplying by 0 keeps the graph connected (every rank must run the same backward), but 0 * inf
            # would poison it: nan_to_num guards exactly that case.
            share = weight * value if weight != 0.0 else 0.0 * torch.nan_to_num(value)
            loss = share if loss is None else loss + share
        if loss is None:
            raise ValueError("an objective needs at least one term")
        return loss, parts

    def __str__(self) -> str:
        pieces: list[str] = []
        for weighted in self.terms:
            pieces.append(_signed(weighted.factor, weighted.term.name, str(weighted.schedule or "")))
        pieces += [_signed(p.factor, p.name, "") for p in self.penalties]
        text = " ".join(pieces)
        return text.removeprefix("+ ").replace("- ", "-", 1) if text.startswith("- ") else text.removeprefix("+ ")


def _signed(factor: float, name: str, schedule: str) -> str:
    scale = "" if abs(factor) == 1 else f"{abs(factor):g}*"
    return f"{'-' if factor < 0 else '+'} {scale}{schedule + '*' if schedule else ''}{name}"
