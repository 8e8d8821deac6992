"""attack.json: what membership attacks on a farm of vision models found, method by method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clear_dist.report.run import read_json
from clear_dist.types import UserError

FIELDS = ("forget_acc", "holdout_acc", "retain_acc")
ATTACKS = ("u_lira", "u_mia")


@dataclass(frozen=True)
class Share:
    """A share in [0, 1], its 95% interval where there is one, and on how many models or pictures it rests."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Vision:
    """Identification accuracies, and how often an attack tells forgotten from never seen (.5: chance)."""

    forget_acc: Share | None
    holdout_acc: Share | None
    retain_acc: Share | None
    u_lira: Share | None
    u_mia: Share | None


def read_share(value: Any, where: str) -> Share | None:
    """A number, or {"value", "ci": [low, high] or null, "n"}; None stays None. Raises UserError naming ``where``."""
    if value is None:
        return None
    low = high = n = None
    if isinstance(value, Mapping):
        bounds = value.get("ci")
        if bounds is not None:
            if not isinstance(bounds, list) or len(bounds) != 2:
                raise UserError(f"{where}.ci: expected [low, high], got {bounds!r}; run the attack again")
            low, high = bounds
        n = value.get("n")
        value = value.get("value")
    numbers = [value] if low is None and high is None else [value, low, high]
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not 0 <= v <= 1 for v in numbers):
        raise UserError(f"{where}: expected a share between 0 and 1, got {numbers!r}; run the attack again")
    if low is not None and high is not None and low > high:
        raise UserError(f"{where}.ci: the lower end, {low!r}, lies above the upper one, {high!r}; run the attack again")
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 0):
        raise UserError(f"{where}.n: expected a count, got {n!r}; run the attack again")
    return Share(float(value), None if low is None else float(low), None if high is None else float(high), n)


def read_attack(path: Path) -> dict[str, Vision]:
    """Method -> its figures; what is absent is None. Raises UserError naming file, method and field."""
    out = {}
    for method, row in read_json(path).items():
        if method == "v":
            continue
        if not isinstance(row, Mapping):
            raise UserError(f"{path}: {method}: expected an object, got {type(row).__name__}")
        found = {name: read_share(row.get(name), f"{path}: {method}.{name}") for name in FIELDS}
        for name in ATTACKS:
            part = row.get(name)
            if part is not None and not isinstance(part, Mapping):
                raise UserError(f"{path}: {method}.{name}: expected an object, got {part!r}")
            found[name] = read_share((part or {}).get("accuracy"), f"{path}: {method}.{name}.accuracy")
        out[str(method)] = Vision(**found)
    if not out:
        raise UserError(f"{path}: holds no method; run the attack again")
    return out
