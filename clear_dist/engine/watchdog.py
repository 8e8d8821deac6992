"""A hang becomes a file: a rank that has not moved for too long writes the stacks of its threads and exits.

Ranks wait for each other, so when one hangs all of them stop moving, and all of them tell where they are.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TextIO

HUNG = 70  # exit status (docs/exit-codes.md)
_GRACE = 30.0  # seconds after which the interpreter's own watchdog acts, where a thread that hangs holds Python's lock


class Watchdog:
    """Within the block, somebody has to call ``beat`` every ``seconds``; 0 watches nothing.

    What hangs is written to ``folder``/hang-rankNNNNN.txt and to the standard error; the process then ends with status
    ``HUNG`` (1, where Python itself is stuck inside a library).
    """

    def __init__(self, folder: Path, rank: int, seconds: float) -> None:
        self._file, self._seconds = folder / f"hang-rank{rank:05d}.txt", seconds
        self._doing, self._until = "starting", time.monotonic() + seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._out: TextIO | None = None

    def __enter__(self) -> Watchdog:
        if self._seconds:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.unlink(missing_ok=True)
            self._thread.start()
            self.beat("starting")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()
            self._thread.join()
        if self._out is not None:
            self._out.close()
            self._file.unlink(missing_ok=True)  # nothing hung

    def beat(self, doing: str, patience: float = 1.0) -> None:
        """All is well; ``doing`` is what comes next, which may take ``patience`` times as long as usual."""
        if not self._seconds or self._over.is_set():
            return
        allowed = patience * self._seconds
        self._doing, self._until = doing, time.monotonic() + allowed
        if self._out is None:
            self._out = self._file.open("w", encoding="utf-8")
        faulthandler.dump_traceback_later(allowed + _GRACE, exit=True, file=self._out)

    def _watch(self) -> None:
        while not self._over.wait(max(0.05, min(1.0, self._until - time.monotonic()))):
            if time.monotonic() < self._until:
                continue
            told = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z} no progress for too long: {self._doing}\n"
            with self._file.open("w", encoding="utf-8") as out:
                out.write(told)
                out.flush()
                faulthandler.dump_traceback(out)
                out.flush()
                os.fsync(out.fileno())
            sys.stderr.write(f"{told}{self._file} says where every thread is\n")
            sys.stderr.flush()
            os._exit(HUNG)
