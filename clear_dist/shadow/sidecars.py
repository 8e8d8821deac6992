"""One small JSON file for each finished task, ``tasks/KEY.json``: what the database can be made again from.

A sidecar carries the SHA-256 of its own content, so that a cut or changed one is told from a good one.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clear_dist.reading import json_value

from .objects import Ref, write_whole
from .task import KEY, canonical

SIDECARS = "tasks"
PACKAGES = ("clear-dist", "torch", "numpy")


@dataclass(frozen=True)
class Done:
    """What is known of a finished task. ``metrics``: None for what was not finite. ``finished_at``: Unix time."""

    key: str
    kind: str
    name: str
    result: Ref
    weights: Ref | None
    metrics: Mapping[str, float | None]
    seconds: float
    finished_at: float
    worker: str


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: a number that is not finite is None."""
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


@functools.cache
def versions() -> dict[str, str | None]:
    """Python and the packages that decide numbers; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def sidecar_path(folder: Path, key: str) -> Path:
    """Where the sidecar of a task lies in the farm at ``folder``."""
    assert KEY.fullmatch(key)
    return folder / SIDECARS / f"{key}.json"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(dict(content)).encode()).hexdigest()


def write_sidecar(folder: Path, done: Done) -> None:
    """Write it whole or not at all; raises as :func:`~clear_dist.shadow.objects.write_whole`."""
    content = {"v": 1, **asdict(done), "versions": versions()}
    text = json.dumps({**content, "digest": _digest(content)}, indent=1, allow_nan=False)
    write_whole(sidecar_path(folder, done.key), f"{text}\n".encode())


def read_sidecar(folder: Path, key: str) -> Done | None:
    """The sidecar of a task; None where there is none, or it was cut short, changed, or is another task's."""
    try:
        content = json_value(sidecar_path(folder, key).read_bytes())
        digest = content.pop("digest")
        if digest != _digest(content) or content["key"] != key or content["v"] != 1:
            return None
        del content["v"], content["versions"]
        refs = {name: Ref(**content[name]) if content[name] is not None else None for name in ("result", "weights")}
        done = Done(**{**content, **refs})
        return done if has_its_types(done) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def has_its_types(done: Done) -> bool:
    """Whether a digest that holds stands under what a farm writes."""
    refs = [done.result, *([done.weights] if done.weights is not None else [])]
    return (
        all(isinstance(text, str) for text in (done.kind, done.name, done.worker))
        and all(_is_number(number) for number in (done.seconds, done.finished_at))
        and isinstance(done.metrics, dict)
        and all(number is None or _is_number(number) for number in done.metrics.values())
        and all(
            isinstance(ref, Ref) and isinstance(ref.sha256, str) and KEY.fullmatch(ref.sha256) and type(ref.size) is int
            for ref in refs
        )
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_sidecars(folder: Path) -> dict[str, Done]:
    """All good sidecars of the farm at ``folder``, by key."""
    keys = (path.stem for path in (folder / SIDECARS).glob("*.json") if KEY.fullmatch(path.stem))
    return {key: done for key in keys if (done := read_sidecar(folder, key)) is not None}
