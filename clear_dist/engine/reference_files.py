"""The reference's statistics as files: what is kept, under which key, in which shards.

A folder holds one safetensors shard for every rank that took part, of every build that added to it, and
``index.json``, written last: a folder without it is none, and a shard it does not name is a remnant. Tensors of a shard
are rows of that rank's examples, one after the other, in the order of ``VIEW.examples``:

* ``VIEW.examples`` [n] int64 numbers of the examples in the view; ``VIEW.tokens`` [n] int64 answer tokens of each
* ``VIEW.logp`` [T] fp32, or ``VIEW.hidden`` [T, D] final states that predict the answer tokens
* ``VIEW.rows`` [n] int64 tokens of each whole sequence; ``VIEW.final`` [S, D], ``VIEW.layer.L`` [S, D] their states;
  where rows of image tokens are left out, ``VIEW.image`` [S] bool says which they are
* ``head`` [V, D], in the first shard
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from clear_dist.types import UserError

from .reference_key import VERSION, ReferenceKey
from .world import World, gather, only_on_main

INDEX, LOCK = "index.json", ".lock"
HASHED = 1 << 30  # bytes: smaller shards are hashed whenever they are opened, larger ones only measured
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.bool: "BOOL",
}
T = TypeVar("T")


class ShardWriter:
    """One safetensors file, written in bounded memory: every tensor grows row by row, its final size known before.

    tensors: name -> (dtype, shape). The file appears under its name when it is complete. Raises OSError.
    """

    def __init__(self, file: Path, tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> None:
        self.file, self._part = file, file.with_name(file.name + ".part")
        header: dict[str, Any] = {}
        self._at: dict[str, int] = {}
        self._end: dict[str, int] = {}
        end = 0
        # Wide types first: then every tensor lies on a multiple of its own element size.
        for name, (dtype, shape) in sorted(tensors.items(), key=lambda t: (-t[1][0].itemsize, t[0])):
            start, end = end, end + prod(shape) * dtype.itemsize
            header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
            self._at[name], self._end[name] = start, end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._base = 8 + len(text)
        self.bytes = self._base + end
        self._out = self._part.open("wb")
        self._out.write(len(text).to_bytes(8, "little") + text)
        self._out.truncate(self.bytes)

    def append(self, name: str, rows: Tensor) -> None:
        """The next rows of a tensor."""
        data = rows.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        assert self._at[name] + data.nbytes <= self._end[name], f"{name}: more rows than promised"
        self._out.seek(self._base + self._at[name])
        self._out.write(data.data)
        self._at[name] += data.nbytes

    def finish(self) -> dict[str, Any]:
        """{file, bytes, sha256}: the file is on disk, under its name."""
        assert self._at == self._end, "rows are missing"
        self._out.flush()
        os.fsync(self._out.fileno())
        self._out.close()
        digest = _sha256(self._part)
        os.replace(self._part, self.file)
        return {"file": self.file.name, "bytes": self.bytes, "sha256": digest}

    def abandon(self) -> None:
        """Leave nothing, finished or not: no index names it yet."""
        self._out.close()
        for file in (self._part, self.file):
            file.unlink(missing_ok=True)


def shard_name(rank: int, ranks: int, build: int = 0) -> str:
    """build: one that no earlier build into the folder had."""
    return f"reference-{build:05d}-{rank:05d}-of-{ranks:05d}.safetensors"


def write_index(folder: Path, key: ReferenceKey, world: World, **more: Any) -> None:
    """Publish a cache whose shards are all in place: its key, and ``more`` of what is in it. A collective."""
    index = {"v": VERSION, "key": key.digest, "parts": dict(key.parts), "ranks": world.size, **more}

    def write() -> None:
        part = folder / f"{INDEX}.part"
        with part.open("w", encoding="utf-8") as out:
            out.write(json.dumps(index, indent=1) + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, folder / INDEX)

    on_main(world, write)


def read_index(folder: Path, key: ReferenceKey) -> dict[str, Any] | None:
    """What ``index.json`` says; None without one. Raises UserError where it is damaged or of another key."""
    file = folder / INDEX
    if not file.is_file():
        return None
    again = f"delete {folder} to have the reference's statistics made anew"
    damaged = f"{file}: is no index of reference statistics, or damaged; {again}"
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        version, found, parts, shards = index["v"], index["key"], dict(index["parts"]), index["shards"]
        _ = index["tensors"], index["examples"]
        sane = all(Path(s["file"]).name == s["file"] and s["bytes"] >= 0 and s["sha256"] for s in shards)
    except (ValueError, KeyError, TypeError, OSError):
        raise UserError(damaged) from None
    if not sane:
        raise UserError(damaged)
    if version != VERSION:
        raise UserError(f"{file}: was written by another version of clear_dist; {again}")
    if found != key.digest:
        which = key.differences(parts)
        now = "; ".join(f"{p}: {_short(parts.get(p))} there, {_short(key.parts[p])} now" for p in which)
        raise UserError(
            f"{folder}: these statistics of the reference are of another {' and '.join(which) or 'key'} ({now}). "
            f"Name another directory, or {again}"
        )
    return index


def _short(part: object) -> str:
    text = str(part)
    return text[:12] if len(text) == 64 and " " not in text else text


def check_shards(folder: Path, shards: Sequence[Mapping[str, Any]], world: World, *, hashes: bool) -> None:
    """A collective: all shards have the size they had, and (those below ``HASHED`` bytes) the content.

    Raises UserError, on every rank, naming the file.
    """
    problem: str | None = None
    again = f"delete {folder} to have the reference's statistics made anew"
    for shard in shards[world.rank :: world.size]:
        file = folder / shard["file"]
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            problem = f"{file}: missing, though {INDEX} names it (the directory must be one all ranks see); {again}"
        elif size != shard["bytes"]:
            problem = f"{file}: has {size} bytes, {INDEX} says {shard['bytes']}; {again}"
        elif hashes and size < HASHED and _sha256(file) != shard["sha256"]:
            problem = f"{file}: its content is not what {INDEX} says (SHA-256); {again}"
    raise_together(world, problem)


def _sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def on_main(world: World, work: Callable[[], T]) -> T:
    """``only_on_main``, where what the disk refuses is a user's mistake too."""

    def said() -> T:
        try:
            return work()
        except OSError as error:
            what = f"{error.filename or 'disk'}: {error.strerror or error}; make room, or look at its rights"
            raise UserError(what) from error

    return only_on_main(world, said)


def raise_together(world: World, problem: str | None) -> None:
    """A collective: what one rank found stops all of them, where one alone would leave the others waiting."""
    problems = [p for p in gather(world, problem) if p]
    if problems:
        raise UserError(problems[0])


@contextmanager
def claimed(folder: Path, world: World) -> Iterator[None]:
    """Inside, no other run builds in ``folder``: a second one waits here, and then finds what the first has made."""

    def take() -> int | None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); name another directory") from None
        return lock

    lock = on_main(world, take)
    try:
        yield
    finally:
        if world.main and lock is not None:
            os.close(lock)


def remove_remains(folder: Path, world: World, kept: Sequence[Path] = ()) -> None:
    """Shards that are not among ``kept``, those of the index: of a build that was interrupted. A collective, inside
    ``claimed``."""

    def remove() -> None:
        for file in folder.glob("reference-*.safetensors*"):
            if file not in kept:
                file.unlink()

    on_main(world, remove)
