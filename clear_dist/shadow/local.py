"""Workers on this machine: processes that live as long as the farm runs and share its database.

One single-threaded process for each core beats one process with several threads. A worker that dies is replaced, and
its task has failed once; Ctrl-C, or the death of this process, ends them all. They form process groups of their own, so
that a terminal's Ctrl-C reaches this process alone, which then ends them in good order: what they were at is pending
again, not failed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clear_dist.errors import UserError

from .folder import opened, read_farm_file
from .manifest import Manifest
from .status import Status, read_status
from .worker import NO_RUNNER, TOO_LONG, USER_ERROR

LEAVING = 10.0  # seconds a worker has to leave before it is killed
TICK, SAY = 0.1, 1.0  # seconds between looks at the workers, and between reports
ROOT = Path(__file__).resolve().parents[2]  # what must be importable: the package, from a clone too
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# glibc gives pages back to the kernel after each step and faults them in again in the next, which can cost half the
# time of training on CPU. Here it keeps them: no allocation by mmap, the heap never shrinks, and grows by 256 MiB.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def worker_environment(threads: int, device: str | None = None) -> dict[str, str]:
    """What a worker's process is started with, beyond what this one has; ``device``: for CUDA_VISIBLE_DEVICES."""
    count = str(threads)
    added = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, **MALLOC}
    return added if device is None else {**added, "CUDA_VISIBLE_DEVICES": device}


@dataclass(frozen=True)
class _Worker:
    name: str
    log: Path
    process: subprocess.Popen[bytes]


class Losses:
    """Counts workers lost since a task was last finished: beyond a cap something is wrong with all of them."""

    def __init__(self, workers: int) -> None:
        self.cap, self.lost, self.done = 4 + 4 * workers, 0, 0

    def add(self, done: int, why: str) -> None:
        """One more is lost, when ``done`` tasks are finished.

        Raises:
            UserError: too many, one after the other.
        """
        self.lost = 1 if done > self.done else self.lost + 1
        self.done = done
        if self.lost >= self.cap:
            raise UserError(f"{self.lost} workers died, one after the other, and none finished a task; the last: {why}")


def run_local(
    folder: Path,
    workers: int,
    on_status: Callable[[Status], None] = lambda status: None,
    *,
    devices: Sequence[str] = (),
    time_limit: float | None = None,
) -> Status:
    """Do what is left of the farm at ``folder``, which ``create_farm`` planned, with ``workers`` processes.

    Args:
        on_status: called about once a second, and at the end.
        devices: for CUDA_VISIBLE_DEVICES, handed out in turn; fewer than workers share them. None: left as it is.
        time_limit: seconds a task may take; None: any time.

    Returns:
        How it ended: ``finished``, or with quarantined tasks and those that wait for them.

    Raises:
        UserError: no farm there, another process works on it, the disk is full, workers cannot be started.
    """
    if workers < 1:
        raise UserError(f"{workers} workers: expected at least 1")
    threads = int(read_farm_file(folder).head.get("threads", 1))
    with opened(folder) as manifest:
        crew: list[_Worker] = []
        losses = Losses(workers)
        started, said = 0, float("-inf")
        try:
            while manifest.has_work():
                for worker in [w for w in crew if w.process.poll() is not None]:
                    crew.remove(worker)
                    _bury(manifest, worker, losses)
                while len(crew) < min(workers, manifest.unfinished()):
                    device = devices[started % len(devices)] if devices else None
                    environment = worker_environment(threads, device)
                    crew.append(_start(folder, f"local-{started}", environment, time_limit))
                    started += 1
                if time.monotonic() - said >= SAY:
                    said = time.monotonic()
                    on_status(read_status(folder))
                time.sleep(TICK)
        finally:
            _end(manifest, crew)
    status = read_status(folder)
    on_status(status)
    return status


def _start(folder: Path, name: str, environment: Mapping[str, str], time_limit: float | None) -> _Worker:
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if k not in RANK_VARIABLES}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "clear_dist.shadow.worker"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, str(folder), name, str(os.getpid()), str(time_limit or 0)],
            env={**inherited, **environment, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    return _Worker(name, log, process)


def _bury(manifest: Manifest, worker: _Worker, losses: Losses) -> None:
    """See why a worker ended, and whether that is the end of the farm."""
    code = worker.process.returncode
    text = worker.log.read_text(encoding="utf-8", errors="replace").strip()
    if code == USER_ERROR:
        raise UserError(text.splitlines()[-1] if text else "a worker gave up without a word")
    if code == NO_RUNNER:
        raise UserError(f"workers cannot be started; the first said (see {worker.log}):\n{text[-2000:]}")
    if code == 0:
        manifest.give_back(worker.name)
        why = "it found nothing to do"
    else:
        signalled = "killed, perhaps for want of memory" if code == -9 else f"signal {-code}"
        why = f"its worker died ({signalled if code < 0 else f'exit code {code}'})"
        if code == TOO_LONG:
            why = "it took too long"
        manifest.abandon(worker.name, f"{text[-2000:]}\n{why}".strip())
    losses.add(manifest.finished(), why)


def _end(manifest: Manifest, crew: Sequence[_Worker]) -> None:
    """Let no worker outlive the farm, and give back what they held."""
    for worker in crew:
        worker.process.terminate()
    until = time.monotonic() + LEAVING
    for worker in crew:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(max(0.0, until - time.monotonic()))
        worker.process.kill()
        worker.process.wait()
    with contextlib.suppress(sqlite3.Error):  # a full disk, say: the next who opens the farm does it
        manifest.give_back()
