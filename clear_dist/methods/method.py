"""A method: its equation, the variants of it that other code runs, and how settings become an objective."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from .hidden import match
from .objective import Objective
from .terms import RETAIN, kl, nll

Equation = Callable[..., Objective]
Setting = float | str | bool
Variant = Literal["paper", "clear_code", "tofu"]
VARIANTS: tuple[Variant, ...] = ("paper", "clear_code", "tofu")

# Retain terms that can be added to any method, all off by default; what a method has itself under the same name
# takes precedence.
COMMON: Mapping[str, Setting] = {"retain_weight": 0.0, "kl_weight": 0.0, "match_weight": 0.0, "match_layer": 7}


@dataclass(frozen=True)
class Method:
    """paper: the equation as published; clear_code, tofu: what these code bases run where it differs."""

    paper: Equation
    clear_code: Equation | None = None
    tofu: Equation | None = None

    def equation(self, variant: Variant = "paper") -> Equation:
        """The function of a variant; the paper's where that code does the same."""
        other = {"paper": None, "clear_code": self.clear_code, "tofu": self.tofu}[variant]
        return self.paper if other is None else other

    def hyperparameters(self, variant: Variant = "paper") -> dict[str, Setting]:
        """The equation's own hyperparameters -> defaults, in its order."""
        return {k: p.default for k, p in inspect.signature(self.equation(variant)).parameters.items()}

    def settings(self, variant: Variant = "paper") -> dict[str, Setting]:
        """All that ``--set`` takes -> defaults: its own hyperparameters, then the common retain terms."""
        return {**self.hyperparameters(variant), **{k: v for k, v in COMMON.items() if k not in self._own(variant)}}

    def build(self, given: Mapping[str, Setting] | None = None, variant: Variant = "paper") -> Objective:
        """The objective, with hyperparameters overridden.

        Raises:
            KeyError: a hyperparameter that the method does not have. ValueError: a value out of range or of the
            wrong kind.
        """
        known = self.settings(variant)
        values = {name: _like(name, known[name], value) for name, value in (given or {}).items()}
        own = self.hyperparameters(variant)
        objective = self.equation(variant)(**{k: v for k, v in values.items() if k in own})
        extra = {k: values.get(k, v) for k, v in COMMON.items() if k not in own}
        if weight := extra.get("retain_weight"):
            objective = objective + float(weight) * nll(RETAIN)
        if weight := extra.get("kl_weight"):
            objective = objective + float(weight) * kl(RETAIN, direction="forward")
        if weight := extra.get("match_weight"):
            objective = objective + float(weight) * match(RETAIN, layer=int(extra["match_layer"]))
        return objective

    @property
    def about(self) -> str:
        """The equation's docstring, first paragraph, on one line."""
        return (inspect.getdoc(self.paper) or "").split("\n\n")[0].replace("\n", " ")

    def _own(self, variant: Variant) -> dict[str, Setting]:
        return self.hyperparameters(variant)


def _like(name: str, default: Setting, value: Setting) -> Setting:
    """``value`` as the kind ``default`` is. Raises ValueError, naming the hyperparameter, where it cannot be."""
    if isinstance(default, bool):
        if value in (0, 1, "true", "false", "True", "False"):
            return value in (1, "true", "True")
        raise ValueError(f"{name} is {value!r}; expected true or false")
    if isinstance(default, str):
        if isinstance(value, str):
            return value
        raise ValueError(f"{name} is {value!r}; expected a word such as {default}")
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is {value!r}; expected a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r}; expected a finite number")
    if isinstance(default, int):
        if number != int(number):
            raise ValueError(f"{name} is {value!r}; expected a whole number")
        return int(number)
    return number
