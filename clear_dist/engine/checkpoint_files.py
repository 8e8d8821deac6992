"""Checkpoints on disk: published whole or not at all, each with a manifest that says what it must be.

``checkpoints/step_00000120/`` holds ``rank_00000.safetensors``, one such file a rank, and ``manifest.json``, written
last while all of it still lies in ``checkpoints/.writing``. Files and folders are fsynced before the rename that
publishes them, so a folder without a manifest that holds is no checkpoint, whatever was killed or cut off. Digests
detect damage, not attack; what is read afterwards cannot run code (``checkpoint_tensors``). Needs no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MANIFEST, STAGING, REPLACED = "manifest.json", ".writing", ".replaced"
VERSION = 1
_STEP, _FILE, _SHA256 = (
    re.compile(r"step_(\d{8,12})"),
    re.compile(r"rank_\d{5}\.safetensors"),
    re.compile("[0-9a-f]{64}"),
)
_BLOCK = 1 << 23  # bytes read at a time


class Damaged(Exception):
    """A file of a checkpoint is missing, or is not what it has to be; the message names it."""


class Stopped(Exception):
    """Whoever asked for a hash no longer wants it."""


@dataclass(frozen=True)
class File:
    """One file of a checkpoint: its name in the folder, how many bytes, and their SHA-256 (hex)."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is. step: optimiser steps taken, of which ``skipped`` left the weights alone."""

    step: int
    world_size: int
    zero_stage: int
    skipped: int
    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def folder_name(step: int) -> str:
    return f"step_{step:08d}"


def file_name(rank: int) -> str:
    return f"rank_{rank:05d}.safetensors"


def published(folder: Path) -> list[Path]:
    """What is called a checkpoint in ``folder``, newest first; whether it is one, its manifest says."""
    found = [p for p in folder.iterdir() if _STEP.fullmatch(p.name)] if folder.is_dir() else []
    return sorted((p for p in found if p.is_dir() and not p.is_symlink()), key=_step_of, reverse=True)


def _step_of(checkpoint: Path) -> int:
    found = _STEP.fullmatch(checkpoint.name)
    assert found is not None
    return int(found[1])


def _text(manifest: Manifest) -> str:
    """The manifest's only spelling: any other byte is damage, spaces included."""
    body: dict[str, Any] = {"v": VERSION, **asdict(manifest)}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "digest": digest}, indent=1) + "\n"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The last file of a checkpoint. Raises OSError."""
    with (folder / MANIFEST).open("x", encoding="utf-8") as file:
        file.write(_text(manifest))
        file.flush()
        os.fsync(file.fileno())


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a published checkpoint.

    Raises:
        Damaged: none there, not one of this version, changed since it was written, or another step's.
    """
    path = checkpoint / MANIFEST
    try:
        text = _open(path).decode("utf-8")
    except FileNotFoundError:
        raise Damaged(f"{path}: missing, so this is no checkpoint") from None
    except OSError as error:
        raise Damaged(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise Damaged(f"{path}: damaged (not text)") from None
    try:
        manifest = _parsed(json.loads(text))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{path}: damaged ({type(error).__name__}: {error})") from None
    if _text(manifest) != text:
        raise Damaged(f"{path}: damaged (its own digest is another)")
    if folder_name(manifest.step) != checkpoint.name:
        raise Damaged(f"{path}: is that of step {manifest.step}")
    return manifest


def _open(path: Path) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return file.read()


def _parsed(found: Any) -> Manifest:
    if not isinstance(found, Mapping) or found.get("v") != VERSION:
        raise ValueError(f"expected version {VERSION}")
    files = []
    for entry in found["files"]:
        file = File(str(entry["name"]), _whole(entry["bytes"]), str(entry["sha256"]))
        if not _FILE.fullmatch(file.name) or not _SHA256.fullmatch(file.sha256):
            raise ValueError(f"{file.name!r} is no file of a checkpoint")
        files.append(file)
    numbers = [_whole(found[key]) for key in ("step", "world_size", "zero_stage", "skipped")]
    manifest = Manifest(numbers[0], numbers[1], numbers[2], numbers[3], tuple(files))
    if [file.name for file in files] != [file_name(rank) for rank in range(manifest.world_size)]:
        raise ValueError("expected one file of each rank")
    return manifest


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no whole number")
    return value


def file_problem(
    checkpoint: Path, file: File, *, read: bool = True, cold: bool = False, stop: threading.Event | None = None
) -> str | None:
    """What is wrong with a file, by size and hash; None where nothing is. Nothing of it is interpreted.

    read: all of it; otherwise its size alone counts.
    cold: what the system holds of it in memory is dropped first, as far as it can be, so that the disk is asked.

    Raises:
        Stopped: ``stop`` was set meanwhile.
    """
    path = checkpoint / file.name
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as opened:
            size = os.fstat(opened.fileno()).st_size
            if size != file.bytes:
                return f"{path}: {size:,} bytes, where {file.bytes:,} were written"
            if not read:
                return None
            if cold and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            digest = hashlib.sha256()
            while block := opened.read(_BLOCK):
                if stop is not None and stop.is_set():
                    raise Stopped
                digest.update(block)
    except FileNotFoundError:
        return f"{path}: missing"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror or error})"
    return None if digest.hexdigest() == file.sha256 else f"{path}: not the bytes that were written (SHA-256)"


def problems(checkpoint: Path, *, read: bool = True) -> list[str]:
    """All that is wrong with a checkpoint, manifest and every file of it; empty where it is good.

    read: every byte; otherwise what is there, and how large.
    """
    try:
        manifest = read_manifest(checkpoint)
    except Damaged as error:
        return [str(error)]
    return [found for file in manifest.files if (found := file_problem(checkpoint, file, read=read)) is not None]


def fresh_staging(folder: Path) -> Path:
    """An empty folder to write the next checkpoint into; what a killed save left is gone. Raises OSError."""
    staging = folder / STAGING
    for left in (staging, folder / REPLACED):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(left)
    staging.mkdir(parents=True)
    return staging


def publish(folder: Path, manifest: Manifest) -> Path:
    """Make the staged files the checkpoint of their step. Raises OSError.

    A folder of that name is replaced: a run only comes to a step again when what was there could not be used.
    """
    staging, final, replaced = folder / STAGING, folder / folder_name(manifest.step), folder / REPLACED
    write_manifest(staging, manifest)
    sync_folder(staging)
    if final.exists():
        os.replace(final, replaced)
    os.replace(staging, final)
    sync_folder(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` last: its entries have a cache of their own."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def prune(folder: Path, keep: int, bad: Collection[str], proved: Collection[str]) -> list[Path]:
    """Remove what is older than the newest ``keep`` that are not known to be bad; returns what was removed.

    bad, proved: names of folders found damaged, and found whole by reading them again. The newest that is proved
    always stays: what is newer may still turn out to be damaged.
    """
    found = published(folder)
    good = [p for p in found if p.name not in bad]
    kept = {*good[:keep], *[p for p in good if p.name in proved][:1]}
    oldest = _step_of(good[keep - 1]) if len(good) >= keep else -1
    gone = [p for p in found if _step_of(p) < oldest and p not in kept]
    for checkpoint in gone:
        # Without its manifest first: a removal that is cut off leaves no checkpoint behind, not a damaged one.
        (checkpoint / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(checkpoint, ignore_errors=True)
    return gone


@contextlib.contextmanager
def hashed_file(path: Path) -> Iterator[HashedFile]:
    """A new file that knows the SHA-256 of what was written into it, on disk when the block ends. Raises OSError."""
    with path.open("xb") as file:
        out = HashedFile(file)
        yield out
        file.flush()
        os.fsync(file.fileno())


class HashedFile:
    """Bytes in, and their number and hash: what is meant, whatever the disk makes of it."""

    def __init__(self, file: Any) -> None:
        self._file, self._digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()
