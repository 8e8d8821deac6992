"""Ranks of a launcher (deepspeed, torchrun) as workers: each takes tasks from the same database of one host.

Tasks are independent, so the ranks form no process group and never wait for each other's steps; one that dies leaves
its task to the others once the lease is over. Rank 0 opens the farm, and says so in ``farm.ranks``, with a mark of this
launch: the file of an earlier one is not taken for it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from clear_dist.errors import UserError

from .folder import opened, read_farm_file
from .local import SAY
from .objects import write_whole
from .status import Status, read_status
from .worker import Leave, leaving_on_sigterm, set_threads, work

MARK_FILE = "farm.ranks"
PATIENCE = 1800.0  # seconds a rank waits for rank 0, which may have many files to look through
LOOK = 0.2  # seconds between looks


@dataclass(frozen=True)
class Ranks:
    """This process among those of its launcher."""

    rank: int
    local: int
    size: int


def ranks(environment: Mapping[str, str] = os.environ) -> Ranks | None:
    """Which rank this is, by RANK, LOCAL_RANK, WORLD_SIZE and LOCAL_WORLD_SIZE (torchrun) or LOCAL_SIZE (deepspeed);
    None without a launcher.

    Raises:
        UserError: the ranks are on several hosts, which cannot share the farm's database.
    """
    if not {"RANK", "WORLD_SIZE"} <= set(environment):
        return None
    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    here = environment.get("LOCAL_WORLD_SIZE") or environment.get("LOCAL_SIZE") or size
    if int(here) != size:
        raise UserError(
            f"{size} ranks on several hosts: the farm's database is for one; start it once, with --executor ray"
        )
    return Ranks(rank, int(environment.get("LOCAL_RANK", rank)), size)


def launch_mark() -> str:
    """The launch this process belongs to: its parent, by number and time of start, which no other has both of."""
    parent = os.getppid()
    started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{parent}-{started}"


def run_ranks(
    folder: Path,
    me: Ranks,
    prepare: Callable[[], None],
    on_status: Callable[[Status], None] = lambda status: None,
    *,
    mark: str | None = None,
) -> Status:
    """Be a worker of the farm at ``folder``; call it on all ranks.

    Args:
        prepare: creates the farm; called on rank 0 alone. on_status: called on rank 0, from a thread of its own.
        mark: of this launch, the same on all ranks; None: by the launcher's process.

    Raises:
        UserError: rank 0 cannot open the farm (on all ranks), or as :func:`~clear_dist.shadow.worker.work`.
    """
    mark = mark or launch_mark()
    try:
        with leaving_on_sigterm():
            if me.rank == 0:
                _lead(folder, me, prepare, on_status, mark)
            else:
                _wait(folder, mark)
                _work(folder, me)
    except Leave:
        raise SystemExit(128 + signal.SIGTERM) from None
    status = read_status(folder)
    if me.rank == 0:
        on_status(status)
    return status


def _lead(folder: Path, me: Ranks, prepare: Callable[[], None], on_status: Callable[[Status], None], mark: str) -> None:
    """Open the farm for all ranks, and be a worker of it."""
    with ExitStack() as stack:
        try:
            prepare()
            stack.enter_context(opened(folder))
        except BaseException as error:
            if folder.is_dir():
                _say(folder, mark, str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
            raise
        _say(folder, mark, None)
        stack.enter_context(_telling(folder, on_status))
        _work(folder, me)


def _say(folder: Path, mark: str, error: str | None) -> None:
    write_whole(folder / MARK_FILE, json.dumps({"launch": mark, "error": error}).encode())


def _wait(folder: Path, mark: str) -> None:
    """Until rank 0 of this launch has opened the farm."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            said = json.loads((folder / MARK_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            said = {}
        if said.get("launch") == mark:
            if said["error"] is not None:
                raise UserError(f"rank 0 could not open the farm: {said['error']}")
            return
        time.sleep(LOOK)
    raise UserError(f"{folder}: rank 0 did not open the farm within {PATIENCE:g} seconds; see what it printed")


def _work(folder: Path, me: Ranks) -> None:
    import torch

    keep_heap()
    set_threads(read_farm_file(folder))
    if torch.cuda.is_available():
        torch.cuda.set_device(me.local % torch.cuda.device_count())
    work(folder, f"rank-{me.rank}")


@contextmanager
def _telling(folder: Path, on_status: Callable[[Status], None]) -> Iterator[None]:
    """Report about once a second while the block lasts."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(SAY):
            on_status(read_status(folder))

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def keep_heap() -> None:
    """``local.MALLOC`` for a process that has begun already: glibc keeps its pages (nothing where it is not glibc)."""
    M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 1 << 28)):
            mallopt(name, value)
