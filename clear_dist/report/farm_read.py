"""Reads what the attack on a farm of vision models left in a folder.

``attack.json`` must be there. ``curves.json``, ``examples.csv`` and ``run.json`` may be absent, which is then said; a
file that is there but broken is refused, so that no figure is drawn from half of one.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

from clear_dist.report.attack_file import ATTACKS, Share, Vision, read_attack, read_share
from clear_dist.report.run import read_json
from clear_dist.types import UserError

ATTACK_FILE, CURVES_FILE, EXAMPLES_FILE, RUN_FILE = "attack.json", "curves.json", "examples.csv", "run.json"
ESTIMATORS = ("mad", "std", "pooled", "global")
SIDES = ("forget", "holdout", "never")
WATCHED = ("forget_acc", "holdout_acc", "retain_acc", "u_lira")


@dataclass(frozen=True)
class Detail:
    """What an attack found on one row besides its accuracy.

    tpr: false positive rate as it is written ("0.01") -> true positive rate; None where there are too few never-seen
    models to tell. estimators: variance estimator -> accuracy. variance: the estimator of the headline figure.
    """

    auc: Share | None
    tpr: Mapping[str, Share | None]
    estimators: Mapping[str, Share]
    variance: str | None


@dataclass(frozen=True)
class Moment:
    """One row's figures after so many epochs of unlearning, averaged over its models. figures: those of WATCHED."""

    epoch: float
    figures: Mapping[str, Share]


@dataclass(frozen=True)
class Densities:
    """Histograms of logits. edges [B + 1], ascending; sides: "forget", "holdout", "never" -> densities [B]."""

    edges: tuple[float, ...]
    sides: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Example:
    """One picture under attack on one row: how often each attack was right about it, over target models."""

    method: str
    id: str
    identity: str
    u_lira: float | None
    u_mia: float | None


Points = tuple[tuple[float, float], ...]  # (false positive rate, true positive rate), ascending


@dataclass(frozen=True)
class FarmData:
    """The folder as its files tell it; ``details``, ``roc``: row -> attack ("u_lira", "u_mia") -> what it found."""

    folder: Path
    name: str
    rows: Mapping[str, Vision]
    details: Mapping[str, Mapping[str, Detail]]
    roc: Mapping[str, Mapping[str, Points]] = field(default_factory=dict)
    densities: Mapping[str, Densities] = field(default_factory=dict)
    epochs: Mapping[str, tuple[Moment, ...]] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()

    def row(self, name: str) -> Vision | None:
        """A row by its name in any case: "original", "gold"."""
        return next((row for key, row in self.rows.items() if key.lower() == name), None)


def is_farm(folder: Path) -> bool:
    """Whether a directory holds an attack on a farm, and nothing of a run that was evaluated in words."""
    return (folder / ATTACK_FILE).is_file() and not (folder / "summary.json").is_file()


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected an object, got {type(value).__name__}; run the attack again")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where}: expected a list, got {type(value).__name__}; run the attack again")
    return value


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _numbers(value: Any, where: str, fits: Callable[[float], bool] = math.isfinite) -> tuple[float, ...]:
    numbers = _list(value, where)
    if bad := [v for v in numbers if not _is_number(v) or not fits(v)]:
        raise UserError(f"{where}: {bad[0]!r} cannot stand here; run the attack again")
    return tuple(map(float, numbers))


def _detail(value: Any, where: str) -> Detail:
    part = _object(value, where)
    tpr = _object(part.get("tpr_at_fpr"), f"{where}.tpr_at_fpr")
    if bad := [rate for rate in tpr if not _is_rate(rate)]:
        raise UserError(f"{where}.tpr_at_fpr: {bad[0]!r} is no rate between 0 and 1; run the attack again")
    estimators = _object(part.get("estimators"), f"{where}.estimators")
    read = {name: read_share(v, f"{where}.estimators.{name}") for name, v in estimators.items()}
    variance = part.get("variance")
    return Detail(
        read_share(part.get("auc"), f"{where}.auc"),
        {rate: read_share(v, f"{where}.tpr_at_fpr.{rate}") for rate, v in tpr.items()},
        {name: v for name, v in read.items() if v is not None},
        variance if isinstance(variance, str) else None,
    )


def _is_rate(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


def _points(value: Any, where: str) -> Points:
    pairs = [_numbers(pair, f"{where}[{i}]", lambda v: 0 <= v <= 1) for i, pair in enumerate(_list(value, where))]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{where}: expected [[fpr, tpr], ...]; run the attack again")
    return tuple(sorted((x, y) for x, y in pairs))


def _densities(value: Any, where: str) -> Densities | None:
    part = _object(value, where)
    if not part:
        return None
    edges = _numbers(part.get("bins"), f"{where}.bins")
    if len(edges) < 2 or any(a >= b for a, b in pairwise(edges)):
        raise UserError(f"{where}.bins: expected at least two ascending edges; run the attack again")
    sides = {s: _numbers(part[s], f"{where}.{s}", lambda v: v >= 0) for s in SIDES if part.get(s) is not None}
    for side, values in sides.items():
        if len(values) != len(edges) - 1:
            raise UserError(
                f"{where}.{side}: expected {len(edges) - 1} densities, one a bin, got {len(values)}; run the attack "
                "again"
            )
    return Densities(edges, sides)


def _moment(value: Any, where: str) -> Moment:
    part = _object(value, where)
    epoch = part.get("epoch")
    if not _is_number(epoch) or epoch < 0:
        raise UserError(f"{where}.epoch: expected a number of epochs, got {epoch!r}; run the attack again")
    found = {name: read_share(part.get(name), f"{where}.{name}") for name in WATCHED}
    return Moment(float(epoch), {name: v for name, v in found.items() if v is not None})


def _epochs(value: Any, where: str) -> tuple[Moment, ...]:
    moments = [_moment(v, f"{where}[{i}]") for i, v in enumerate(_list(value, where))]
    return tuple(sorted(moments, key=lambda m: m.epoch))


def _examples(path: Path) -> tuple[Example, ...]:
    out = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            lacking = [c for c in ("method", "id", "identity", *ATTACKS) if c not in (reader.fieldnames or ())]
            if lacking:
                raise UserError(f"{path}: column {lacking[0]!r} is missing; run the attack again")
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(f"{where}: expected {len(reader.fieldnames or ())} fields; run the attack again")
                right = {name: _right(row[name], f"{where}: {name}") for name in ATTACKS}
                out.append(Example(row["method"], row["id"], row["identity"], right["u_lira"], right["u_mia"]))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from error
    return tuple(out)


def _right(text: str, where: str) -> float | None:
    """A share in [0, 1]; None for an example that does not count."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise UserError(f"{where}: {text!r} is no number; run the attack again") from error
    if not 0 <= value <= 1:
        raise UserError(f"{where}: expected a share between 0 and 1, got {text!r}; run the attack again")
    return value


def read_farm(folder: Path) -> FarmData:
    """Raises UserError where attack.json is absent, or a file of the folder is broken: names file and field."""
    path = folder / ATTACK_FILE
    rows = read_attack(path)
    whole = read_json(path)
    details = {m: {a: _detail(whole[m].get(a), f"{path}: {m}.{a}") for a in ATTACKS if whole[m].get(a)} for m in rows}
    gaps = [
        f"There is no row for {name}: {why}."
        for name, why in (
            ("original", "whether the attack works at all, and what retain was, cannot be said"),
            ("gold", "what the attack finds where there is nothing to find is not known"),
        )
        if name not in map(str.lower, rows)
    ]

    curves: Mapping[str, Any] = {}
    if (path := folder / CURVES_FILE).is_file():
        curves = read_json(path)
    else:
        gaps.append(f"{CURVES_FILE} is absent: no ROC curves, distributions of logits or epochs are shown.")
    part = {k: _object(curves.get(k), f"{path}: {k}") for k in ("roc", "distributions", "epochs")}
    roc = {
        m: {a: _points(v[a], f"{path}: roc.{m}.{a}") for a in ATTACKS if v.get(a)}
        for m, value in part["roc"].items()
        if (v := _object(value, f"{path}: roc.{m}"))
    }
    densities = {m: _densities(v, f"{path}: distributions.{m}") for m, v in part["distributions"].items()}
    epochs = {m: _epochs(v, f"{path}: epochs.{m}") for m, v in part["epochs"].items()}

    examples: tuple[Example, ...] = ()
    if (folder / EXAMPLES_FILE).is_file():
        examples = _examples(folder / EXAMPLES_FILE)
    else:
        gaps.append(f"{EXAMPLES_FILE} is absent: which pictures are most exposed is not shown.")
    facts: Mapping[str, Any] = {}
    if (folder / RUN_FILE).is_file():
        facts = read_json(folder / RUN_FILE)
    else:
        gaps.append(f"{RUN_FILE} is absent: settings, numbers of models and missing tasks are not shown.")
    return FarmData(
        folder, folder.resolve().name, rows, details, roc, {m: d for m, d in densities.items() if d is not None},
        {m: e for m, e in epochs.items() if e}, examples, facts, tuple(gaps),
    )  # fmt: skip
