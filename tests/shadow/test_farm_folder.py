"""A farm's directory: planned twice, damaged in every way, opened by two."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from farm_fakes import HEAD, executed, make_fake, plan, plant

from clear_dist.errors import UserError
from clear_dist.shadow.folder import create_farm, locked, opened, read_farm_file, verify
from clear_dist.shadow.manifest import Manifest
from clear_dist.shadow.objects import object_path
from clear_dist.shadow.sidecars import read_sidecars, sidecar_path
from clear_dist.shadow.status import read_status
from clear_dist.shadow.task import RunnerRef, Task, make_task
from clear_dist.shadow.worker import work

RUNNER = RunnerRef("tests.shadow.farm_fakes:make_fake", {"log": "x"})


def results(farm: Path) -> dict[str, tuple[str, str | None]]:
    """Name -> what it came to: SHA-256 of the result and of the weights."""
    done = read_sidecars(farm).values()
    return {d.name: (d.result.sha256, d.weights.sha256 if d.weights else None) for d in done}


def run(farm: Path, log: Path) -> int:
    with opened(farm):
        return work(farm, "w", runner=make_fake(str(log)), idle=0.01)


@pytest.fixture
def done(tmp_path: Path) -> tuple[Path, Path]:
    """A finished farm, and the log of its executions."""
    farm = tmp_path / "farm"
    log = plant(farm, plan())
    assert run(farm, log) == 7
    log.unlink()
    return farm, log


def test_a_plan_is_read_back(tmp_path: Path) -> None:
    farm = create_farm(tmp_path / "farm", HEAD, RUNNER, plan())
    assert read_farm_file(tmp_path / "farm") == farm
    keep = {task.name: task.keep_weights for task in farm.tasks}
    assert keep == {**dict.fromkeys(["pretrain", "shadow/0", "shadow/1", "shadow/2"], True),
                    **dict.fromkeys(["twins/0", "twins/1", "twins/2"], False)}  # fmt: skip


def test_the_same_plan_does_nothing_again(done: tuple[Path, Path]) -> None:
    farm, log = done
    create_farm(farm, HEAD, RUNNER, plan())
    assert run(farm, log) == 0 and executed(log) == []


def test_another_method_is_added(done: tuple[Path, Path]) -> None:
    farm, log = done
    before = results(farm)
    shadow = plan()[1]
    create_farm(farm, HEAD, RUNNER, [*plan(), make_task("unlearn", "rmu/0", {"name": "rmu/0"}, (shadow.key,))])
    assert run(farm, log) == 1 and executed(log) == ["rmu/0"]
    assert before.items() <= results(farm).items()
    create_farm(farm, HEAD, RUNNER, plan())
    assert "rmu/0" in {task.name for task in read_farm_file(farm).tasks}, "what an earlier plan asked for stays"


def test_weights_wanted_later_are_made(done: tuple[Path, Path]) -> None:
    farm, log = done
    last = plan()[-1]
    create_farm(farm, HEAD, RUNNER, [*plan()[:-1], replace(last, keep_weights=True)])
    assert run(farm, log) == 1 and executed(log) == ["twins/2"]
    assert results(farm)["twins/2"][1] is not None


@pytest.mark.parametrize(
    ("head", "tasks", "said"),
    [
        ({"settings": {"seed": 2, "models": 3}, "threads": 1}, plan(), r"settings\.seed: 1 there, 2 now"),
        ({"settings": {"seed": 1}, "threads": 1}, plan(), r"settings\.models: 3 there, None now"),
        (HEAD, plan(wait=0.5), r"task pretrain is another one there .*spec\.wait: 0\.0 there, 0\.5 now"),
        (HEAD, [make_task("unlearn", "x/0", {}, ("ab" * 32,))], "its parent abababababab must come before it"),
        (HEAD, [make_task("shadow", "a/0", {}), make_task("shadow", "a/1", {})], "tasks a/0 and a/1 are the same"),
        ({"lr": float("inf")}, plan(), "cannot be written as JSON"),
    ],
)
def test_another_farm_is_refused(tmp_path: Path, head: dict[str, object], tasks: list[Task], said: str) -> None:
    create_farm(tmp_path, HEAD, RUNNER, plan())
    before = (tmp_path / "farm.json").read_bytes()
    with pytest.raises(UserError, match=said):
        create_farm(tmp_path, head, RUNNER, tasks)
    assert (tmp_path / "farm.json").read_bytes() == before


def test_a_farm_file_that_cannot_be_read_is_said(done: tuple[Path, Path]) -> None:
    farm, log = done
    text = (farm / "farm.json").read_text()
    (farm / "farm.json").write_text(text[:-20])
    with pytest.raises(UserError, match=r"farm\.json: cannot be read"), opened(farm):
        pass
    content = json.loads(text)
    content["tasks"][1]["spec"]["wait"] = 1.0
    (farm / "farm.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="shadow/0 was changed by hand"), opened(farm):
        pass
    (farm / "farm.json").unlink()
    with pytest.raises(UserError, match="no farm of shadow models there"):
        read_status(farm)
    create_farm(farm, HEAD, RUNNER, plan())
    assert run(farm, log) == 0, "what is done is found again"


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("harm", [_flip, _cut, Path.unlink])
@pytest.mark.parametrize(("name", "which"), [("twins/1", 0), ("shadow/1", 0), ("shadow/1", 1)])
def test_a_damaged_file_is_made_again(
    done: tuple[Path, Path], harm: Callable[[Path], None], name: str, which: int
) -> None:
    farm, log = done
    before = results(farm)
    sha256 = before[name][which]
    assert sha256 is not None
    harm(object_path(farm, sha256))
    assert run(farm, log) == 1
    assert executed(log) == [name]
    assert results(farm) == before
    assert read_status(farm).notes == (f"{name} is done again: a file was damaged",)


@pytest.mark.parametrize("harm", [_cut, Path.unlink])
def test_a_damaged_sidecar_is_written_again(done: tuple[Path, Path], harm: Callable[[Path], None]) -> None:
    farm, log = done
    before = read_sidecars(farm)
    harm(sidecar_path(farm, plan()[2].key))
    assert run(farm, log) == 0
    assert read_sidecars(farm) == before


@pytest.mark.parametrize("harm", ["remove", "empty", "text", "middle", "foreign"])
def test_the_database_is_made_again(done: tuple[Path, Path], harm: str) -> None:
    farm, log = done
    before = results(farm)
    with Manifest(farm) as manifest:
        manifest.note("before")
    path = farm / "farm.db"
    if harm == "remove":
        path.unlink()
    elif harm == "middle":
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xff" * (len(data) - 4096)
        path.write_bytes(bytes(data))
    elif harm == "foreign":
        shutil.copy(farm / "farm.json", path)
    else:
        path.write_bytes(b"" if harm == "empty" else b"no database at all" * 1000)
    _cut(sidecar_path(farm, plan()[-1].key))
    assert run(farm, log) == 1 and executed(log) == ["twins/2"], "all that is lost is what the cut sidecar said"
    assert results(farm) == before
    assert read_status(farm).finished
    moved = [p.name for p in farm.glob("farm.db.damaged-1")]
    assert moved == ([] if harm in ("remove", "empty") else ["farm.db.damaged-1"])
    assert len([n for n in read_status(farm).notes if "was damaged" in n]) == len(moved)


def test_what_a_lost_worker_had_written_is_kept(done: tuple[Path, Path]) -> None:
    """Killed between sidecar and row, or the row was lost: the files are good, so nothing is done again."""
    farm, log = done
    with Manifest(farm) as manifest:
        manifest._db.execute("UPDATE tasks SET state = 'pending', result = NULL WHERE name = 'shadow/1'")
    assert run(farm, log) == 0 and executed(log) == []
    assert read_status(farm).finished


def test_leases_of_those_before_us_are_given_back(tmp_path: Path) -> None:
    plant(tmp_path, plan())
    for _ in range(5):
        with opened(tmp_path) as manifest:
            lease = manifest.claim("w")
            assert lease is not None and lease.attempt == 1, "this process ended, which says nothing of the task"


def test_verify_can_look_at_sizes_alone(done: tuple[Path, Path]) -> None:
    farm, _ = done
    shas = results(farm)
    _flip(object_path(farm, shas["twins/0"][0]))
    _cut(object_path(farm, shas["twins/1"][0]))
    with Manifest(farm) as manifest:
        assert verify(manifest, deep=False) == ["twins/1"]
        assert verify(manifest) == ["twins/0"]
        assert verify(manifest) == []


def test_one_at_a_time(tmp_path: Path) -> None:
    plant(tmp_path, plan())
    with locked(tmp_path):
        with pytest.raises(UserError, match=r"in use by process \d+ on "), opened(tmp_path):
            pass
        with pytest.raises(UserError, match="in use by"):
            create_farm(tmp_path, HEAD, RUNNER, plan())
        assert read_status(tmp_path).total == 7, "looking is free"
    with opened(tmp_path):
        pass
