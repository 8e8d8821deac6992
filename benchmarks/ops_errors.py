"""Errors of value and gradient in ``bench_ops``, against float64 of the same rounded inputs.

On the first 32 rows of a case, relative in the Frobenius norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.ops_calls import Budget, forward, forward_backward, reason_of
from benchmarks.ops_cases import CHECK_ROWS, COMPARING, Case, Inputs, make_inputs
from benchmarks.ops_peers import Variant, truth

WRONG = {"fp32": 1e-2, "bf16": 0.5}  # error at CHECK_KL beyond which something else is computed
CHECK_KL = 0.1


@dataclass
class Truth:
    """Value and gradient in float64 of the first rows of a case, for rows and for their mean."""

    case: Case
    inputs: Inputs  # with gradients, in the case's dtype
    by_row: tuple[Tensor, Sequence[Tensor]]
    by_mean: tuple[Tensor, Sequence[Tensor]]

    @classmethod
    def of(cls, case: Case, x: Inputs) -> Truth:
        small = x.rows(CHECK_ROWS)
        exact = small.each(lambda t: t.double()).with_gradients()
        rows = forward_backward(Variant("truth", lambda x: truth(case, x)), exact)
        mean = forward_backward(Variant("truth", lambda x: truth(case, x).mean(), mean=True), exact)
        return cls(case, small.with_gradients(), rows, mean)

    def errors(self, variant: Variant) -> tuple[float, float]:
        """Relative errors of value and gradient."""
        value, gradients = forward_backward(variant, self.inputs)
        expected, exact = self.by_mean if variant.mean else self.by_row
        return relative([value], [expected]), relative(gradients, exact)


def relative(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """|found - exact| / |exact| over all tensors together."""
    gap = sum(float((f.double() - e).square().sum()) for f, e in zip(found, exact, strict=True))
    size = sum(float(e.square().sum()) for e in exact)
    return (gap / size) ** 0.5 if size else float(gap > 0)


class WrongResult(ValueError):
    """A variant computes something else."""


class Check:
    """Errors of a case's variants, at the case's own divergence of student and reference.

    Each must first be about right where anybody is, at 0.1 nats: what is not computes something else.
    """

    def __init__(self, case: Case, x: Inputs, device: torch.device) -> None:
        self.case, self.own = case, Truth.of(case, x)
        self.easy = self.own
        if case.op in COMPARING:
            self.easy = Truth.of(case, make_inputs(small_case(case), device, kl=CHECK_KL))

    def errors(self, variant: Variant) -> tuple[float, float]:
        """Relative errors of value and gradient.

        Raises:
            WrongResult: the variant is not about right where it must be.
        """
        worst = max(self.easy.errors(variant))
        if not worst <= WRONG[self.case.dtype]:
            raise WrongResult(f"relative error {worst:.1e} at {CHECK_KL} nats")
        return self.own.errors(variant)


def small_case(case: Case) -> Case:
    return replace(case, T=min(case.T, CHECK_ROWS))


def error_curve(
    case: Case, found: Sequence[Variant], kls: Sequence[float], device: torch.device, budget: Budget
) -> list[dict[str, Any]]:
    """Errors of every variant with students nearer and nearer to the reference. Stops where time does."""
    out: list[dict[str, Any]] = []
    for kl in kls:
        exact = Truth.of(case, make_inputs(small_case(case), device, kl=kl))
        reached = float(forward(Variant("truth", lambda x: truth(case, x)), exact.inputs).mean())
        for variant in found:
            if variant.skip or variant.run is None:
                continue
            if budget.left <= 0:
                return out
            try:
                value, gradient = exact.errors(variant)
            except Exception as error:
                reason_of(error, device)
                continue
            row = {"op": case.op, "kind": case.kind, "impl": variant.name, "dtype": case.dtype, "T": exact.case.T}
            row |= {"D": case.D, "V": case.V, "kl": reached, "value_rel_err": value, "grad_rel_err": gradient}
            out.append(row)
    return out
