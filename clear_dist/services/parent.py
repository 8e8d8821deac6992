"""A process that does not outlive the one that started it, however that one ended."""

from __future__ import annotations

import os
import threading
import time


def leave_with(parent: int, every: float = 1.0) -> None:
    """From a thread: ends this process, without any ado, once its parent is no longer ``parent``.

    parent: as the starter knows its own number, for it may be gone before this is asked. every: seconds.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=watch, name="leave-with-parent", daemon=True).start()
