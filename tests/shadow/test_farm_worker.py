"""A worker in this process: what it makes of errors, damage, a full disk, Ctrl-C; and how far a farm is said to be."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from farm_fakes import executed, make_fake, plan, plant
from test_farm_folder import results
from torch import Tensor

from clear_dist.errors import UserError
from clear_dist.shadow import worker
from clear_dist.shadow.folder import opened
from clear_dist.shadow.manifest import Manifest
from clear_dist.shadow.objects import object_path
from clear_dist.shadow.status import Status, read_status
from clear_dist.shadow.task import Outcome, Task
from clear_dist.shadow.worker import work

NAMES = [task.name for task in plan()]


def states(farm: Path) -> dict[str, tuple[str, int]]:
    with Manifest(farm) as manifest:
        return {row.task.name: (row.state, row.attempts) for row in manifest.rows()}


def test_errors_are_the_tasks_own(tmp_path: Path) -> None:
    log = plant(tmp_path / "farm", plan(shadow_1={"error": True}))
    with opened(tmp_path / "farm"):
        assert work(tmp_path / "farm", "w", runner=make_fake(str(log))) == 5
    assert executed(log) == ["pretrain", "shadow/0", "shadow/1", "shadow/2", "twins/0", "twins/2", *["shadow/1"] * 2]
    status = read_status(tmp_path / "farm")
    assert [(f.name, f.attempts) for f in status.quarantined] == [("shadow/1", 3)]
    assert "ValueError: shadow/1 cannot be done" in status.quarantined[0].error
    assert status.blocked == ("twins/1",) and not status.finished and status.eta == 0


def test_weights_that_are_to_be_kept_must_come(tmp_path: Path) -> None:
    log = plant(tmp_path / "farm", plan(1))
    with opened(tmp_path / "farm"):
        assert work(tmp_path / "farm", "w", runner=make_fake(str(log), weights=False)) == 0
    status = read_status(tmp_path / "farm")
    assert "the runner returned none" in status.quarantined[0].error
    assert status.blocked == ("shadow/0", "twins/0")


def test_a_runner_that_exits_has_failed(tmp_path: Path) -> None:
    plant(tmp_path, plan(1))

    def run(task: Task, parents: Mapping[str, Mapping[str, Tensor]]) -> Outcome:
        raise SystemExit(3)

    with opened(tmp_path):
        assert work(tmp_path, "w", runner=run) == 0
    assert states(tmp_path)["pretrain"] == ("quarantined", 3)


@pytest.mark.parametrize("how", ["flip", "remove"])
def test_a_parents_weights_damaged_meanwhile_are_made_again(tmp_path: Path, how: str) -> None:
    farm = tmp_path / "farm"
    log = plant(farm, plan(1))
    fake = make_fake(str(log))
    with opened(farm):
        assert work(farm, "w", runner=fake, stop=lambda: len(executed(log)) == 2) == 2
        expected = results(farm)
        path = object_path(farm, expected["shadow/0"][1] or "")
        path.unlink() if how == "remove" else path.write_bytes(path.read_bytes()[::-1])
        assert work(farm, "w", runner=fake) == 2
    assert executed(log) == ["pretrain", "shadow/0", "shadow/0", "twins/0"]
    assert expected.items() <= results(farm).items()
    assert states(farm)["twins/0"] == ("done", 1), "the child's own attempt was not counted"
    assert "its content has changed" in read_status(farm).notes[0] or how == "remove"


def test_a_full_disk_ends_the_worker_not_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    farm = tmp_path / "farm"
    log = plant(farm, plan(1))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(farm):
        with monkeypatch.context() as patched, pytest.raises(UserError, match="No space left on device"):
            patched.setattr(os, "fsync", full)
            work(farm, "w", runner=make_fake(str(log)))
        assert states(farm)["pretrain"] == ("pending", 0)
        assert work(farm, "w", runner=make_fake(str(log))) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, worker.Leave])
def test_told_to_stop_it_gives_its_task_back(tmp_path: Path, error: type[BaseException]) -> None:
    plant(tmp_path, plan(1))

    def run(task: Task, parents: Mapping[str, Mapping[str, Tensor]]) -> Outcome:
        raise error

    with opened(tmp_path), pytest.raises(error):
        work(tmp_path, "w", runner=run)
    assert states(tmp_path)["pretrain"] == ("pending", 0)


def test_leases_are_prolonged_while_a_task_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's clock is far ahead after each beat, and still finds the lease good."""
    farm = tmp_path / "farm"
    plant(farm, plan(1))
    fake = make_fake(str(tmp_path / "log"))
    monkeypatch.setattr(worker, "LEASE", 0.04)  # a beat every 10 ms
    beats: list[str] = []
    beat = Manifest.heartbeat
    monkeypatch.setattr(Manifest, "heartbeat", lambda self, lease: beats.append(lease.task.name) or beat(self, lease))

    def run(task: Task, parents: Mapping[str, Mapping[str, Tensor]]) -> Outcome:
        while beats.count(task.name) < 2:
            pass
        return fake(task, parents)

    with opened(farm):
        assert work(farm, "w", runner=run) == 3
    assert set(beats) == {"pretrain", "shadow/0", "twins/0"}


def test_progress_from_the_database_and_from_sidecars(tmp_path: Path) -> None:
    farm = tmp_path / "farm"
    log = plant(farm, plan())
    fake = make_fake(str(log))
    seen: list[Status] = []

    def run(task: Task, parents: Mapping[str, Mapping[str, Tensor]]) -> Outcome:
        seen.append(read_status(farm))
        return fake(task, parents)

    start = read_status(farm)
    assert (start.total, start.done, start.eta, start.models_per_hour) == (7, 0, None, None)
    with opened(farm):
        work(farm, "w", runner=run)
    assert [s.done for s in seen] == list(range(7)) and {s.running for s in seen} == {1}
    assert [s.workers[0].task for s in seen] == NAMES
    assert seen[0].eta is None and all((s.eta or 0) > 0 for s in seen[1:])
    end = read_status(farm)
    assert end.finished and end.eta == 0 and (end.models_per_hour or 0) > 0
    assert [(g.kind, g.name, g.total, g.done) for g in end.groups] == [
        ("pretrain", "pretrain", 1, 1), ("shadow", "shadow", 3, 3), ("unlearn", "twins", 3, 3)
    ]  # fmt: skip
    assert end.size == sum(p.stat().st_size for p in (farm / "objects").iterdir())
    from_files = read_status(farm, source="sidecars")
    assert (from_files.groups, from_files.size, from_files.workers) == (end.groups, end.size, ())
    (farm / "farm.db").unlink()
    assert read_status(farm) == from_files


def test_estimates_go_by_group_and_workers(tmp_path: Path) -> None:
    farm = tmp_path / "farm"
    plant(farm, plan())
    fake = make_fake(str(tmp_path / "log"))
    with opened(farm) as manifest:
        work(farm, "w", runner=fake, stop=lambda: manifest.finished() == 3)  # pretrain and two shadow models
        for name, seconds in (("pretrain", 500.0), ("shadow/0", 10.0), ("shadow/1", 30.0)):
            manifest._db.execute("UPDATE tasks SET seconds = ? WHERE name = ?", (seconds, name))
        assert manifest.claim("a") and manifest.claim("b")
        status = read_status(farm)
    # one shadow model at a median of 20 s, three unlearnings at the overall median of 30 s, by two workers
    assert status.eta == pytest.approx((20 + 3 * 30) / 2)
    assert status.models_per_hour == pytest.approx(3600 * 2 / 30)
