"""Worker processes of a farm, seen from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])


def workers_of(farm: Path) -> list[int]:
    """Processes that were started for this farm and still live."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if b"clear_dist.shadow.worker" in words and str(farm).encode() in words and state != "Z":
            found.append(int(folder.name))
    return found


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait for it; the time is only there so that a failure ends."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)
