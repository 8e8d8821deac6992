"""Whom a table's row is about: a model of one run, or a method over several seeds. Figures are looked up alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from clear_dist.metrics.interval import Estimate
from clear_dist.metrics.record import Record, control_name, is_paper_row
from clear_dist.metrics.truth_ratio import Mean, record_ratio
from clear_dist.report.run import RunData
from clear_dist.types import UserError

Block = Mapping[str, Any]
DOTS = {"original": 0, "run": 1, "gold": 2, "other": 3}


@dataclass(frozen=True)
class Subject:
    """blocks: a model's part of summary.json, one a seed. controls: the same of its shuffled-pictures control, where
    there is one. ratios: forget row -> ln of its truth ratio, of the first seed, by the geometric and the arithmetic
    mean over wrong answers. anchor: the id of the place on the page that tells of it."""

    name: str
    role: Literal["original", "run", "gold", "other"]
    blocks: tuple[Block, ...]
    controls: tuple[Block, ...] = ()
    ratios: Mapping[Mean, Mapping[str, float]] = field(default_factory=dict)
    anchor: str = ""

    @property
    def dot(self) -> int:
        return DOTS[self.role]

    def estimate(self, *path: str) -> Estimate | None:
        """A figure of the summary; over several seeds their median, and the lowest and the highest for an interval."""
        return combine(Estimate.of(at(block, *path)) for block in self.blocks)

    def control(self, *path: str) -> Estimate | None:
        return combine(Estimate.of(at(block, *path)) for block in self.controls)

    def number(self, *path: str) -> float | None:
        """A plain number of the summary; the median over seeds. Raises UserError where it is none."""
        found = []
        for block in self.blocks:
            value = at(block, *path)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"summary of {self.name}: {'.'.join(path)} must be a number or null, got {value!r}")
            found.append(float(value))
        return median(found) if found else None

    def keys(self, *path: str) -> list[str]:
        """Names of the entries of an object of the summary, in order, over all seeds."""
        objects = [found for block in self.blocks if isinstance(found := at(block, *path), Mapping)]
        return list(dict.fromkeys(key for found in objects for key in found))


def at(block: object, *path: str) -> Any:
    """What lies at a path of nested objects; None where anything on the way is absent."""
    for name in path:
        if not isinstance(block, Mapping):
            return None
        block = block.get(name)
    return block


def combine(values: Iterable[Estimate | None]) -> Estimate | None:
    """Of one figure itself; of several the median, the lowest and the highest, and their examples together."""
    found = [v for v in values if v is not None]
    if len(found) < 2:
        return found[0] if found else None
    middle = [v.value for v in found]
    notes = list(dict.fromkeys(v.note for v in found if v.note))
    return Estimate(median(middle), min(middle), max(middle), sum(v.n for v in found), "; ".join(notes) or None)


def log_ratios(records: Iterable[Record]) -> dict[Mean, dict[str, float]]:
    """Forget row -> ln R, for both means over wrong answers; rows as forget quality takes them.

    Where no log-probabilities were kept (imported logs) the stored score stands in for the geometric one.
    """
    out: dict[Mean, dict[str, float]] = {"geometric": {}, "arithmetic": {}}
    for record in records:
        if record.set != "forget" or not is_paper_row(record):
            continue
        means: tuple[Mean, Mean] = ("geometric", "arithmetic")
        for mean in means:
            ratio = record_ratio(record, mean)
            if ratio is not None and ratio > 0:
                out[mean][record.id] = math.log(ratio)
    return out


def subjects_of(run: RunData) -> list[Subject]:
    """The models of one run, in reading order."""
    out = []
    for model in run.models:
        role = "run" if model == run.candidate else model if model in ("original", "gold") else "other"
        control = run.block(control_name(model))
        block = run.block(model)
        assert block is not None
        ratios = log_ratios(r for r in run.records if r.model == model)
        out.append(Subject(model, role, (block,), () if control is None else (control,), ratios))  # pyright: ignore[reportArgumentType]
    return out


def with_role(subjects: Sequence[Subject], role: str) -> Subject | None:
    """The first subject of a role."""
    return next((s for s in subjects if s.role == role), None)
