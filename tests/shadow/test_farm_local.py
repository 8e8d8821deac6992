"""Worker processes: results are the same whoever makes them, however often they are killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from farm_fakes import executed, make_fake, plan, plant
from farm_processes import ROOT, until, workers_of
from test_farm_folder import results

from clear_dist.errors import UserError
from clear_dist.shadow import local
from clear_dist.shadow.folder import opened
from clear_dist.shadow.local import run_local
from clear_dist.shadow.status import Status, read_status
from clear_dist.shadow.worker import TOO_LONG, work

RUN = """
import sys
from pathlib import Path
from clear_dist.shadow.local import run_local
run_local(Path(sys.argv[1]), int(sys.argv[2]))
"""


def in_turn(farm: Path) -> dict[str, tuple[str, str | None]]:
    """What one worker, undisturbed, makes of the same tasks as ``farm``'s; None are its waits."""
    with opened(farm):
        work(farm, "alone", runner=make_fake(str(farm.with_name("reference.log"))))
    return results(farm)


def start(farm: Path, workers: int = 2) -> subprocess.Popen[bytes]:
    """A process that runs the farm, as a terminal starts it: leader of a group."""
    command = [sys.executable, "-c", RUN, str(farm), str(workers)]
    return subprocess.Popen(command, process_group=0, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ROOT})


def test_two_workers_make_what_one_makes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    plant(one, plan())
    # besides: one task kills its worker once, which costs an attempt and no more
    again = tmp_path / "again"
    log = plant(two, plan(twins_0={"crash": True, "until": str(again)}))
    seen: list[Status] = []

    def watch(status: Status) -> None:
        seen.append(status)
        if "twins/0" in executed(log):
            again.touch()

    status = run_local(two, 2, watch)
    assert status.finished and status == seen[-1] and status.quarantined == ()
    assert 1 <= Counter(executed(log))["twins/0"] - 1 <= 2
    expected, found = in_turn(one), results(two)
    same = {name for name in expected if name != "twins/0"}
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}
    assert workers_of(two) == []
    assert run_local(two, 2).finished, "nothing is left to do, and no process is started for it"
    assert len(list((two / "logs").iterdir())) <= 4


def test_workers_that_cannot_start_are_said(tmp_path: Path) -> None:
    plant(tmp_path / "farm", plan(), "no_runner")
    with pytest.raises(UserError, match=r"(?s)workers cannot be started.*no pictures beside"):
        run_local(tmp_path / "farm", 1)
    assert {row.done for row in read_status(tmp_path / "farm").groups} == {0}
    with pytest.raises(UserError, match="expected at least 1"):
        run_local(tmp_path / "farm", 0)


def test_workers_that_die_one_after_the_other_end_the_farm() -> None:
    losses = local.Losses(1)
    for _ in range(7):
        losses.add(0, "signal 11")
    losses.add(1, "signal 11")  # a task was finished in between
    for _ in range(6):
        losses.add(1, "signal 11")
    with pytest.raises(UserError, match=r"8 workers died, one after the other.*signal 11"):
        losses.add(1, "signal 11")


def test_workers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = local.worker_environment(2, "3")
    assert environment["CUDA_VISIBLE_DEVICES"] == "3" and environment["OMP_NUM_THREADS"] == "2"
    assert environment["MALLOC_MMAP_MAX_"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in local.worker_environment(1)


def test_ctrl_c_leaves_tasks_pending_and_no_process(tmp_path: Path) -> None:
    farm = tmp_path / "farm"
    log = plant(farm, plan(shadow_0={"hang": True}, shadow_1={"hang": True}))
    process = start(farm)
    until(lambda: {"shadow/0", "shadow/1"} <= set(executed(log)))
    with pytest.raises(UserError, match="in use by process"):
        run_local(farm, 1)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in said
    assert workers_of(farm) == []
    status = read_status(farm)
    assert (status.done, status.running, status.quarantined) == (1, 0, ())
    with opened(farm) as manifest:
        assert {row.attempts for row in manifest.rows() if row.state == "pending"} == {0}


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    farm = tmp_path / "farm"
    log = plant(farm, plan(1, shadow_0={"hang": True}))
    process = start(farm, 1)
    until(lambda: "shadow/0" in executed(log))
    assert len(workers_of(farm)) == 1
    process.kill()
    process.communicate(timeout=60)
    until(lambda: workers_of(farm) == [])
    with opened(farm) as manifest:  # the lock went with them
        assert [(row.state, row.attempts) for row in manifest.rows()][1] == ("pending", 0)


@pytest.fixture
def cheap() -> Iterator[Callable[..., ForkServerProcess]]:
    """Worker processes that need not import torch: forked from a server that has."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "safetensors.torch", "clear_dist.shadow.worker", "farm_fakes"])
    crew: list[ForkServerProcess] = []

    def begin(farm: Path, name: str, log: str, time_limit: float | None = None) -> ForkServerProcess:
        process = context.Process(target=one_worker, args=(farm, name, log, time_limit), daemon=True)
        process.start()
        crew.append(process)
        return process

    yield begin
    for process in crew:
        process.kill()
        process.join()


def one_worker(farm: Path, name: str, log: str, time_limit: float | None) -> None:
    work(farm, name, runner=make_fake(log), idle=0.01, time_limit=time_limit)


def test_a_task_that_hangs_is_given_up(tmp_path: Path, cheap: Callable[..., ForkServerProcess]) -> None:
    farm = tmp_path / "farm"
    log = plant(farm, plan(1, shadow_0={"hang": True}))
    with opened(farm):
        for n in range(3):
            process = cheap(farm, f"w{n}", str(log), 0.3)
            process.join(60)
            assert process.exitcode == TOO_LONG
    status = read_status(farm)
    assert [f.name for f in status.quarantined] == ["shadow/0"] and status.blocked == ("twins/0",)
    assert "took longer than 0.3 seconds" in status.quarantined[0].error
    assert "time.sleep(0.05)" in status.quarantined[0].error, "where it hung"
    assert executed(log) == ["pretrain", *["shadow/0"] * 3]


def test_killed_at_random_nothing_is_lost_or_done_twice(
    tmp_path: Path, cheap: Callable[..., ForkServerProcess], count_kills: Callable[[str, int], None]
) -> None:
    """24 kills: of one of two workers, or of everything, which is then opened again."""
    farm, other = tmp_path / "farm", tmp_path / "other"
    tasks = plan(30, wait=0.02)
    log = plant(farm, tasks)
    plant(other, tasks)
    draw = random.Random(7)
    kills, rounds = 0, 0
    while kills < 24:
        rounds += 1
        with opened(farm) as manifest:
            manifest.retry_quarantined()
            crew = [cheap(farm, f"w{rounds}-{n}", str(log)) for n in range(2)]
            time.sleep(draw.uniform(0.0, 0.15))
            if draw.random() < 0.5:
                _kill(crew[0])
                manifest.abandon(f"w{rounds}-0", "killed")
                kills += 1
                time.sleep(draw.uniform(0.0, 0.1))
            for process in crew:
                if process.is_alive():
                    _kill(process)
                    kills += 1
        before = results(farm)
        if len(before) == len(tasks):
            break
    killed = kills
    with opened(farm) as manifest:
        manifest.retry_quarantined()
        work(farm, "last", runner=make_fake(str(log)))
    assert killed >= 20, "the farm was done too soon: give it more tasks"
    assert read_status(farm).finished
    counts = Counter(executed(log))
    assert set(counts) == {task.name for task in tasks}
    assert sum(counts.values()) - len(tasks) <= killed, "twice only what was killed"
    with opened(other):
        work(other, "alone", runner=make_fake(str(tmp_path / "reference.log")))
    assert results(farm) == results(other)
    count_kills("farm workers", killed)


def _kill(process: ForkServerProcess) -> None:
    process.kill()
    process.join()


@pytest.mark.slow
def test_the_whole_farm_killed_and_resumed(tmp_path: Path) -> None:
    """The parent, with its workers, killed three times; then one worker after the other, while the parent lives."""
    farm, other = tmp_path / "farm", tmp_path / "other"
    tasks = plan(20, wait=0.15)
    log = plant(farm, tasks)
    plant(other, tasks)
    draw = random.Random(3)
    for _ in range(3):
        process = start(farm)
        known = len(executed(log))
        until(lambda known=known: len(executed(log)) > known + 1)
        time.sleep(draw.uniform(0, 0.3))
        process.kill()
        process.communicate(timeout=60)
        until(lambda: workers_of(farm) == [])
    process = start(farm)
    kills = 0
    while process.poll() is None and kills < 5:
        known = len(executed(log))
        until(lambda known=known: len(executed(log)) > known or process.poll() is not None)
        for worker in workers_of(farm)[:1]:
            os.kill(worker, signal.SIGKILL)
            kills += 1
    process.communicate(timeout=120)
    assert process.returncode == 0
    with opened(farm) as manifest:
        manifest.retry_quarantined()  # killed at the same task three times, by chance
    assert run_local(farm, 2).finished
    with opened(other):
        work(other, "alone", runner=make_fake(str(tmp_path / "reference.log")))
    assert results(farm) == results(other)
    assert sum(Counter(executed(log)).values()) - len(tasks) <= 2 * 3 + kills
