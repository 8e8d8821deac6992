"""Farms that really train, killed without warning at any moment: what comes of them is the same to the bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from farm_processes import ROOT, until, workers_of
from vision_farm import finished, hashes, identities, make_farm, planned, run_farm, settings

from clear_dist.shadow.folder import opened
from clear_dist.shadow.local import run_local
from clear_dist.shadow.objects import OBJECTS
from clear_dist.shadow.settings import Training
from clear_dist.shadow.status import read_status
from clear_dist.shadow.worker import work

DATA = identities()
CHOSEN = settings(DATA, ("retain_ft", "npo", "scrub_bio"), models=12, shadow=Training(6, 0.05, 16), trace=("npo",))
TASKS = len(planned(DATA, CHOSEN)[1])
KILLS = 22
RUN = """
import sys
from pathlib import Path
from clear_dist.shadow.local import run_local
run_local(Path(sys.argv[1]), 2)
"""

Begin = Callable[[Path, str], ForkServerProcess]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str | None]]:
    """What one worker makes of the farm."""
    farm = make_farm(tmp_path_factory.mktemp("undisturbed") / "farm", DATA, CHOSEN)
    assert run_farm(farm) == TASKS
    return hashes(farm)


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Worker processes that need not import torch: forked from a server that has."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "safetensors.torch", "clear_dist.shadow.run", "clear_dist.shadow.worker"])
    crew: list[ForkServerProcess] = []

    def start(farm: Path, name: str) -> ForkServerProcess:
        process = context.Process(target=one_worker, args=(farm, name), daemon=True)
        process.start()
        crew.append(process)
        return process

    yield start
    for process in crew:
        process.kill()
        process.join()


def one_worker(farm: Path, name: str) -> None:
    work(farm, name, idle=0.01)


def whole(farm: Path) -> None:
    """Every task is done, once; nothing lies there that no task came to; nothing half written."""
    status = read_status(farm)
    assert status.finished and status.quarantined == () and status.running == 0
    done = finished(farm)
    assert len(done) == TASKS == len(list((farm / "tasks").iterdir()))
    refs = {ref.sha256 for d in done.values() for ref in (d.result, d.weights) if ref is not None}
    assert {path.stem for path in (farm / OBJECTS).iterdir()} == refs
    assert not list(farm.rglob("*.part"))


@pytest.mark.slow
def test_workers_killed_at_random_make_the_same(
    tmp_path: Path, begin: Begin, undisturbed: dict[str, tuple[str, str | None]]
) -> None:
    """Two workers; now one is killed and counts as lost, now both, and the farm is opened again."""
    farm = make_farm(tmp_path / "farm", DATA, CHOSEN)
    draw = random.Random(11)
    kills = rounds = 0
    while kills < KILLS and len(finished(farm)) < TASKS:
        rounds += 1
        with opened(farm) as manifest:
            manifest.retry_quarantined()
            crew = [begin(farm, f"w{rounds}-{n}") for n in range(2)]
            time.sleep(draw.uniform(0.1, 0.9))
            if draw.random() < 0.4 and crew[0].is_alive():
                crew[0].kill()
                crew[0].join()
                manifest.abandon(f"w{rounds}-0", "killed")
                kills += 1
                time.sleep(draw.uniform(0.0, 0.4))
            for process in crew:
                if process.is_alive():
                    process.kill()
                    process.join()
                    kills += 1
        for name, result in hashes(farm).items():
            assert result == undisturbed[name]
    assert kills >= 20, f"the farm was done after {kills} kills: give it more tasks"
    run_farm(farm)
    with opened(farm) as manifest:
        manifest.retry_quarantined()
    run_farm(farm)
    whole(farm)
    assert hashes(farm) == undisturbed


@pytest.mark.slow
def test_the_whole_farm_killed_and_resumed_makes_the_same(
    tmp_path: Path, undisturbed: dict[str, tuple[str, str | None]]
) -> None:
    """As users run it: the parent killed with its workers three times, then workers one by one while it lives."""
    farm = make_farm(tmp_path / "farm", DATA, CHOSEN)
    draw = random.Random(5)

    def start() -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": ROOT}
        return subprocess.Popen([sys.executable, "-c", RUN, str(farm)], stderr=subprocess.PIPE, env=environment)

    for _ in range(3):
        process = start()
        known = len(finished(farm))
        until(lambda known=known: len(finished(farm)) > known)
        time.sleep(draw.uniform(0.0, 0.5))
        process.kill()
        process.communicate(timeout=60)
        until(lambda: workers_of(farm) == [])
    process = start()
    kills = 0
    while process.poll() is None and kills < 3:
        known = len(finished(farm))
        until(lambda known=known: len(finished(farm)) > known or process.poll() is not None)
        for worker in workers_of(farm)[:1]:
            time.sleep(draw.uniform(0.0, 0.2))
            os.kill(worker, signal.SIGKILL)
            kills += 1
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    with opened(farm) as manifest:
        manifest.retry_quarantined()
    assert run_local(farm, 1).finished
    whole(farm)
    assert hashes(farm) == undisturbed
