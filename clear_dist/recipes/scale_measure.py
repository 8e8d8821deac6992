"""Measuring points: ranks as processes, watched, ended when one fails or time is up; what came of it is written down.

Libraries take longer to load than most points to run, so ranks do one point after another, each with an engine of its
own. Where a point fails the ranks end with it, and new ones go on behind it.

Every point is a file ``points/DIGEST.json``: what was asked and what came of it. It is written whole or not at all; one
that holds a measurement is never measured again, one that holds a reason is tried again by the next run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clear_dist.services.rank_processes import end_ranks, free_port, rank_environment

WORKER = "clear_dist.recipes.scale_worker"
START_LIMIT = 120.0  # seconds on top for the first point of new ranks: until their libraries are loaded
_KILLED = -signal.SIGKILL
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|MemoryError", re.IGNORECASE)


def point_file(out: Path, digest: str) -> Path:
    return out / "points" / f"{digest}.json"


def read_point(file: Path) -> dict[str, Any] | None:
    """What was written; None where nothing was, or nothing whole."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"measured", "why"} <= set(found) else None


def write_point(file: Path, point: Mapping[str, Any], measured: Mapping[str, Any] | None, why: str | None) -> None:
    content = {"v": 1, "point": dict(point), "measured": measured, "why": why}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(part, file)


def run_points(
    asked: Sequence[Mapping[str, Any]], ranks: int, timeout: float
) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
    """Of each point in turn: (what rank 0 measured, None), or (None, why there is nothing).

    Args:
        asked: points (``scale_points.point_of``), each with its ``model``: a named shape or a directory.
        timeout: seconds that a point may take.
    """
    rest = list(asked)
    while rest:
        for measured, why in _crew(rest, ranks, timeout):
            rest = rest[1:]
            yield measured, why


def _crew(
    asked: Sequence[Mapping[str, Any]], ranks: int, timeout: float
) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
    """As ``run_points``, up to the first point that fails."""
    with tempfile.TemporaryDirectory(prefix="clear-dist-scale-") as name:
        folder = Path(name)
        (folder / "points.json").write_text(json.dumps(list(asked)), encoding="utf-8")
        port = free_port()
        processes = [_start(rank, ranks, asked[0]["threads"], folder, port) for rank in range(ranks)]
        try:
            for number in range(len(asked)):
                result = folder / f"{number}.json"
                failed = _wait(processes, result, timeout + (START_LIMIT if number == 0 else 0.0))
                if failed is None:
                    yield json.loads(result.read_text(encoding="utf-8")), None
                    continue
                end_ranks(processes)
                log = (folder / f"{failed}.log").read_text(errors="replace") if failed >= 0 else ""
                late = f"gave no result in {timeout:g} s and was ended"
                yield None, late if failed < 0 else reason(processes[failed].returncode, log)
                return
        finally:
            end_ranks(processes)


def _start(rank: int, ranks: int, threads: int, folder: Path, port: int) -> subprocess.Popen[bytes]:
    environment = {
        **rank_environment(rank, ranks, port),
        **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
    }
    # A file, not a pipe: a rank that fills a pipe nobody reads waits, and the others wait for it.
    with (folder / f"{rank}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", WORKER, str(folder / "points.json"), str(folder), str(os.getpid())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what a rank starts ends with it
        )


def _wait(processes: Sequence[subprocess.Popen[bytes]], result: Path, timeout: float) -> int | None:
    """None where there is a result; else the rank that failed first, -1 where time was up."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        states = [process.poll() for process in processes]
        if result.is_file():
            return None
        if failed := [rank for rank, state in enumerate(states) if state is not None]:
            # Ranks whose peer is gone fail too: the one that was killed is the one to ask.
            return next((rank for rank in failed if processes[rank].returncode == _KILLED), failed[0])
        time.sleep(0.05)
    return -1


def reason(status: int, log: str) -> str:
    """Why a rank ended, in a line: out of memory, a signal, or what it said last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if status == _KILLED:
        return "ran out of memory: the system killed a rank"
    if full := next((line for line in reversed(lines) if _OUT_OF_MEMORY.search(line)), None):
        return f"ran out of memory: {full[:300]}"
    if status < 0:
        return f"a rank ended by signal {-status}"
    said = next((line for line in reversed(lines) if re.match(r"\w[\w.]*(Error|Exception|Interrupt)\b", line)), "")
    return f"failed: {(said or (lines[-1] if lines else f'exit status {status}'))[:300]}"


def device_here() -> tuple[str, int]:
    """(``cpu``, or the name of this machine's GPUs, the planner's where it knows them; how many, 0 without)."""
    if not torch.cuda.is_available():
        return "cpu", 0
    from .plan_run import known_gpu

    real = torch.cuda.get_device_properties(0)
    return known_gpu(real.name, real.total_memory) or real.name, torch.cuda.device_count()
