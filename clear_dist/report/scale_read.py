"""scale_study.json, read for a report: rows picked by their columns, and how their figures are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from clear_dist.report.run import read_json
from clear_dist.report.scale_check import COLUMNS, check_study
from clear_dist.types import UserError

Kind = Literal["predicted", "measured"]
KINDS: tuple[Kind, Kind] = ("predicted", "measured")
NO_FIT = "does not fit"
_TOP = ("machine", "gpu", "grid", "baseline", "left_out", "rows")


@dataclass(frozen=True)
class ScaleData:
    """rows: as they are in the file; the lists are in the grid's order, of what its rows hold. compared: the scaling
    whose speeds are shown: weak where there is one, for every GPU then has the same to do."""

    rows: tuple[Mapping[str, Any], ...]
    models: tuple[str, ...]
    stages: tuple[str, ...]
    methods: tuple[str, ...]
    mixes: tuple[str, ...]
    baseline: str
    gpu: Mapping[str, Any]
    machine: Mapping[str, Any]
    grid: Mapping[str, Any]
    left_out: tuple[str, ...]

    def pick(self, **wanted: object) -> list[Mapping[str, Any]]:
        """Rows whose columns are these, by number of GPUs."""
        found = [row for row in self.rows if all(row[name] == value for name, value in wanted.items())]
        return sorted(found, key=lambda row: row["gpus"])

    def has(self, scaling: str) -> bool:
        return any(row["scaling"] == scaling for row in self.rows)

    @property
    def devices(self) -> str:
        """What there are several of."""
        return "ranks" if self.gpu["name"] == "cpu" else "GPUs"

    @property
    def compared(self) -> str:
        return "weak" if self.has("weak") else "strong"

    @property
    def measured(self) -> list[Mapping[str, Any]]:
        return [row for row in self.rows if row["measured"] is not None]

    @property
    def failed(self) -> list[Mapping[str, Any]]:
        """Rows that were to be measured and came to nothing."""
        tried = ("failed", "ran out of memory", "gave no result", "a rank ended")
        return [row for row in self.rows if row["measured"] is None and (row["why"] or "").startswith(tried)]


def read_study(folder: Path) -> ScaleData:
    """Raises UserError, naming file and field, where scale_study.json is absent or broken."""
    file = folder / "scale_study.json"
    if not file.is_file():
        raise UserError(f"{file}: cannot be read (there is none); clear-dist scale-study writes it")
    content = read_json(file)
    if missing := [name for name in _TOP if name not in content]:
        raise UserError(f"{file}: {missing[0]} is missing; clear-dist scale-study writes it")
    check_study(content, file)
    rows = tuple(content["rows"])
    return ScaleData(
        rows=rows,
        **{f"{name}s": tuple(dict.fromkeys(row[name] for row in rows)) for name in ("model", "stage", "method")},
        mixes=tuple(dict.fromkeys(row["mix"] for row in rows)),
        baseline=content["baseline"],
        gpu=content["gpu"],
        machine=content["machine"],
        grid=content["grid"],
        left_out=tuple(content["left_out"]),
    )


def value(row: Mapping[str, Any], kind: Kind, field: str) -> float | None:
    """A figure of a row; None where there is none. A speed of what does not fit is none."""
    found = row[kind]
    if found is None or (field != "peak_bytes" and not found.get("fits", True)):
        return None
    return found[field]


def line(rows: Iterable[Mapping[str, Any]], kind: Kind, field: str) -> list[tuple[int, float]]:
    """(GPUs, figure) of the rows that have one."""
    return [(row["gpus"], found) for row in rows if (found := value(row, kind, field)) is not None]


def scaled(points: Sequence[tuple[int, float]], how: Literal["strong", "weak"]) -> list[tuple[int, float]]:
    """Tokens/s as scaling, beside the fewest GPUs N0 that have a figure. strong: N0 x T(N) / T(N0), ideally N; weak:
    T(N) / N by T(N0) / N0 in percent, ideally 100."""
    if not points:
        return []
    first, speed = points[0]
    if how == "strong":
        return [(n, first * found / speed) for n, found in points]
    return [(n, 100 * (found / n) / (speed / first)) for n, found in points]


@dataclass(frozen=True)
class Ratio:
    """Of several: the middle one, and the ends."""

    middle: float
    low: float
    high: float
    count: int


def ratio_of(values: Sequence[float]) -> Ratio | None:
    return Ratio(median(values), min(values), max(values), len(values)) if values else None


def costs(data: ScaleData, method: str, model: str, kind: Kind, field: str) -> Ratio | None:
    """A method's figure by the baseline's, over all rows of a model that have both."""
    key = [name for name in COLUMNS if name != "method"]
    base = {tuple(r[k] for k in key): value(r, kind, field) for r in data.pick(model=model, method=data.baseline)}
    found = []
    for row in data.pick(model=model, method=method):
        mine, theirs = value(row, kind, field), base.get(tuple(row[k] for k in key))
        if mine is not None and theirs:
            found.append(mine / theirs)
    return ratio_of(found)


def agreement(data: ScaleData, field: str) -> Ratio | None:
    """Measured by predicted, over all rows that have both."""
    pairs = [(value(row, "measured", field), value(row, "predicted", field)) for row in data.measured]
    return ratio_of([real / plan for real, plan in pairs if real is not None and plan])


def amount(number: float | None) -> str:
    """Three digits, or all before the point: 0.0123, 12.3, 12,345; a dash for none."""
    if number is None:
        return "–"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def memory_unit(counts: Iterable[float]) -> tuple[float, str]:
    """(bytes, its name): GB, or MB where nothing comes near one."""
    return (1e9, "GB") if max(counts, default=0.0) >= 1e9 else (1e6, "MB")
