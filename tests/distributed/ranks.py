"""Starting real ranks as real processes, the way torchrun does, with a port of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 600  # seconds until a hang is called a hang


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(ranks: int, script: Path, arguments: Sequence[str], cache: Path) -> list[subprocess.Popen[str]]:
    port = str(free_port())
    processes = []
    for rank in range(ranks):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "CLEAR_DIST_CACHE": str(cache),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, str(script), *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def finish(processes: Sequence[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """(exit statuses, outputs); kills what hangs."""
    outputs = []
    for process in processes:
        try:
            outputs.append(process.communicate(timeout=TIMEOUT)[0])
        except subprocess.TimeoutExpired:
            for p in processes:
                p.kill()
            outputs.append(process.communicate()[0] + "\n(killed: timed out)")
    return [p.returncode for p in processes], outputs


def run_ranks(ranks: int, script: Path, arguments: Sequence[str], cache: Path) -> list[str]:
    """Start, wait, and fail with the ranks' own messages."""
    statuses, outputs = finish(start(ranks, script, arguments, cache))
    assert statuses == [0] * ranks, f"exit statuses {statuses}\n" + "\n".join(o[-4000:] for o in outputs)
    return outputs
