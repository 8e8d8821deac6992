"""``clear-dist checkpoint list|verify|prune`` on files that only look like checkpoints to those who load them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clear_dist import cli
from clear_dist.engine.checkpoint_files import (
    MANIFEST,
    File,
    Manifest,
    file_name,
    fresh_staging,
    hashed_file,
    publish,
    published,
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run directory with checkpoints of steps 10, 20 and 30, of two ranks."""
    for step in (10, 20, 30):
        folder = fresh_staging(tmp_path / "checkpoints")
        written = []
        for rank in (0, 1):
            with hashed_file(folder / file_name(rank)) as file:
                file.write(os.urandom(1_500_000))
            written.append(File(file_name(rank), file.bytes, file.sha256))
        publish(tmp_path / "checkpoints", Manifest(step, 2, 3, 0, tuple(written)))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str]]:
    status = cli.main(["checkpoint", *map(str, words)])
    out, error = capsys.readouterr()
    return status, [line.strip() for line in (out + error).splitlines() if line.strip()]


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)


def test_a_table_newest_first(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(saved / "checkpoints" / "step_00000020" / MANIFEST, (0, 0))
    status, lines = run(capsys, "list", saved)
    assert status == 0 and lines[0].split() == ["step", "size", "ranks", "ZeRO", "age", "state"]
    assert [line.split()[0] for line in lines[1:]] == ["30", "20", "10"]
    assert lines[1].split()[1:5] == ["3.0", "MB", "2", "3"] and lines[1].endswith("complete")
    again = run(capsys, "list", saved / "checkpoints")
    ageless = [[word for at, word in enumerate(line.split()) if at != 5] for line in again[1][1:]]
    assert again[0] == status and ageless == [
        [word for at, word in enumerate(line.split()) if at != 5] for line in lines[1:]
    ]


def test_the_table_names_what_is_gone_or_cut(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (saved / "checkpoints" / "step_00000030" / MANIFEST).unlink()
    os.truncate(saved / "checkpoints" / "step_00000020" / file_name(1), 7)
    status, lines = run(capsys, "list", saved)
    told = " ".join(lines)
    assert status == 1 and "manifest.json: missing" in told and "7 bytes, where 1,500,000" in told


def test_every_byte_is_read(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = run(capsys, "verify", saved)
    assert status == 0 and [line.rsplit(": ", 1)[1] for line in lines] == ["whole"] * 3
    file = saved / "checkpoints" / "step_00000020" / file_name(1)
    flip(file)
    status, lines = run(capsys, "verify", saved)
    assert status == 1 and [line.startswith(f"{file}: not the bytes") for line in lines] == [False, True, False]


def test_old_ones_go(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved / "checkpoints"
    assert run(capsys, "prune", saved) == (0, [f"{folder}/step_00000010: removed"])
    assert run(capsys, "prune", saved, "--keep", 1) == (0, [f"{folder}/step_00000020: removed"])
    assert run(capsys, "prune", saved, "--keep", 1) == (0, [])
    assert [p.name for p in published(folder)] == ["step_00000030"]


def test_the_last_that_is_whole_stays(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved / "checkpoints"
    for step in (30, 20):
        flip(folder / f"step_000000{step}" / file_name(0))
    status, lines = run(capsys, "prune", saved, "--keep", 1)
    assert status == 1 and len(lines) == 2 and all(line.endswith("damaged, not counted") for line in lines)
    assert len(published(folder)) == 3
    flip(folder / "step_00000010" / file_name(0))
    status, lines = run(capsys, "prune", saved, "--keep", 1)
    assert status == 1 and lines[-1] == f"{folder}: none is whole; nothing was removed"
    assert len(published(folder)) == 3


def test_not_while_the_run_goes_on(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import fcntl, os, sys\nlock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\nos.pwrite(lock, b'process 7 on here', 0)\n"
        "print('held', flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(saved / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        status, lines = run(capsys, "prune", saved)
    assert status == 2 and "in use by process 7 on here" in lines[0]
    assert len(published(saved / "checkpoints")) == 3


@pytest.mark.parametrize("command", ["list", "verify", "prune"])
def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, lines = run(capsys, command, tmp_path / "none")
    assert status == 2 and f"{tmp_path / 'none'}: no checkpoints there" in lines[0]


def test_looking_needs_nothing_that_trains(saved: Path) -> None:
    code = (
        "import sys\nfrom clear_dist import cli\nstatus = cli.main(sys.argv[1:])\n"
        "print([m for m in ('deepspeed', 'transformers') if m in sys.modules], status)\n"
    )
    command = [sys.executable, "-c", code, "checkpoint", "verify", str(saved)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[] 0", out
