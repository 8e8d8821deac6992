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
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from clear_dist.shadow.folder import opened
from clear_dist.shadow.local import run_local
from clear_dist.shadow.objects import OBJECTS
from clear_dist.shadow.settings import FarmSettings, Training
from clear_dist.shadow.status import read_status
from clear_dist.shadow.worker import work

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "shadow"))
from farm_processes import ROOT, until, workers_of  # pyright: ignore[reportMissingImports]
from vision_farm import (  # pyright: ignore[reportMissingImports]
    finished,
    hashes,
    identities,
    make_farm,
    planned,
    run_farm,
    settings,
)

DATA = identities()
# (models, kills): a small farm at every change, a larger one in the soak run.
SIZES = [pytest.param((4, 3), id="few"), pytest.param((12, 22), id="many", marks=pytest.mark.soak)]
RUN = """
import sys
from pathlib import Path
from clear_dist.shadow.local import run_local
run_local(Path(sys.argv[1]), 2)
"""

Begin = Callable[[Path, str], ForkServerProcess]


@dataclass(frozen=True)
class Undisturbed:
    """A farm's settings, and what one worker makes of it: task -> digests of result and weights."""

    chosen: FarmSettings
    kills: int
    tasks: int
    made: dict[str, tuple[str, str | None]]


@pytest.fixture(scope="module", params=SIZES)
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    models, kills = request.param
    training = Training(6, 0.05, 16)
    chosen = settings(DATA, ("retain_ft", "npo", "scrub_bio"), models=models, shadow=training, trace=("npo",))
    tasks = len(planned(DATA, chosen)[1])
    farm = make_farm(tmp_path_factory.mktemp("undisturbed") / "farm", DATA, chosen)
    assert run_farm(farm) == tasks
    return Undisturbed(chosen, kills, tasks, hashes(farm))


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


def whole(farm: Path, tasks: int) -> None:
    """Every task is done, once; nothing lies there that no task came to; nothing half written."""
    status = read_status(farm)
    assert status.finished and status.quarantined == () and status.running == 0
    done = finished(farm)
    assert len(done) == tasks == len(list((farm / "tasks").iterdir()))
    refs = {ref.sha256 for d in done.values() for ref in (d.result, d.weights) if ref is not None}
    assert {path.stem for path in (farm / OBJECTS).iterdir()} == refs
    assert not list(farm.rglob("*.part"))


def test_workers_killed_at_random_make_the_same(
    tmp_path: Path, begin: Begin, undisturbed: Undisturbed, count_kills: Callable[[str, int], None]
) -> None:
    """Two workers; now one is killed and counts as lost, now both, and the farm is opened again."""
    farm = make_farm(tmp_path / "farm", DATA, undisturbed.chosen)
    draw = random.Random(11)
    pause = 0.5 if undisturbed.kills > 10 else 0.3
    kills = rounds = 0
    while kills < undisturbed.kills and len(finished(farm)) < undisturbed.tasks:
        rounds += 1
        with opened(farm) as manifest:
            manifest.retry_quarantined()
            crew = [begin(farm, f"w{rounds}-{n}") for n in range(2)]
            time.sleep(draw.uniform(0.1, pause))
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
            assert result == undisturbed.made[name]
    least = undisturbed.kills if undisturbed.kills > 10 else 1  # few tasks may be done before the last
    assert kills >= least, f"the farm was done after {kills} kills: give it more tasks"
    run_farm(farm)
    with opened(farm) as manifest:
        manifest.retry_quarantined()
    run_farm(farm)
    whole(farm, undisturbed.tasks)
    assert hashes(farm) == undisturbed.made
    count_kills("farm workers", kills)


@pytest.mark.soak
def test_the_whole_farm_killed_and_resumed_makes_the_same(
    tmp_path: Path, undisturbed: Undisturbed, count_kills: Callable[[str, int], None]
) -> None:
    """As users run it: the parent killed with its workers three times, then workers one by one while it lives."""
    farm = make_farm(tmp_path / "farm", DATA, undisturbed.chosen)
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
    whole(farm, undisturbed.tasks)
    assert hashes(farm) == undisturbed.made
    count_kills("farms with all their workers", 3)
    count_kills("farm workers", kills)
