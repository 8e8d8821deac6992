"""Leases: who may do what, and what becomes of tasks whose workers fail, die or come back too late."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from farm_fakes import plan

from clear_dist.shadow.manifest import LEASE, MAX_ATTEMPTS, Lease, Manifest
from clear_dist.shadow.objects import Ref, put
from clear_dist.shadow.sidecars import read_sidecar
from clear_dist.shadow.task import Task


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def manifest(tmp_path: Path, clock: Clock) -> Iterator[Manifest]:
    with Manifest(tmp_path, clock) as manifest:
        manifest.add(plan(2))
        yield manifest


def claim(manifest: Manifest, worker: str = "w") -> Lease:
    lease = manifest.claim(worker)
    assert lease is not None
    return lease


def finish(manifest: Manifest, lease: Lease, value: float = 0.0) -> bool:
    ref = put(manifest.folder, {"a": torch.tensor([value])})
    return manifest.commit(lease, ref, ref, {"loss": value}, 2.0)


def states(manifest: Manifest) -> dict[str, str]:
    return {row.task.name: row.state for row in manifest.rows()}


def test_parents_come_first_and_bring_their_weights(manifest: Manifest) -> None:
    base = claim(manifest)
    assert (base.task.name, base.attempt, base.parents) == ("pretrain", 1, {})
    assert manifest.claim("other") is None, "all the rest waits for it"
    assert finish(manifest, base)
    first, second = claim(manifest), claim(manifest, "other")
    assert [first.task.name, second.task.name] == ["shadow/0", "shadow/1"]
    assert first.parents == {base.task.key: put(manifest.folder, {"a": torch.zeros(1)}).sha256}
    assert finish(manifest, second)
    assert claim(manifest, "other").task.name == "twins/1", "the other's parent is not done"


def test_a_late_worker_changes_nothing(manifest: Manifest, clock: Clock) -> None:
    slow = claim(manifest, "slow")
    clock.now += LEASE - 1
    assert manifest.heartbeat(slow)
    clock.now += LEASE - 1
    assert manifest.claim("quick") is None, "it was prolonged"
    clock.now += 2
    quick = claim(manifest, "quick")
    assert (quick.task, quick.attempt) == (slow.task, 2)
    assert not manifest.heartbeat(slow)
    assert not manifest.fail(slow, "late")
    assert not finish(manifest, slow, 1.0)
    assert read_sidecar(manifest.folder, slow.task.key) is None
    assert finish(manifest, quick, 2.0)
    assert not finish(manifest, slow, 1.0), "nor once the task is done"
    sidecar, row = read_sidecar(manifest.folder, slow.task.key), manifest.rows()[0]
    assert sidecar == row.done and sidecar is not None
    assert (sidecar.worker, sidecar.metrics) == ("quick", {"loss": 2.0})


def test_a_worker_that_lost_its_lease_to_itself_is_late_too(manifest: Manifest, clock: Clock) -> None:
    before = claim(manifest, "w")
    clock.now += LEASE + 1
    after = claim(manifest, "w")
    assert not finish(manifest, before)
    assert finish(manifest, after)


def test_errors_end_in_quarantine_and_children_wait(manifest: Manifest) -> None:
    finish(manifest, claim(manifest))
    lease = claim(manifest)
    assert lease.task.name == "shadow/0" and manifest.fail(lease, "error 1")
    for name in ("shadow/1", "twins/1"):
        lease = claim(manifest)
        assert lease.task.name == name, "what has not failed comes first"
        finish(manifest, lease)
    for attempt in range(2, MAX_ATTEMPTS + 1):
        lease = claim(manifest)
        assert (lease.task.name, lease.attempt) == ("shadow/0", attempt)
        assert manifest.fail(lease, f"error {attempt}")
    row = manifest.rows()[1]
    assert (row.state, row.error, row.attempts) == ("quarantined", "error 3", 3)
    assert manifest.claim("w") is None
    assert not manifest.has_work(), "what is left waits for the quarantined one"
    assert states(manifest)["twins/0"] == "pending" and manifest.unfinished() == 1
    assert manifest.retry_quarantined() == 1
    assert claim(manifest).attempt == 1


@pytest.mark.parametrize("told", [True, False])
def test_a_task_that_kills_its_workers_is_quarantined(manifest: Manifest, clock: Clock, told: bool) -> None:
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert claim(manifest, f"w{attempt}").attempt == attempt
        if told:
            assert manifest.abandon(f"w{attempt}", "it died") == 1
        else:
            clock.now += LEASE + 1
    assert manifest.claim("next") is None
    assert not manifest.has_work()
    assert manifest.rows()[0].state == "quarantined"
    assert manifest.rows()[0].error == ("it died" if told else "worker w3 stopped answering")


def test_given_back_is_not_failed(manifest: Manifest) -> None:
    for _ in range(2 * MAX_ATTEMPTS):
        lease = claim(manifest)
        assert lease.attempt == 1
        assert manifest.give_back("another") == 0
        assert manifest.give_back("w") == 1
        assert not finish(manifest, lease)
    claim(manifest)
    assert manifest.give_back() == 1 and states(manifest)["pretrain"] == "pending"


def test_a_task_is_one_workers_at_a_time(tmp_path: Path, manifest: Manifest) -> None:
    many: list[Task] = [task for task in plan(40) if not task.parents or task.kind == "shadow"]
    manifest.add(many)
    finish(manifest, claim(manifest))
    got: list[str] = []
    errors: list[BaseException] = []

    def body(worker: str) -> None:
        try:
            with Manifest(tmp_path) as mine:
                while (lease := mine.claim(worker)) is not None:
                    got.append(lease.task.name)
                    ref = Ref("ab" * 32, 1)
                    assert mine.commit(lease, ref, ref, {}, 1.0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    expected = [row.task.name for row in manifest.rows() if row.task.name != "pretrain"]
    assert sorted(got) == sorted(expected)


def test_a_crash_within_a_commit_loses_nothing(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = claim(manifest)

    def breaks(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "_set_done", breaks)
        with pytest.raises(KeyboardInterrupt):
            finish(manifest, lease)
    assert states(manifest)["pretrain"] == "leased"
    assert finish(manifest, lease), "the connection is usable, the lease still ours"


def test_reopened_within_a_run_counts_its_attempts(manifest: Manifest) -> None:
    key = manifest.rows()[0].task.key
    for _ in range(MAX_ATTEMPTS):
        finish(manifest, claim(manifest))
        manifest.reopen(key, "its file was damaged")
    assert manifest.claim("w") is None, "a disk that spoils every file does not keep it busy for ever"
    assert manifest.rows()[0].error == "its file was damaged"
    assert read_sidecar(manifest.folder, manifest.rows()[0].task.key) is None
