"""A hang ends: with its own exit status, and a file that says where every thread was."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from clear_dist.engine.watchdog import HUNG, Watchdog

SLEEP = "time.sleep(100)"
STUCK = "re.match('(a+)+$', 'a' * 60 + 'b')"  # exponential, and Python's lock is held all the while


def hang(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    program = f"""
        import re, time
        from pathlib import Path
        from clear_dist.engine import watchdog
        watchdog._GRACE = 0.3
        def stuck_in_a_step():
            {how}
        with watchdog.Watchdog(Path({str(folder)!r}), 3, 0.5) as dog:
            dog.beat("step 12")
            stuck_in_a_step()
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(("how", "status"), [(SLEEP, HUNG), (STUCK, 1)], ids=["waiting", "holding the lock"])
def test_a_hang_is_dumped_and_ended(tmp_path: Path, how: str, status: int) -> None:
    ended = hang(tmp_path / "run", how)
    assert ended.returncode == status
    told = (tmp_path / "run" / "hang-rank00003.txt").read_text()
    assert "stuck_in_a_step" in told
    if status == HUNG:
        assert "no progress for too long: step 12" in told.splitlines()[0]
        assert "hang-rank00003.txt says where every thread is" in ended.stderr


def test_who_beats_is_left_alone(tmp_path: Path) -> None:
    with Watchdog(tmp_path / "run", 0, 0.4) as dog:
        for step in range(8):
            dog.beat(f"step {step}")
            time.sleep(0.1)
        dog.beat("evaluating", patience=10)
        time.sleep(0.6)
    assert list((tmp_path / "run").iterdir()) == [], "nothing hung, nothing is left"


def test_none_watches_nothing(tmp_path: Path) -> None:
    with Watchdog(tmp_path / "run", 0, 0) as dog:
        dog.beat("step 1")
    assert not (tmp_path / "run").exists()
