"""A whole run watched by Python's audit hooks: nothing is unpickled, and no other machine is spoken to."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker_audit.py")
HERE = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "::", socket.gethostname()}


def audited(words: Sequence[object], events: Path, cache: Path) -> tuple[str, list[dict[str, Any]]]:
    """What it said, and the events of all commands so far: as a user has it, nothing tells the Hub's libraries to stay
    offline."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"PYTHONPATH": str(ROOT), "CLEAR_DIST_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), str(events), *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr, [json.loads(line) for line in events.read_text().splitlines()]


def abroad(event: dict[str, Any]) -> bool:
    """Whether a socket went, or asked, beyond this machine; sockets in the file system do not."""
    if not event["event"].startswith("socket."):
        return False
    asked = event["args"][1] if event["event"] in ("socket.connect", "socket.sendto") else event["args"][0]
    return not any(name in asked for name in HERE) and not asked.startswith(("/", "b'/", "None"))


@pytest.mark.distributed
def test_a_run_unpickles_nothing_and_stays_on_this_machine(model: Path, cache: Path, tmp_path: Path) -> None:
    """Trained, evaluated, reported; then, as if it had been killed at its end, gone on with from its checkpoint."""
    flags = ["unlearn", "--original", model, "--model", model, "--no-gold", "--eval-limit", 1, "--global-batch", 4]
    flags += ["--checkpoint-every", 1, "--ds", ROOT / "ds_configs" / "z3.json", "--out", tmp_path / "run"]
    flags += ["--max-steps", 2]
    audited(flags, tmp_path / "events", cache)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**run, "finished": False}))
    said, seen = audited(flags, tmp_path / "events", cache)
    assert "goes on from the checkpoint of step 2" in said
    assert [e for e in seen if e["event"] == "pickle.find_class"] == []
    assert [e for e in seen if abroad(e)] == []


def test_the_audit_sees_what_it_is_to_see(tmp_path: Path) -> None:
    code = (
        "import worker_audit, pickle, socket, sys, collections\n"
        f"worker_audit.watch({str(tmp_path / 'events')!r})\n"
        "pickle.loads(pickle.dumps(collections.OrderedDict()))\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.connect(('192.0.2.1', 9))\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.connect(('127.0.0.1', 9))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=WORKER.parent, check=False, capture_output=True)
    seen = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [e["event"] for e in seen] == ["pickle.find_class", "socket.connect", "socket.connect"][: len(seen)]
    assert len(seen) >= 2 and abroad(seen[1])
    assert not any(abroad(e) for e in seen[2:])
