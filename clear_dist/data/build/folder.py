"""The folder a dataset is built in: a file of JSON lines for each stage, and which of them are done.

A stage is done for a *key*, the digest of everything that decides its lines: its settings and the key of the stage
before it. With another key it is done again; with the same key a stage that was interrupted goes on where it stopped.
Lines are written to ``NAME.part`` and the file gets its name when it is whole, so what has its name is never half
written.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from clear_dist.reading import json_value, unique_keys
from clear_dist.types import UserError

STATE: Final = "state.json"
VERSION: Final = 1
Line = dict[str, Any]


def key_of(*parts: object) -> str:
    """SHA-256 of values that JSON can say, in this order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Folder:
    """``path`` holds stage files; ``state.json`` tells which are whole, with which key and digest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = self._read_state()

    def done(self, stage: str, key: str) -> bool:
        """Whether the stage's file is there, whole, unchanged, and made with this key."""
        entry = self._state.get(stage)
        file = self.file(stage)
        return entry == {"key": key, "sha256": _digest(file)} if entry is not None and file.is_file() else False

    def file(self, stage: str) -> Path:
        return self.path / f"{stage}.jsonl"

    def read(self, stage: str) -> list[Line]:
        """The lines of a finished stage. Raises UserError naming file and line."""
        return read_lines(self.file(stage))

    def begun(self, stage: str, key: str) -> list[Line]:
        """Whole lines that an interrupted run of this stage with this key has left; none for another key."""
        part = self._part(stage)
        try:
            data = part.read_bytes()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        head, _, rest = whole.partition(b"\n")
        try:
            if json_value(head) != {"key": key}:
                return []
            return [json_value(line) for line in rest.splitlines()]
        except ValueError:
            return []  # not a file of ours, or damaged: done again

    def lines_left(self, stage: str) -> list[Line]:
        """Whole lines that any run has left of a stage, finished or not: for lines that say themselves what they are
        made of. Of a file that is damaged, those before the damage."""
        out: list[Line] = []
        for file in (self.file(stage), self._part(stage)):
            if not file.is_file():
                continue
            for line in file.read_bytes().split(b"\n")[:-1]:
                try:
                    value = json_value(line)
                except ValueError:
                    break
                out += [value] if isinstance(value, dict) else []
        return out

    @contextmanager
    def writing(self, stage: str, key: str, begun: Sequence[Line] = ()) -> Iterator[Writer]:
        """Lines go through the writer, each kept at once; after the block the stage is done. begun: lines to keep of
        an interrupted run. A block that ends in an error leaves what was written to be gone on with."""
        part = self._part(stage)
        rest = "".join(_text(line) for line in begun)
        _write_whole(part, _text({"key": key}) + rest)
        with part.open("a", encoding="utf-8") as file:
            yield Writer(file)
            file.flush()
            os.fsync(file.fileno())
        data = part.read_bytes().partition(b"\n")[2]
        self.finish(stage, key, data.decode())
        part.unlink()

    def finish(self, stage: str, key: str, text: str) -> None:
        """The stage's file, written whole, and that it is done."""
        _write_whole(self.file(stage), text)
        self._state[stage] = {"key": key, "sha256": _digest(self.file(stage))}
        _write_whole(self.path / STATE, json.dumps({"v": VERSION, "stages": self._state}, indent=1) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Something for people to read beside a stage."""
        _write_whole(self.path / name, text)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        _write_whole(self.path / name, json.dumps(value, ensure_ascii=False, indent=1) + "\n")

    def _part(self, stage: str) -> Path:
        return self.path / f"{stage}.part"

    def _read_state(self) -> dict[str, Any]:
        """What is not there or cannot be read means that nothing is done; stages are then done again, which is safe."""
        try:
            state = json_value((self.path / STATE).read_bytes(), object_pairs_hook=unique_keys)
            known = isinstance(state, dict) and state.get("v") == VERSION and isinstance(state.get("stages"), dict)
            return dict(state["stages"]) if known else {}
        except (OSError, ValueError):
            return {}


class Writer:
    """Adds lines to a stage; each is on its way to the disk before the next."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def add(self, line: Mapping[str, Any]) -> None:
        self._file.write(_text(line))
        self._file.flush()


@contextmanager
def opened(path: Path) -> Iterator[Folder]:
    """The folder, for one process at a time. Raises UserError: another one builds in it, or it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("w")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). Name another --out.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{path}: another process builds a dataset there; wait for it.") from error
        yield Folder(path)


def read_lines(path: Path) -> list[Line]:
    """Objects of a file of JSON lines. Raises UserError naming file and line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    lines: list[Line] = []
    for number, text in enumerate(data.splitlines(), 1):
        try:
            value = json_value(text, object_pairs_hook=unique_keys)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}). Remove the file and build again.") from error
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {number}: expected an object. Remove the file and build again.")
        lines.append(value)
    return lines


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_whole(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). Is the disk full?") from error
