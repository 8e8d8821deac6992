"""The command farm status, and what a running farm says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from farm_commands import METHOD, TASKS, farm_command, in_this_process, run, write_pictures, written

from clear_dist.recipes import shadow_farm
from clear_dist.recipes.farm_status import Watch, duration, summary_of
from clear_dist.shadow.status import Failed, Group, Status, read_status


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A farm with 5 of its tasks done."""
    place = tmp_path_factory.mktemp("status")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEAR_DIST_CACHE", str(place / "cache"))
        patch.setattr(shadow_farm, "run_local", lambda *args, **more: in_this_process(*args, **more, limit=5))
        status = run(*farm_command(write_pictures(place / "pictures"), place / "farm", *METHOD))
    assert status == shadow_farm.FAILED
    return place / "farm"


def test_a_farm_on_its_way_is_counted(part: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = written(part), (part / "farm.db").read_bytes()
    assert run("farm", "status", part) == 0
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["pretrain"][1] == "1/1" and rows["shadow"][1] == "4/8" and rows["shadow"][2] == "4"
    assert rows["gold"][1:3] == ["0/4", "4"] and rows["retain_ft"][1] == "0/4"
    summary = next(line for line in lines if " tasks, " in line)
    assert summary.startswith(f"5/{TASKS} tasks, ") and "models an hour, about" in summary
    assert (written(part), (part / "farm.db").read_bytes()) == before, "looking changes nothing"


def test_a_farm_without_a_database_is_counted_from_its_results(part: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks").symlink_to(part / "tasks")
    (tmp_path / "farm.json").write_bytes((part / "farm.json").read_bytes())
    assert [(g.name, g.done) for g in read_status(tmp_path).groups] == [
        ("pretrain", 1),
        ("shadow", 4),
        ("gold", 0),
        ("retain_ft", 0),
    ]
    assert run("farm", "status", tmp_path) == 0


def test_the_record_says_that_it_is_unfinished(part: Path) -> None:
    assert json.loads((part / "run.json").read_text())["finished"] is False


def test_no_farm_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("farm", "status", tmp_path) == 2
    assert "no farm of shadow models there" in capfd.readouterr().err


def status_of(done: int, failures: int = 0, **changes: object) -> Status:
    group = Group("shadow", "shadow", 10, done, 0, failures, 0, 2.0)
    failed = tuple(Failed(f"shadow/{n:03d}", 3, f"Traceback\nValueError: number {n}\n") for n in range(failures))
    status = Status((group,), failed, ("npo/000",) if failures else (), (), 1800.0, 20.0, 3_400_000, ())
    return replace(status, **changes)  # pyright: ignore[reportArgumentType]


def test_a_summary_is_one_line() -> None:
    assert summary_of(status_of(4)) == "4/10 tasks, 1800 models an hour, about 20 s left, 3 MB"
    assert summary_of(status_of(10)) == "10/10 tasks, 3 MB"
    assert summary_of(status_of(8, 2)).endswith("2 failed for good, 1 wait for them, 3 MB")
    assert summary_of(status_of(0, models_per_hour=None, eta=None)) == "0/10 tasks, 3 MB"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.24, "0.2 s"), (9.94, "9.9 s"), (10, "10 s"), (89, "89 s"), (600, "10 min"), (5399, "90 min"), (12240, "3.4 h")],
)
def test_durations_are_short(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_log_has_a_line_now_and_then(capfd: pytest.CaptureFixture[str]) -> None:
    with Watch() as watch:
        for done in (0, 1, 2, 2, 10):
            watch(status_of(done))
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert [line.split()[0] for line in lines] == ["0/10", "10/10"], "the first and the last; the rest came too soon"
    with Watch(show=False) as quiet:
        quiet(status_of(10))
    assert capfd.readouterr().err == ""
