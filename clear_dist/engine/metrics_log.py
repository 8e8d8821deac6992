"""``metrics.jsonl``: a line a step and one per evaluation, kept whole through kills and resumptions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from clear_dist.reading import json_value

from .trackers import TrackerName, make_tracker
from .world import World


@contextmanager
def metrics_log(
    run_dir: Path, tracker: TrackerName, world: World, start: int
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Append to metrics.jsonl (rank 0); a resumed run first drops lines after its checkpoint."""
    if not world.main:
        yield lambda line: None
        return
    path = run_dir / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = _lines_until(path, start) if start and path.is_file() else []
    part = path.with_suffix(".part")
    part.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
    os.replace(part, path)  # dying here loses no line
    log, close = make_tracker(tracker, run_dir)
    try:
        with path.open("a", encoding="utf-8") as file:
            yield lambda line: _write(file, line, log)
    finally:
        close()


def _lines_until(path: Path, step: int) -> list[str]:
    """Lines of the steps up to ``step``; a line cut off by a kill belongs to none."""
    kept = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json_value(text)["step"] <= step:
                kept.append(text)
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def _write(file: TextIO, line: Mapping[str, Any], log: Callable[[int, Mapping[str, float]], None]) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()
    numbers = {k: v for k, v in line.items() if isinstance(v, (int, float)) and k != "step"}
    for kind in ("parts", "coefficients", "eval"):
        numbers |= {f"{kind}/{k}": v for k, v in line.get(kind, {}).items()}
    log(line["step"], numbers)
