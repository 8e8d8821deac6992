"""The command shadow-farm: from a folder of pictures to a report, gone on with, added to, refused."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from farm_commands import METHOD, TASKS, farm_command, in_this_process, run, write_pictures, written
from PIL import Image
from shadow.vision_farm import hashes

from clear_dist.recipes import shadow_farm
from clear_dist.services import rundir
from clear_dist.shadow.objects import OBJECTS
from clear_dist.shadow.results import read_results
from clear_dist.shadow.status import read_status

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shadow_farm")


@pytest.fixture(autouse=True)
def cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(place / "cache"))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def images(place: Path) -> Path:
    """14 people; besides, two files that are no pictures, and a person with a single picture."""
    folder = write_pictures(place / "pictures")
    (folder / "p00" / "empty.png").touch()
    (folder / "p01" / "broken.png").write_bytes((folder / "p01" / "0.png").read_bytes()[:60])
    (folder / "alone").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "alone" / "0.png")
    return folder


@pytest.fixture(scope="module")
def said(place: Path, images: Path) -> str:
    """What the command printed that made the farm, with two worker processes."""
    command = [sys.executable, "-m", "clear_dist", *farm_command(images, place / "farm", *METHOD, "--workers", 2)]
    environment = {**os.environ, "CLEAR_DIST_CACHE": str(place / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stderr.split())


@pytest.fixture
def farm(place: Path, said: str) -> Path:
    assert said
    return place / "farm"


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker processes."""
    monkeypatch.setattr(shadow_farm, "run_local", in_this_process)


def test_a_farm_of_a_folder_is_made_and_attacked(
    farm: Path, said: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert f"{TASKS}/{TASKS} tasks" in said and "clear-dist attack --farm" in said
    results = read_results(farm)
    assert results.incomplete == () and len(results.ids) == 11 * 7
    assert {row: len(models) for row, models in results.logits.items()} == {"original": 8, "gold": 4, "retain_ft": 4}
    out = place / "attack"
    assert run("attack", "--farm", farm, "--out", out, "--folds", 2, "--draws", 100) == 0
    attacked = json.loads((out / "attack.json").read_text())
    assert set(attacked) == {"v", "original", "gold", "retain_ft"}
    assert (out / "index.html").stat().st_size > 10_000
    assert json.loads((out / "run.json").read_text())["finished"]
    assert "report:" in capfd.readouterr().err


def test_what_was_left_out_is_said(said: str) -> None:
    assert "98 pictures of 14 identities, 16 px" in said
    assert "2 pictures left out: p00/empty.png" in said and "p01/broken.png (" in said
    assert "1 identities left out: alone (1 of the 3 pictures that are needed)" in said


def test_the_run_is_recorded(farm: Path) -> None:
    recorded = json.loads((farm / "run.json").read_text())
    assert recorded["recipe"] == "shadow_farm" and recorded["finished"] is True
    assert recorded["config"]["models"] == 8 and recorded["config"]["tune"] == {
        "retain_ft.epochs": "1",
        "retain_ft.batch": "16",
    }


def test_what_was_left_out_is_recorded(farm: Path) -> None:
    recorded = json.loads((farm / "run.json").read_text())
    assert [name for name, _ in recorded["skipped"]] == ["p00/empty.png", "p01/broken.png"]
    assert [name for name, _ in recorded["left_out"]] == ["alone"] and recorded["settings"]["enrol"] == 2


def test_the_same_command_again_does_nothing(
    farm: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_process(*args: object, **kwargs: object) -> None:
        raise AssertionError("a worker was started")

    before = written(farm)
    assert len([name for name in before if name.startswith("tasks/")]) == TASKS
    monkeypatch.setattr(rundir, "source", lambda: None)  # asks git, in a process
    monkeypatch.setattr(subprocess, "Popen", no_process)
    assert run(*farm_command(images, farm, *METHOD, "--workers", 1)) == 0
    assert written(farm) == before and f"{TASKS}/{TASKS} tasks" in capfd.readouterr().err


def test_another_process_makes_the_same(
    farm: Path, images: Path, place: Path, inside: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """One process instead of two others, and stopped on the way."""
    again = place / "again"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shadow_farm, "run_local", lambda *args, **more: in_this_process(*args, **more, limit=5))
        assert run(*farm_command(images, again, *METHOD)) == shadow_farm.FAILED
    assert "the same command goes on" in capfd.readouterr().err
    assert run("attack", "--farm", again, "--out", place / "early", "--folds", 2) == 2
    message = capfd.readouterr().err
    assert "tasks of original and gold are not done" in message and "Traceback" not in message
    assert run(*farm_command(images, again, *METHOD)) == 0
    assert hashes(again) == hashes(farm)


def test_another_method_is_added(images: Path, place: Path, farm: Path, inside: None) -> None:
    before = written(farm)
    names = set(hashes(farm))
    more = ("--methods", "retain_ft,ga", *METHOD[2:], "--tune", "ga.epochs=1")
    assert run(*farm_command(images, farm, *more)) == 0
    after = written(farm)
    assert before.items() <= after.items(), "nothing was made again"
    assert set(hashes(farm)) - names == {f"ga/{m:03d}" for m in range(4)}
    assert len([n for n in after if n.startswith("tasks/")]) == len([n for n in before if n.startswith("tasks/")]) + 4


def test_a_plan_is_listed_and_nothing_trained(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*farm_command(images, tmp_path / "farm", *METHOD, "--dry-run")) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if "/0" in line or line.startswith("pretrain")]
    assert len(lines) == TASKS and not (tmp_path / "farm").exists()
    assert "retain_ft/003: 5 identities, 1 epochs" in lines[-1] and "nll(RETAIN)" in lines[-1]


@pytest.mark.filterwarnings("ignore:overflow")
def test_what_fails_for_good_is_said(
    images: Path, tmp_path: Path, inside: None, capfd: pytest.CaptureFixture[str]
) -> None:
    wild = ("--methods", "gd", "--tune", "gd.lr=1e30", "--tune", "gd.batch=16", "--models", 4)
    assert run(*farm_command(images, tmp_path / "farm", *wild)) == shadow_farm.FAILED
    message = " ".join(capfd.readouterr().err.split())
    assert "gd/000 failed 3 times" in message and "lower the learning rate" in message
    assert run("farm", "status", tmp_path / "farm") == 1
    assert "2 failed for good" in " ".join(capfd.readouterr().out.split())


def test_a_full_disk_ends_the_farm_and_room_goes_on(
    farm: Path, images: Path, tmp_path: Path, inside: None, capfd: pytest.CaptureFixture[str]
) -> None:
    real, count = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal count
        count += OBJECTS in os.readlink(f"/proc/self/fd/{handle}")
        if count > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    out = tmp_path / "farm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run(*farm_command(images, out, *METHOD)) == 2
    message = capfd.readouterr().err
    assert "could not be written (No space left on device); make room" in message and "Traceback" not in message
    assert 0 < read_status(out).done < TASKS and not list(out.rglob("*.part"))
    assert run(*farm_command(images, out, *METHOD)) == 0
    assert {n: h for n, h in hashes(farm).items() if not n.startswith("ga/")} == hashes(out)


@pytest.mark.slow
def test_ranks_of_a_launcher_make_the_same(farm: Path, images: Path, place: Path, tmp_path: Path) -> None:
    common = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "CLEAR_DIST_CACHE": str(place / "cache")}
    command = [sys.executable, "launchers/shadow_farm.py", *farm_command(images, tmp_path / "farm", *METHOD)[1:]]
    crew = [
        subprocess.Popen(
            command, cwd=ROOT, env={**common, "RANK": r, "LOCAL_RANK": r}, stderr=subprocess.PIPE, text=True
        )
        for r in ("0", "1")
    ]
    ended = [(p.wait(300), p.communicate(timeout=60)[1]) for p in crew]
    assert [code for code, _ in ended] == [0, 0], ended
    assert {n: h for n, h in hashes(farm).items() if not n.startswith("ga/")} == hashes(tmp_path / "farm")
    assert f"{TASKS}/{TASKS} tasks" in ended[0][1] and "Next:" not in ended[1][1]


@pytest.mark.slow
def test_actors_of_ray_make_the_same(farm: Path, images: Path, place: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = farm_command(images, tmp_path / "farm", *METHOD, "--executor", "ray", "--workers", 2)
    environment = {**os.environ, "CLEAR_DIST_CACHE": str(place / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "clear_dist", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {n: h for n, h in hashes(farm).items() if not n.startswith("ga/")} == hashes(tmp_path / "farm")
