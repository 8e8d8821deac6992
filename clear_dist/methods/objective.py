"""The algebra: objectives are weighted sums of terms, and say what they need.

A **term** is a statistic on one view (``nll(FORGET)``) or on a pair of views bound example by example
(``dpo(IDK, FORGET)``). A **penalty** looks at parameters (``l1(LORA)``). A **weight** is a number or a schedule
over training (SCRUB's alternation). An **update rule** replaces "sum and step"; the default is :class:`Sum`.
Everything else in the toolkit follows from ``objective.needs``: collation, forward passes, reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from clear_dist.types import Hidden, TokenStats, View

from .rules import Sum, UpdateRule
from .schedules import Schedule
from .text import number

Stats = Mapping[View, TokenStats]
Want = str | Hidden
SUM = Sum()
ParameterSet = Literal["lora", "all"]

# Statistics that compare the student with the reference model.
REFERENCE_STATISTICS = frozenset(
    {
        "logp_ref",
        "log1mp_ref",
        "entropy_ref",
        "log_ratio",
        "cross_rest",
        "kl_forward",
        "kl_reverse",
        "js",
        "cosine",
        "l2",
    }
)
SEQUENCE = "sequence:"  # prefix of statistics over the tokens of whole sequences


def needs_reference(want: Want) -> bool:
    """Whether a statistic compares the student with the reference model."""
    if isinstance(want, Hidden):
        return want.target == "reference"
    name = want.removeprefix(SEQUENCE)
    return name in REFERENCE_STATISTICS or name.startswith("npo_vocab(")


@dataclass(frozen=True)
class Term:
    """One summand, without its weight.

    name: as printed, e.g. ``npo(FORGET, beta=0.5)``; views: what it looks at, several of them being bound example by
    example; wants: statistics it reads on every one of its views; value: (stats of its views, in order) -> this
    rank's part of the scalar.
    """

    name: str
    views: tuple[View, ...]
    wants: frozenset[Want]
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
        return f"{self.norm}({self.parameters.upper()}{'' if self.reduction == 'sum' else ', reduction=mean'})"


@dataclass(frozen=True)
class Needs:
    """What an objective asks of data and models.

    views: in a fixed order; wants: view -> statistics; reference: views on which the reference is evaluated;
    pairs: views bound example by example; depth: decoder blocks that have to be run, None for all and the head.
    """

    views: tuple[View, ...]
    wants: Mapping[View, frozenset[Want]]
    reference: frozenset[View]
    pairs: tuple[tuple[View, ...], ...] = ()
    depth: int | None = None

    @property
    def sequences(self) -> bool:
        """Whether anything looks at more than answer tokens."""
        return any(not isinstance(w, str) or w.startswith(SEQUENCE) for wants in self.wants.values() for w in wants)

    @property
    def layers(self) -> tuple[int, ...]:
        """Decoder blocks whose output is looked at."""
        return tuple(sorted({w.layer for wants in self.wants.values() for w in wants if isinstance(w, Hidden)}))


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms plus penalties, and the rule that turns it into an update.

    Objectives add, subtract and scale: ``nll(RETAIN) - 0.5 * nll(FORGET)``.
    """

    terms: tuple[Weighted, ...] = ()
    penalties: tuple[Penalty, ...] = ()
    rule: UpdateRule = SUM
    train_layers: tuple[int, ...] | None = None  # decoder blocks that are updated; None: all of them

    def __add__(self, other: Objective) -> Objective:
        rule = other.rule if isinstance(self.rule, Sum) else self.rule
        if not (isinstance(self.rule, Sum) or isinstance(other.rule, Sum)):
            raise ValueError("two update rules cannot be added; keep one")
        layers = self.train_layers if other.train_layers is None else other.train_layers
        if None not in (self.train_layers, other.train_layers) and self.train_layers != other.train_layers:
            raise ValueError("two terms ask for different layers to be trained")
        return Objective(self.terms + other.terms, self.penalties + other.penalties, rule, layers)

    def __sub__(self, other: Objective) -> Objective:
        return self + (-other)

    def __neg__(self) -> Objective:
        return -1.0 * self

    def __mul__(self, factor: float | Schedule) -> Objective:
        if isinstance(factor, (int, float)):
            if not math.isfinite(factor):
                raise ValueError(f"a weight must be finite, got {factor}")
            scaled = tuple(replace(w, factor=w.factor * factor) for w in self.terms)
            penalties = tuple(replace(p, factor=p.factor * factor) for p in self.penalties)
            if not all(math.isfinite(x.factor) for x in (*scaled, *penalties)):
                raise ValueError(f"a weight must be finite; times {number(factor)} it is not")
            return replace(self, terms=scaled, penalties=penalties)
        if self.penalties or any(w.schedule is not None for w in self.terms):
            raise ValueError("a schedule multiplies plain terms only, once")
        return replace(self, terms=tuple(replace(w, schedule=factor) for w in self.terms))

    __rmul__ = __mul__

    def ruled(self, rule: UpdateRule) -> Objective:
        """The same terms under an update rule. Raises ValueError where it does not fit them, or where they have one."""
        if not isinstance(self.rule, Sum):
            raise ValueError("one update rule cannot be put around another; keep one")
        rule.groups(self)
        return replace(self, rule=rule)

    def training(self, layers: tuple[int, ...]) -> Objective:
        """The same objective, updating only these decoder blocks."""
        return replace(self, train_layers=layers)

    @property
    def needs(self) -> Needs:
        wants: dict[View, frozenset[Want]] = {}
        for weighted in self.terms:
            for view in weighted.term.views:
                wants[view] = wants.get(view, frozenset()) | weighted.term.wants
        views = tuple(v for v in View if v in wants)
        reference = frozenset(v for v in views if any(map(needs_reference, wants[v])))
        pairs = tuple(dict.fromkeys(w.term.views for w in self.terms if len(w.term.views) > 1))
        blocks = [w.layer + 1 if isinstance(w, Hidden) else None for view in views for w in wants[view]]
        whole = None in blocks or not blocks
        return Needs(views, wants, reference, pairs, None if whole else max(b for b in blocks if b is not None))

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
        text = text.removeprefix("+ ").replace("- ", "-", 1) if text.startswith("- ") else text.removeprefix("+ ")
        return self.rule.shown(text)


def _signed(factor: float, name: str, schedule: str) -> str:
    scale = "" if abs(factor) == 1 else f"{number(abs(factor))}*"
    return f"{'-' if factor < 0 else '+'} {scale}{schedule + '*' if schedule else ''}{name}"
