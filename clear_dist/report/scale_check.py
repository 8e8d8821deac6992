"""Whether scale_study.json holds what its page relies on: each field there, of its kind, each figure one to draw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clear_dist.types import UserError

COLUMNS = ("model", "gpus", "stage", "method", "mix", "scaling")
SCALINGS = ("strong", "weak")
LEAST, MOST = 1e-15, 1e30  # of a figure that is not zero: their quotients and squares are floats
MOST_GPUS = 10**6
_FIELDS = (*COLUMNS, "predicted", "measured", "why")
_SPEEDS = {"step_s": False, "tokens_per_s": False, "images_per_s": True, "mfu": True}  # whether it may be zero


def check_study(content: Mapping[str, Any], file: Path) -> None:
    """Raises UserError, naming file and field."""
    for name in ("machine", "gpu", "grid"):
        _check(isinstance(content[name], dict), f"{file}: {name}", "an object", content[name])
    _text(content["baseline"], f"{file}: baseline")
    _text(content["gpu"].get("name"), f"{file}: gpu.name")
    _figure(content["gpu"].get("memory_bytes"), f"{file}: gpu.memory_bytes")
    left_out, rows = content["left_out"], content["rows"]
    _check(isinstance(left_out, list), f"{file}: left_out", "a list of texts", left_out)
    for number, line in enumerate(left_out):
        _text(line, f"{file}: left_out[{number}]")
    _check(isinstance(rows, list) and bool(rows), f"{file}: rows", "a list of at least one", rows)
    for number, row in enumerate(rows):
        _row(row, f"{file}: rows[{number}]")


def _row(row: Any, where: str) -> None:
    _check(isinstance(row, dict), where, "an object", row)
    if lacking := [name for name in _FIELDS if name not in row]:
        raise UserError(f"{where}.{lacking[0]} is missing")
    for name in ("model", "stage", "method", "mix"):
        _text(row[name], f"{where}.{name}")
    gpus = row["gpus"]
    fits = isinstance(gpus, int) and not isinstance(gpus, bool) and 0 < gpus <= MOST_GPUS
    _check(fits, f"{where}.gpus", f"a whole number from 1 to {MOST_GPUS:,}", gpus)
    _check(row["scaling"] in SCALINGS, f"{where}.scaling", " or ".join(SCALINGS), row["scaling"])
    if row["why"] is not None:
        _text(row["why"], f"{where}.why")
    plan, real = row["predicted"], row["measured"]
    _check(isinstance(plan, dict), f"{where}.predicted", "an object", plan)
    for name in ("fits", "recomputes"):
        _check(isinstance(plan.get(name), bool), f"{where}.predicted.{name}", "true or false", plan.get(name))
    _figures(plan, f"{where}.predicted")
    if real is not None:
        _check(isinstance(real, dict), f"{where}.measured", "an object or null", real)
        _figures(real, f"{where}.measured")


def _figures(part: Mapping[str, Any], where: str) -> None:
    _figure(part.get("peak_bytes"), f"{where}.peak_bytes")
    for name, zero in _SPEEDS.items():
        if name not in part:
            raise UserError(f"{where}.{name} is missing")
        if part[name] is not None:
            _figure(part[name], f"{where}.{name}", zero=zero)


def _figure(value: Any, where: str, *, zero: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = number and (LEAST <= value <= MOST or (zero and value == 0))
    _check(fits, where, "a number of at least zero" if zero else "a number above zero", value)


def _text(value: Any, where: str) -> None:
    _check(isinstance(value, str), where, "a text", value)


def _check(fits: bool, where: str, wanted: str, found: Any) -> None:
    if not fits:
        raise UserError(f"{where}: expected {wanted}, got {found!r}; run clear-dist scale-study again")
