"""Reads what a run directory holds. Only summary.json must be there; whatever else is absent is listed as a gap."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clear_dist.metrics.interval import Estimate
from clear_dist.metrics.record import Record, is_control, read_jsonl, read_records
from clear_dist.types import UserError

STAGES = ("original", "gold", "unlearned")
LARGEST_PICTURE = 2_000_000  # bytes; larger ones would make the page unusable
_DIGEST = re.compile(r"^[0-9a-f]{8,64}$")
_MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


@dataclass(frozen=True)
class RunData:
    """A run as its files tell it.

    steps: stage ("" for the run itself) -> lines of its metrics.jsonl that report a loss, one per step.
    candidate: the model under judgement, normally "unlearned"; None if only original and gold were evaluated.
    gaps: what is absent, in words for the reader.
    """

    folder: Path
    name: str
    summary: Mapping[str, Any]
    facts: Mapping[str, Any]
    records: tuple[Record, ...]
    steps: Mapping[str, list[dict[str, Any]]]
    candidate: str | None
    gaps: tuple[str, ...] = field(default=())

    @property
    def models(self) -> list[str]:
        """Models of the summary in reading order: original, the candidate, gold, then any others."""
        first = [m for m in ("original", self.candidate, "gold") if m is not None and m in self.summary["models"]]
        return first + [m for m in self.summary["models"] if m not in first and not is_control(m)]

    def estimate(self, model: str | None, set_name: str, group: str, metric: str) -> Estimate | None:
        return estimate(self.summary, model, set_name, group, metric)

    def picture(self, digest: str | None) -> str | None:
        """A picture of the run as a data URI; None where it is absent, no picture, or too large.

        Only ``pictures/DIGEST.png`` of this run is ever opened: a digest holding a path is refused.
        """
        if digest is None or not _DIGEST.match(digest):
            return None
        path = self.folder / "pictures" / f"{digest}.png"
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
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
    return summary


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Training lines of a metrics.jsonl, ordered by step; of a step written twice (a resumed run) the last counts."""
    by_step: dict[float, dict[str, Any]] = {}
    for _, row in read_jsonl(path):
        step, loss = row.get("step"), row.get("loss")
        if isinstance(step, int | float) and isinstance(loss, int | float):
            by_step[step] = row
    return [by_step[step] for step in sorted(by_step)]


def read_run(folder: Path) -> RunData:
    """Raises UserError if there is no summary, or if a file that is there cannot be read."""
    summary = read_summary(folder / "summary.json")
    gaps: list[str] = []

    facts: dict[str, Any] = {}
    for path in (folder / "run.json", folder / "unlearned" / "run.json"):
        if path.is_file():
            facts = read_json(path)
            break
    else:
        gaps.append("run.json is absent: settings, versions and seeds are not shown.")

    records: tuple[Record, ...] = ()
    if (folder / "records.jsonl").is_file():
        records = tuple(read_records(folder / "records.jsonl"))
    else:
        gaps.append("records.jsonl is absent: no sample answers are shown.")

    steps = {}
    for stage in ("", *STAGES):
        path = folder / stage / "metrics.jsonl"
        if path.is_file() and (rows := read_steps(path)):
            steps[stage] = rows
    if not steps:
        gaps.append("metrics.jsonl is absent: no training curves are shown.")
    if any(r.picture for r in records) and not (folder / "pictures").is_dir():
        gaps.append("The folder pictures/ is absent: answers are shown without their pictures.")

    names = [m for m in summary["models"] if not is_control(m)]
    others = [m for m in names if m not in ("original", "gold")]
    candidate = "unlearned" if "unlearned" in others else (others or [None])[0]
    for model, consequence in (("original", "what was lost"), ("gold", "whether it was forgotten")):
        if model not in names:
            gaps.append(f"The {model} model was not evaluated: {consequence} cannot be judged.")
    if candidate is None:
        gaps.append("No unlearned model was evaluated.")
    return RunData(folder, folder.resolve().name, summary, facts, records, steps, candidate, tuple(gaps))
