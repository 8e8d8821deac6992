"""A process that is to end with its parent does, also where the parent was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

CHILD = (
    "import sys, time; from clear_dist.services.parent import leave_with; "
    "leave_with(int(sys.argv[1]), 0.02); time.sleep(60)"
)
PARENT = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_process_leaves_with_its_parent(root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.5)
    assert child.is_running() and parent.poll() is None
    parent.kill()
    parent.wait()
    parent.stdout.close()
    gone, _ = psutil.wait_procs([child], timeout=20)
    if not gone:
        child.kill()
    assert gone
