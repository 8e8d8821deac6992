"""Starting real ranks as real processes, the way torchrun does, with a port of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 400  # seconds until a hang is called a hang


@dataclass(frozen=True)
class Rank:
    process: subprocess.Popen[bytes]
    output: IO[str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(ranks: int, script: Path, arguments: Sequence[str], cache: Path) -> list[Rank]:
    port = str(free_port())
    processes: list[Rank] = []
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
        # A file, not a pipe: a rank that fills a pipe nobody reads yet waits, and the others wait for it.
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by finish)
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        processes.append(Rank(process, output))
    return processes


def finish(processes: Sequence[Rank], timeout: float = TIMEOUT) -> tuple[list[int], list[str]]:
    """(exit statuses, outputs); kills what hangs."""
    for rank in processes:
        try:
            rank.process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            for other in processes:
                other.process.kill()
    outputs = []
    for rank in processes:
        rank.process.wait()
        rank.output.seek(0)
        outputs.append(rank.output.read())
        rank.output.close()
    return [rank.process.returncode for rank in processes], outputs


def run_ranks(ranks: int, script: Path, arguments: Sequence[str], cache: Path, timeout: float = TIMEOUT) -> list[str]:
    """Start, wait, and fail with the ranks' own messages."""
    statuses, outputs = finish(start(ranks, script, arguments, cache), timeout)
    assert statuses == [0] * ranks, f"exit statuses {statuses}\n" + "\n".join(o[-4000:] for o in outputs)
    return outputs
