"""``clear-dist`` under Python's own audit: what is unpickled and whom sockets reach is written down.

usage: worker_audit.py EVENTS.jsonl WORD... Child processes made by fork write to the same file. The packages that are
part of a process's start (ranks' own stores on the loopback, name look-ups of this host) are told apart by the test.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

WATCHED = {"pickle.find_class", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}


def watch(file: str) -> None:
    """Append each event of ``WATCHED`` to ``file``: {"event", "args", "from"}."""
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in WATCHED:
            callers = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack(limit=8)[:-1]]
            line = {"event": event, "args": [str(a) for a in args], "from": callers}
            os.write(out, (json.dumps(line) + "\n").encode())

    sys.addaudithook(hook)


if __name__ == "__main__":
    watch(sys.argv[1])
    from clear_dist import cli

    sys.exit(cli.main(sys.argv[2:]))
