"""Runs a file of tests in Triton's interpreter, which is chosen when Triton is imported: hence in a process of its own.

In this one kernels may be compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(name: str, marked: str) -> str:
    """Summary of ``pytest -m MARKED tests/ops/NAME``; AssertionError with its output where a test fails or none ran."""
    here = Path(__file__).parent
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-m",
        marked,
        str(here / name),
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    for inherited in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        environment.pop(inherited, None)
    done = subprocess.run(command, cwd=here.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout
