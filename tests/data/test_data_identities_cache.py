"""The cache of decoded pictures: the same content and nothing else is found again, whatever happens to the file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from test_data_identities import GOOD, RED, folder, png, zipped

from clear_dist.data import identities as module
from clear_dist.data import identity_cache
from clear_dist.data.identities import Identities, load_identities, open_identities
from clear_dist.data.identity_cache import DamagedCache, write_identities
from clear_dist.types import UserError


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one whenever a source is decoded."""
    calls: list[str] = []
    real = module._decoded

    def spy(*args: Any) -> Identities:
        calls.append(args[1])
        return real(*args)

    monkeypatch.setattr(module, "_decoded", spy)
    return calls


def same(a: Identities, b: Identities) -> bool:
    fields = ("names", "ids", "digest", "skipped", "left_out", "file")
    return (
        torch.equal(a.pixels, b.pixels)
        and torch.equal(a.labels, b.labels)
        and all(getattr(a, name) == getattr(b, name) for name in fields)
    )


def test_the_second_time_nothing_is_decoded(tmp_path: Path, decoded: list[str]) -> None:
    files = {**GOOD, "p9/zero.png": b"", "lone/1.png": png()}
    source, cache = folder(tmp_path / "in", files), tmp_path / "cache"
    first = load_identities(source, 16, cache)
    assert first.file is not None and os.listdir(cache) == [first.file.name]
    assert same(load_identities(source, 16, cache, workers=1), first)
    assert same(open_identities(first.file), first)
    assert len(decoded) == 1 and first.skipped and first.left_out and first.notes == ()
    # Elsewhere the same pictures are the same cache, but the source is the one that was asked for.
    moved = load_identities(source.rename(tmp_path / "moved"), 16, cache)
    assert len(decoded) == 1 and moved.source == str(tmp_path / "moved")


def test_another_size_threshold_name_or_byte_is_another_cache(tmp_path: Path, decoded: list[str]) -> None:
    source, cache = folder(tmp_path / "in", GOOD), tmp_path / "cache"
    load_identities(source, 16, cache)
    load_identities(source, 17, cache)
    load_identities(source, 16, cache, min_images=1)
    (source / "p9" / "a9.png").rename(source / "p9" / "b9.png")
    load_identities(source, 16, cache)
    status = (source / "p9" / "b9.png").stat()
    (source / "p9" / "b9.png").write_bytes(png((1, 2, 3)))  # of the same size
    os.utime(source / "p9" / "b9.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    found = load_identities(source, 16, cache)
    assert tuple(found.pixels[1, :, 8, 8].tolist()) == (1, 2, 3)
    assert len(decoded) == len(list(cache.iterdir())) == 5


def test_a_changed_zip_of_the_same_length_is_seen(tmp_path: Path, decoded: list[str]) -> None:
    cache = tmp_path / "cache"
    file = zipped(tmp_path / "a.zip", GOOD)
    load_identities(file, 16, cache)
    data = bytearray(file.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    file.write_bytes(data)
    assert len(load_identities(file, 16, cache).skipped) == 1
    assert len(decoded) == 2


@pytest.mark.parametrize("where", ["pixels", "labels", "description", "header", "cut", "empty"])
def test_a_damaged_cache_is_said_and_made_anew(tmp_path: Path, decoded: list[str], where: str) -> None:
    source, cache = folder(tmp_path / "in", {**GOOD, "p9/zero.png": b""}), tmp_path / "cache"
    good = load_identities(source, 16, cache)
    assert good.file is not None
    data = bytearray(good.file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    if where == "pixels":
        data[-1000] ^= 1
    elif where == "labels":
        data[8 + length] ^= 1  # they come first
    elif where == "description":
        at = data.index(b"zero.png")
        data[at] ^= 1
    elif where == "header":
        data[10] ^= 255
    data = data[:-100] if where == "cut" else data[:0] if where == "empty" else data
    del good  # mapped from the file that is overwritten here
    file = next(cache.iterdir())
    file.write_bytes(data)
    with pytest.raises(DamagedCache, match=file.name):
        open_identities(file)
    mended = load_identities(source, 16, cache)
    assert len(decoded) == 2 and len(mended.notes) == 1 and "made anew" in mended.notes[0]
    assert [name for name, _ in mended.skipped] == ["p9/zero.png"]
    assert load_identities(source, 16, cache).notes == () and len(decoded) == 2


def test_no_cache_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none"):
        open_identities(tmp_path / "none")


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    source, cache = folder(tmp_path / "in", GOOD), tmp_path / "cache"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real: Callable[..., Any] = identity_cache.tempfile.NamedTemporaryFile

    def file_on_a_full_disk(**options: Any) -> IO[bytes]:
        made = real(**options)
        made.write = full
        return made

    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(identity_cache.tempfile, "NamedTemporaryFile", file_on_a_full_disk)
        else:
            patch.setattr(identity_cache.os, step, full)
        with pytest.raises(UserError, match=r"cannot be kept here \(No space left on device\)"):
            load_identities(source, 16, cache)
    assert list(cache.iterdir()) == []
    assert len(load_identities(source, 16, cache).ids) == 4


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another cache folder"):
        load_identities(folder(tmp_path / "in", GOOD), 16, tmp_path / "file" / "cache")


def test_who_finishes_later_replaces_the_same_bytes(tmp_path: Path) -> None:
    source, cache = folder(tmp_path / "in", GOOD), tmp_path / "cache"
    first = load_identities(source, 16, cache)
    assert first.file is not None
    before = first.file.read_bytes()
    write_identities(replace(first, pixels=first.pixels.clone()), first.file)
    assert first.file.read_bytes() == before
    assert tuple(first.pixels[-1, :, 8, 8].tolist()) == RED, "what was mapped stays"
    assert len(list(cache.iterdir())) == 1


def test_opened_pictures_are_mapped_and_writes_stay_private(tmp_path: Path) -> None:
    found = load_identities(folder(tmp_path / "in", GOOD), 64, tmp_path / "cache")
    assert found.file is not None
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert found.file.name in maps.read_text()
    found.pixels.zero_()
    assert open_identities(found.file).digest == found.digest


@pytest.mark.slow
def test_two_processes_build_the_same_cache_at_once(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", {f"p{i % 20}/{i}.png": png((i, 0, 0), (300, 300)) for i in range(200)})
    code = (
        "import sys; from pathlib import Path; from clear_dist.data.identities import load_identities\n"
        "found = load_identities(sys.argv[1], 32, Path(sys.argv[2]), 1)\n"
        "print(found.digest, len(found.ids))"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0] == said[1] and said[0].endswith(" 200\n")
    assert len(list((tmp_path / "cache").iterdir())) == 1
