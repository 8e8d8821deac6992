"""Being told to leave: SIGTERM or SIGUSR1 ends a run after the step it is in, with a checkpoint.

Schedulers announce the end that way: SIGTERM by Kubernetes, torchrun and deepspeed, SIGUSR1 by Slurm
(``--signal=USR1@300``). One rank that hears it is enough; the ranks agree within the sums of the step.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class Notice:
    """heard: the signal's name, once there was one."""

    heard: str | None = None


@contextmanager
def notice() -> Iterator[Notice]:
    """Inside, the first signal is remembered, and a second one does what it would have done without us.

    Outside the main thread nothing is heard: Python delivers signals there only.
    """
    found = Notice()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return

    def hear(number: int, frame: FrameType | None) -> None:
        del frame
        if found.heard is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        found.heard = signal.Signals(number).name

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
