"""The same farm by Ray's actors. Ray is started once here, which takes most of the time."""

from __future__ import annotations

import builtins
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from farm_fakes import executed, make_fake, plan, plant
from test_farm_folder import results

from clear_dist.errors import UserError
from clear_dist.shadow.folder import opened
from clear_dist.shadow.ray_farm import _room, run_ray
from clear_dist.shadow.status import Status, read_status
from clear_dist.shadow.worker import work

RUN = """
import sys
from pathlib import Path
from clear_dist.shadow.ray_farm import run_ray
seen = []
status = run_ray(Path(sys.argv[1]), 2, seen.append)
import ray
assert not ray.is_initialized() and seen[-1] == status
"""


@pytest.mark.slow
def test_actors_make_what_a_worker_makes(tmp_path: Path) -> None:
    """In a process of its own, as Ray stays in whatever has imported it. An actor is killed once, a task fails."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray")
    farm, other = tmp_path / "farm", tmp_path / "other"
    spared = tmp_path / "spared"
    tasks = plan(shadow_1={"error": True}, twins_0={"crash": True, "until": str(spared)})
    log = plant(farm, tasks)
    plant(other, tasks)
    command = [sys.executable, "-c", RUN, str(farm)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    status = read_status(farm)
    assert {(f.name, f.attempts) for f in status.quarantined} == {("shadow/1", 3), ("twins/0", 3)}
    assert status.blocked == ("twins/1",)
    errors = {f.name: f.error for f in status.quarantined}
    assert "ValueError: shadow/1 cannot be done" in errors["shadow/1"] and "its actor died" in errors["twins/0"]
    assert sorted(executed(log)) == sorted(
        ["pretrain", "shadow/0", "shadow/2", "twins/2", *["shadow/1"] * 3, *["twins/0"] * 3]
    )
    spared.touch()
    with opened(other):
        work(other, "w", runner=make_fake(str(log)))
    found = results(farm)
    assert len(found) == 4 and found.items() <= results(other).items()


class Cluster:
    """What ``_room`` asks of Ray."""

    def __init__(self, **there: float) -> None:
        self.there = there

    def cluster_resources(self) -> dict[str, float]:
        return self.there


@pytest.mark.parametrize(
    ("there", "workers", "threads", "gpus", "room"),
    [
        ({"CPU": 8.0}, 4, 1, 0.0, 4),
        ({"CPU": 8.0}, 9, 2, 0.0, 4),
        ({"CPU": 64.0, "GPU": 3.0}, 99, 1, 0.25, 12),
        ({"CPU": 64.0, "GPU": 3.0}, 99, 1, 0.4, 6),
        ({"CPU": 64.0, "GPU": 5.0}, 99, 1, 2.0, 2),
    ],
)
def test_room_for_actors(there: dict[str, float], workers: int, threads: int, gpus: float, room: int) -> None:
    assert _room(Cluster(**there), workers, threads, gpus) == room


def test_a_cluster_without_room_is_refused() -> None:
    with pytest.raises(UserError, match="too few for one worker"):
        _room(Cluster(CPU=4.0), 2, 1, 0.5)


def test_what_cannot_be_asked_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, plan())
    with pytest.raises(UserError, match="expected a part of one, or a whole number"):
        run_ray(tmp_path, 1, gpus_per_worker=1.5)
    with pytest.raises(UserError, match="expected at least 1"):
        run_ray(tmp_path, 0)
    found = builtins.__import__

    def no_ray(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_ray)
    seen: list[Status] = []
    with pytest.raises(UserError, match=r'Ray is not installed; pip install "clear-dist\[farm\]"'):
        run_ray(tmp_path, 1, seen.append)
    with opened(tmp_path):
        pass  # the farm was let go of
