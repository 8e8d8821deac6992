"""Faces of a network, kept as files once they are drawn: hours of a GPU are not spent again to go on with a build."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from clear_dist.data.build.faces import Face, FaceSource
from clear_dist.reading import is_file
from clear_dist.types import UserError


class SavedFaces:
    """A source with a memory. lines: of stage 2, as an earlier run left them; a face whose file is not there any more,
    or is another, is drawn again."""

    def __init__(self, source: FaceSource, folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        self.source, self.folder = source, folder
        self.lines = {str(line["id"]): line for line in lines}

    def draw(self, count: int, seed: int, first: int = 0) -> Iterator[Face]:
        yield from self.source.draw(count, seed, first)

    def face(self, face_id: str) -> Face:
        line = self.lines.get(face_id)
        file = None if line is None else self._file(line["digest"])
        if line is None or file is None or not is_file(file) or _digest(file.read_bytes()) != line["digest"]:
            return self.keep(self.source.face(face_id))
        read = partial(_read, file, line["digest"])
        known = {name: line[name] for name in ("age", "gender", "group", "score", "look")}
        return Face(face_id, **known, source=str(file), read=read)

    def keep(self, face: Face) -> Face:
        """The same face, with its picture in a file rather than in memory."""
        data = face.read()
        digest = _digest(data)
        file = self._file(digest)
        self.folder.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".new")
        new.write_bytes(data)
        os.replace(new, file)
        return replace(face, source=str(file), read=partial(_read, file, digest))

    def _file(self, digest: str) -> Path:
        return self.folder / f"{digest[:32]}.png"


def _read(file: Path, digest: str) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}). Build again.") from error
    if _digest(data) != digest:
        raise UserError(f"{file}: changed since the face was drawn. Remove it, and build again.")
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
