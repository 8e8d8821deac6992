"""Reads what a run directory holds. Only summary.json must be there; whatever else is absent is listed as a gap.

A directory of ``quickstart`` holds the page's summary, and the rest in ``unlearned/``.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clear_dist.metrics.interval import Estimate, is_count
from clear_dist.metrics.record import Record, is_control, read_jsonl, variant
from clear_dist.reading import json_value
from clear_dist.report.scan import Scan, scan
from clear_dist.types import UserError

STAGES = ("original", "gold", "unlearned")
LARGEST_PICTURE = 2_000_000  # bytes; larger ones would make the page unusable
_DIGEST = re.compile(r"^[0-9a-f]{8,64}$")
_MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


@dataclass(frozen=True)
class RunData:
    """A run as its files tell it.

    steps: stage ("" for the run itself) -> lines of its metrics.jsonl that report a loss, one per step.
    records: of the models (and sets) that were asked for; scanned: what else is known of the file, None without one.
    pictures: the folder of the pictures.
    candidate: the model under judgement, normally "unlearned"; None if only original and gold were evaluated.
    gaps: what is absent, in words for the reader.
    """

    folder: Path
    name: str
    summary: Mapping[str, Any]
    facts: Mapping[str, Any]
    scanned: Scan | None
    pictures: Path
    steps: Mapping[str, list[dict[str, Any]]]
    candidate: str | None
    gaps: tuple[str, ...] = field(default=())

    @property
    def records(self) -> tuple[Record, ...]:
        return () if self.scanned is None else self.scanned.records

    @property
    def models(self) -> list[str]:
        """Models of the summary in reading order: original, the candidate, gold, then any others."""
        names = models_of(self.summary)
        first = [m for m in ("original", self.candidate, "gold") if m is not None and m in names]
        return first + [m for m in names if m not in first]

    def block(self, model: str | None) -> Mapping[str, Any] | None:
        """A model's part of the summary."""
        return None if model is None else self.summary["models"].get(model)

    def estimate(self, model: str | None, set_name: str, group: str, metric: str) -> Estimate | None:
        return estimate(self.summary, model, set_name, group, metric)

    def picture(self, digest: str | None) -> str | None:
        """A picture of the run as a data URI; None where it is absent, no picture, or too large.

        Only ``DIGEST.png`` of this run's pictures is ever opened: a digest holding a path is refused.
        """
        if digest is None or not _DIGEST.match(digest):
            return None
        path = self.pictures / f"{digest}.png"
        try:
            data = path.read_bytes() if path.stat().st_size <= LARGEST_PICTURE else b""
        except OSError:
            return None
        kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
        return None if kind is None else f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def estimate(summary: Mapping[str, Any], model: str | None, set_name: str, group: str, metric: str) -> Estimate | None:
    """One figure of a summary; None where it was not measured."""
    groups = summary["models"].get(model, {}).get("sets", {}).get(set_name) or {}
    return Estimate.of((groups.get(group) or {}).get(metric))


def models_of(summary: Mapping[str, Any]) -> list[str]:
    """A summary's models in its order: no controls, and no models under attack."""
    return [m for m in summary["models"] if not is_control(m) and variant(m) is None]


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number JSON knows; evaluate again")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError naming the file, on NaN and infinity too."""
    try:
        value = json_value(path.read_text(encoding="utf-8"), parse_constant=_refuse, parse_float=_finite)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def read_summary(path: Path) -> dict[str, Any]:
    """summary.json, checked as far as the report relies on it. Raises UserError."""
    if not path.is_file():
        raise UserError(f"{path}: not there; a report needs an evaluated run: `clear-dist evaluate` writes this file")
    summary = read_json(path)
    models = summary.get("models")
    if summary.get("v") != 1 or not isinstance(models, dict) or not models:
        raise UserError(f'{path}: expected {{"v": 1, "models": {{...}}}} with at least one model; evaluate again')
    if any(not isinstance(model, dict) or not isinstance(model.get("sets"), dict) for model in models.values()):
        raise UserError(f"{path}: every model must have an object 'sets'; evaluate again")
    _object(f"{path}: seconds", summary.get("seconds"))
    for name, model in models.items():
        where = f"{path}: models.{name}"
        _check_sets(f"{where}.sets", model["sets"])
        for attack, sets in _object(f"{where}.robustness", model.get("robustness")).items():
            _check_sets(f"{where}.robustness.{attack}", sets)
        for part, content in model.items():
            if part in ("real_metric", "model_utility"):
                _check_figure(f"{where}.{part}", content)
            elif part not in ("sets", "robustness"):
                _check_figures(f"{where}.{part}", content)
    return summary


def _object(where: str, value: object) -> Mapping[str, Any]:
    """A JSON object; an empty one for null. Raises UserError on anything else."""
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{where}: expected an object or null, got {value!r}; evaluate again")
    return value or {}


def _check_sets(where: str, sets: object) -> None:
    for name, groups in _object(where, sets).items():
        for group, metrics in _object(f"{where}.{name}", groups).items():
            for metric, figure in _object(f"{where}.{name}.{group}", metrics).items():
                _check_figure(f"{where}.{name}.{group}.{metric}", figure)


def _check_figures(where: str, value: object) -> None:
    """Figures at any depth of a part that has no fixed form."""
    if not isinstance(value, Mapping):
        return
    if "ci" in value:
        _check_figure(where, value)
        return
    if (n := value.get("n")) is not None and not is_count(n):
        raise UserError(f"{where}.n: expected a count or null, got {n!r}; evaluate again")
    for name, inside in value.items():
        _check_figures(f"{where}.{name}", inside)


def _check_figure(where: str, value: Any) -> None:
    try:
        Estimate.of(value)
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('summary: ')}; evaluate again") from None


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Training lines of a metrics.jsonl, ordered by step; of a step written twice (a resumed run) the last counts."""
    by_step: dict[float, dict[str, Any]] = {}
    for _, row in read_jsonl(path):
        step, loss = row.get("step"), row.get("loss")
        if isinstance(step, int | float) and isinstance(loss, int | float):
            by_step[step] = row
    return [by_step[step] for step in sorted(by_step)]


def _first(folder: Path, name: str) -> Path:
    """``name`` in a run's directory, or in the part of it that quickstart calls unlearned."""
    inside = folder / "unlearned" / name
    return inside if inside.exists() and not (folder / name).exists() else folder / name


def read_run(folder: Path, wanted: Callable[[str, str], bool] = lambda model, set_name: True) -> RunData:
    """A run's files. wanted: (model, set) -> whether its records are read.

    Raises UserError if there is no summary, or if a file that is there cannot be read.
    """
    summary = read_summary(folder / "summary.json")
    gaps: list[str] = []

    facts: dict[str, Any] = {}
    if (path := _first(folder, "run.json")).is_file():
        facts = read_json(path)
    else:
        gaps.append("run.json is absent: settings, versions and seeds are not shown.")

    scanned = None
    if (path := _first(folder, "records.jsonl")).is_file():
        scanned = scan(path, wanted)
        if scanned.cut is not None:
            gaps.append(
                f"The last line of records.jsonl (line {scanned.cut}) is half-written, as an interrupted run leaves "
                "it: it is left out, and the averages may be of other records. Evaluate again."
            )
    else:
        gaps.append("records.jsonl is absent: no sample answers are shown.")

    steps = {}
    for stage in ("", *STAGES):
        path = folder / stage / "metrics.jsonl"
        if path.is_file() and (rows := read_steps(path)):
            steps[stage] = rows
    if not steps:
        gaps.append("metrics.jsonl is absent: no training curves are shown.")
    pictures = _first(folder, "pictures")
    if scanned is not None and any(r.picture for r in scanned.records) and not pictures.is_dir():
        gaps.append("The folder pictures/ is absent: answers are shown without their pictures.")

    names = models_of(summary)
    others = [m for m in names if m not in ("original", "gold")]
    candidate = "unlearned" if "unlearned" in others else (others or [None])[0]
    for model, consequence in (("original", "what was lost"), ("gold", "whether it was forgotten")):
        if model not in names:
            gaps.append(f"The {model} model was not evaluated: {consequence} cannot be judged.")
    if candidate is None:
        gaps.append("No unlearned model was evaluated.")
    name = folder.resolve().name
    return RunData(folder, name, summary, facts, scanned, pictures, steps, candidate, tuple(gaps))
