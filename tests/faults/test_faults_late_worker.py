"""Two workers on one lease: a process that is stopped, and wakes up when its task has long been another's, changes
nothing. Real processes, a real SIGSTOP, and the farm's own clock with a lease of a second."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from torch import Tensor

from clear_dist.shadow import manifest as manifest_module
from clear_dist.shadow import worker as worker_module
from clear_dist.shadow.folder import opened
from clear_dist.shadow.sidecars import read_sidecars
from clear_dist.shadow.status import read_status
from clear_dist.shadow.task import Outcome, Runner, Task
from clear_dist.shadow.worker import work

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "shadow"))
from farm_fakes import executed, make_fake, plan, plant  # pyright: ignore[reportMissingImports]
from farm_processes import until  # pyright: ignore[reportMissingImports]
from vision_farm import hashes  # pyright: ignore[reportMissingImports]

SECOND = 1.0


def impatient() -> None:
    manifest_module.LEASE = worker_module.LEASE = SECOND


def slow(log: str, go: Path) -> Runner:
    """Begins the task, then waits for a file."""
    inner = make_fake(log)

    def run(task: Task, parents: Mapping[str, Mapping[str, Tensor]]) -> Outcome:
        outcome = inner(task, parents)
        while not go.exists():
            time.sleep(0.01)
        return outcome

    return run


def late_worker(farm: str, log: str, go: str, out: str) -> None:
    impatient()
    Path(out).write_text(str(work(Path(farm), "late", runner=slow(log, Path(go)), idle=0.01)))


@pytest.mark.distributed
def test_who_wakes_up_too_late_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "LEASE", SECOND)
    monkeypatch.setattr(worker_module, "LEASE", SECOND)
    farm, other, go, out = (tmp_path / name for name in ("farm", "other", "go", "out"))
    log = plant(farm, plan(3))
    context = multiprocessing.get_context("forkserver")
    late: ForkServerProcess = context.Process(target=late_worker, args=(str(farm), str(log), str(go), str(out)))
    with opened(farm):
        late.start()
        until(lambda: executed(log) == ["pretrain"])
        os.kill(late.pid or 0, signal.SIGSTOP)  # no heartbeat from here on
        try:
            done = work(farm, "quick", runner=make_fake(str(log)), idle=0.05)
            assert done == 7, "the stopped worker's task too"
            mine = hashes(farm)
            go.touch()
        finally:
            os.kill(late.pid or 0, signal.SIGCONT)
        late.join(60)
        assert late.exitcode == 0 and out.read_text() == "0", "it had the task, and its result counts for nothing"
        assert hashes(farm) == mine
        assert {done.worker for done in read_sidecars(farm).values()} == {"quick"}
        assert read_status(farm).finished and executed(log).count("pretrain") == 2
    log = plant(other, plan(3))
    with opened(other):
        work(other, "alone", runner=make_fake(str(log)))
    assert hashes(other) == mine


def test_of_many_workers_at_once_each_task_is_one_s(tmp_path: Path) -> None:
    """Four workers on the same farm, two ways round: the same results, and no task is begun twice."""
    made = []
    for crew in (4, 1):
        farm = tmp_path / f"farm{crew}"
        log = plant(farm, plan(12))
        with opened(farm):
            names = [f"w{n}" for n in range(crew)]
            threads = [
                threading.Thread(target=work, args=(farm, name), kwargs={"runner": make_fake(str(log)), "idle": 0.01})
                for name in (names if crew > 1 else names[:1])
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(executed(log)) == len(set(executed(log))) == 25
        made.append(hashes(farm))
    assert made[0] == made[1]
