"""A worker: claims a task, does it, keeps what came of it, until nothing is left; and the process it lives in.

    python -m clear_dist.shadow.worker FOLDER NAME PARENT SECONDS

An error in a task is the task's, and the worker goes on with the next one. An error of the farm (disk full, no
database) ends the worker, with its task given back.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from clear_dist.errors import UserError

from .folder import FarmFile, read_farm_file
from .manifest import ERROR_TAIL, LEASE, Lease, Manifest
from .objects import Damaged, get, put
from .task import Outcome, Runner, make_runner

IDLE = 0.5  # seconds between looks for a task, while others hold what it waits for
USER_ERROR, NO_RUNNER, TOO_LONG = 2, 3, 4  # exit codes

Weights = dict[str, dict[str, Any]]


class Leave(BaseException):
    """The worker was told to stop: no error of the task it is at."""


def work(
    folder: Path,
    name: str,
    stop: Callable[[], bool] = lambda: False,
    runner: Runner | None = None,
    *,
    idle: float = IDLE,
    time_limit: float | None = None,
    clock: Callable[[], float] = time.time,
) -> int:
    """Do tasks of an opened farm (``folder.opened``) until none is left, or ``stop`` says so between two tasks.

    Args:
        name: of this worker, no other's. runner: default: the one that ``farm.json`` names. idle: seconds.
        time_limit: seconds a task may take; one that takes longer has failed, and this process ends with TOO_LONG,
            since nothing else can end it.

    Returns:
        How many tasks it finished.

    Raises:
        UserError: the disk is full or the database cannot be used; whatever else ends it (Ctrl-C), its task is given
            back, not failed.
    """
    if runner is None:
        runner = make_runner(read_farm_file(folder).runner)
    finished = 0
    with Manifest(folder, clock) as manifest:
        try:
            while not stop():
                lease = manifest.claim(name)
                if lease is not None:
                    finished += _attempt(manifest, lease, runner, time_limit)
                elif manifest.has_work():
                    time.sleep(idle)
                else:
                    break
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                manifest.give_back(name)
            if isinstance(error, sqlite3.Error):
                raise UserError(f"{folder}: its database cannot be used ({error}); is the disk full?") from error
            raise
    return finished


def _attempt(manifest: Manifest, lease: Lease, runner: Runner, time_limit: float | None) -> bool:
    """Do one task; whether it is now done, by us."""
    began = time.perf_counter()
    with _beating(manifest, lease, time_limit):
        parents = _load_parents(manifest, lease)
        if parents is None:
            return False
        try:
            outcome = runner(lease.task, parents)
            if lease.task.keep_weights and outcome.weights is None:
                raise UserError(f"task {lease.task.name}: its weights are to be kept, and the runner returned none")
        except (Exception, SystemExit):
            manifest.fail(lease, traceback.format_exc()[-ERROR_TAIL:])
            _tidy()
            return False
        return _keep(manifest, lease, outcome, began)


def _keep(manifest: Manifest, lease: Lease, outcome: Outcome, began: float) -> bool:
    result = put(manifest.folder, outcome.tensors)
    keep = lease.task.keep_weights and outcome.weights is not None
    weights = put(manifest.folder, outcome.weights) if keep and outcome.weights is not None else None
    return manifest.commit(lease, result, weights, outcome.metrics, time.perf_counter() - began)


def _load_parents(manifest: Manifest, lease: Lease) -> Weights | None:
    """Weights of the parents; None where one is damaged: then it is done again first, and this task waits."""
    parents: Weights = {}
    for key, sha256 in lease.parents.items():
        try:
            parents[key] = get(manifest.folder, sha256)
        except Damaged as error:
            manifest.reopen(key, str(error))
            manifest.give_back(lease.worker)
            return None
    return parents


def _tidy() -> None:
    """After an error: let go of what its traceback held, the GPU's memory above all."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _beating(manifest: Manifest, lease: Lease, time_limit: float | None) -> Iterator[None]:
    """Prolong the lease from a thread of its own while the block lasts."""
    over = threading.Event()
    main = threading.get_ident()
    limit = float("inf") if time_limit is None else time_limit

    def beat() -> None:
        began = time.monotonic()
        while not over.wait(min(LEASE / 4, max(0.05, began + limit - time.monotonic()))):
            late = time.monotonic() - began > limit
            # a connection of its own, for the moment; what a full disk, say, keeps from beating, the next beat may do
            with contextlib.suppress(sqlite3.Error), Manifest(manifest.folder, manifest.clock) as mine:
                if late:
                    where = "".join(traceback.format_stack(sys._current_frames().get(main)))
                    mine.fail(lease, f"{where}took longer than {limit:g} seconds")
                else:
                    mine.heartbeat(lease)
            if late:
                os._exit(TOO_LONG)

    thread = threading.Thread(target=beat, name=f"lease of {lease.task.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def set_threads(farm: FarmFile) -> None:
    """Threads of this process's arithmetic, ``head["threads"]`` (default 1): how sums are split decides their bits."""
    import torch

    torch.set_num_threads(int(farm.head.get("threads", 1)))


def die_with(parent: int) -> None:
    """Linux kills this process when its parent dies, however that happens; at once if it has died already."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """Within the block, SIGTERM ends :func:`work` as Ctrl-C does: the task is given back."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Leave(f"signal {number}")

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: list[str]) -> int:
    """The life of a worker process of ``local``, which reads its exit code and what it printed."""
    folder, name, parent, seconds = Path(arguments[0]), arguments[1], int(arguments[2]), float(arguments[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    die_with(parent)
    try:
        with leaving_on_sigterm():
            return _live(folder, name, seconds or None)
    except Leave:
        return 128 + signal.SIGTERM
    except UserError as error:
        print(error, file=sys.stderr)
        return USER_ERROR


def _live(folder: Path, name: str, time_limit: float | None) -> int:
    """Make the runner and work; the exit code."""
    farm = read_farm_file(folder)
    try:
        set_threads(farm)
        runner = make_runner(farm.runner)
    except UserError:
        raise
    except Exception:
        traceback.print_exc()
        return NO_RUNNER
    work(folder, name, runner=runner, time_limit=time_limit)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
