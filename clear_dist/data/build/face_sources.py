"""Faces that are not drawn here: a folder of pictures with a list of who is on them, or a network behind a protocol.

The network itself (StyleGAN2, a diffusion model) lives where torch may be imported; this side knows only what it gives.
"""

from __future__ import annotations

import hashlib
import math
import re
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol

from clear_dist.data.build.faces import Face
from clear_dist.data.build.person import GENDERS, GROUPS, Gender, Group
from clear_dist.data.build.table import csv_rows
from clear_dist.data.identity_files import MAX_BYTES
from clear_dist.data.images import decode
from clear_dist.errors import nearest
from clear_dist.reading import json_value, unique_keys
from clear_dist.types import Picture, UserError

LISTS: Final = ("attributes.csv", "attributes.json")
COLUMNS: Final = ("file", "age", "gender", "ethnicity", "score")
OLDEST: Final = 120
MOST_TEXT: Final = 64 << 20  # bytes of a list


class FaceModel(Protocol):
    """A network that makes faces, such as StyleGAN2 with its discriminator. One seed always gives the same bytes."""

    def make(self, seeds: Sequence[int]) -> Iterator[tuple[bytes, float]]:
        """(encoded picture, score) for each seed, in order; higher scores are better."""
        ...


class Estimator(Protocol):
    """Something that tells how old a face looks, and so on; None where it cannot say."""

    def estimate(self, picture: bytes) -> tuple[int | None, Gender | None, Group | None]: ...


class MadeFaces:
    """The faces of a network, as a source. name: of the network, the first part of every id."""

    def __init__(self, model: FaceModel, estimator: Estimator, name: str = "made") -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise UserError(f"faces.name: expected letters, digits, '_', '.' or '-'; got {name!r}.")
        self.model, self.estimator, self.name = model, estimator, name

    def draw(self, count: int, seed: int, first: int = 0) -> Iterator[Face]:
        ids = [f"{self.name}/{seed}/{number}" for number in range(first, first + count)]
        for face_id, (data, score) in zip(ids, self.model.make([self._seed(one) for one in ids]), strict=True):
            age, gender, group = self.estimator.estimate(data)
            source = f"generated face {face_id}"
            yield Face(face_id, age, gender, group, score, _sha256(data), source, partial(bytes, data))

    def face(self, face_id: str) -> Face:
        match = re.fullmatch(re.escape(self.name) + r"/(-?[0-9]{1,18})/([0-9]{1,18})", face_id)
        if match is None:
            raise UserError(f"{face_id}: not a face of this network; expected an id such as {self.name}/0/12.")
        return next(self.draw(1, int(match[1]), int(match[2])))

    @staticmethod
    def _seed(face_id: str) -> int:
        """63 bits: neighbours have nothing in common, and no two of a pool meet."""
        return Random(f"clear-faces/seed/{face_id}").getrandbits(63)


class FolderFaces:
    """A folder of pictures with ``attributes.csv`` or ``attributes.json``: file, age, gender, ethnicity, score.

    All but ``file`` may be left out or empty. A face's id is its file. Pictures that cannot be read, and those that are
    there twice under different names, are ``skipped``, with the reason. A seed changes nothing: rows are as listed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faces: dict[str, Face] = {}
        self.skipped: list[tuple[str, str]] = []
        listed: dict[str, str] = {}
        digests: dict[str, str] = {}
        for at, row in _rows(folder):
            name = row.get("file")
            if not isinstance(name, str) or not name:
                raise UserError(f"{at}: file: expected the name of a picture in {folder}; got {name!r}.")
            if name in listed:
                raise UserError(f"{at}: file: {name!r} is listed already ({listed[name]}); remove one of the two.")
            listed[name] = at
            age, gender, group, score = _attributes(at, row)
            path = _inside(folder, name, at)
            try:
                data = _data(path)
                digest = _sha256(data)
                decode(Picture(digest, str(path), partial(bytes, data)))
                if digest in digests:
                    raise UserError(f"the same picture as {digests[digest]}")
            except UserError as error:
                self.skipped.append((name, str(error)))
                continue
            digests[digest] = name
            read = partial(_unchanged, path, digest)
            self.faces[name] = Face(name, age, gender, group, score, digest, str(path), read)

    def draw(self, count: int, seed: int, first: int = 0) -> Iterator[Face]:
        yield from list(self.faces.values())[first : first + count]

    def face(self, face_id: str) -> Face:
        if face_id not in self.faces:
            near = nearest(face_id, self.faces, quoted=True)
            raise UserError(f"{self.folder}: no face {face_id!r}{near}. It is not listed, or cannot be read.")
        return self.faces[face_id]


def _rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, row) of the list in a folder."""
    found = [folder / name for name in LISTS if (folder / name).is_file()]
    if len(found) != 1:
        raise UserError(
            f"{folder}: expected {' or '.join(LISTS)}, a list of the pictures with {', '.join(COLUMNS)} (all but file "
            f"may be left out); found {'both. Remove one' if found else 'neither'}."
        )
    path = found[0]
    try:
        if path.stat().st_size > MOST_TEXT:
            raise UserError(f"{path}: larger than {MOST_TEXT >> 20} MiB. Split the folder.")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    for at, row in csv_rows(path, text, COLUMNS[0], COLUMNS) if path.suffix == ".csv" else _json_rows(path, text):
        strange = [name for name in row if name not in COLUMNS]
        if strange:
            raise UserError(
                f"{at}: {strange[0]!r} is no column{nearest(strange[0], COLUMNS)}; expected {', '.join(COLUMNS)}."
            )
        yield at, row


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        value = json_value(text, object_pairs_hook=unique_keys)
    except ValueError as error:
        raise UserError(f"{path}: not JSON that can be read ({error}).") from error
    if not isinstance(value, list):
        raise UserError(f"{path}: expected a list of objects, one a picture; got {type(value).__name__}.")
    for number, row in enumerate(value):
        at = f"{path}, entry {number}"
        if not isinstance(row, dict):
            raise UserError(f"{at}: expected an object with {', '.join(COLUMNS)}; got {type(row).__name__}.")
        yield at, row


def _attributes(at: str, row: dict[str, Any]) -> tuple[int | None, Gender | None, Group | None, float]:
    genders: dict[str, Gender] = {name: name for name in GENDERS}
    groups: dict[str, Group] = {name: name for name in GROUPS}
    return (
        _age(at, row.get("age")),
        _word(at, "gender", row.get("gender"), genders),
        _word(at, "ethnicity", row.get("ethnicity"), groups),
        _score(at, row.get("score")),
    )


def _word(at: str, field: str, value: object, known: dict[str, Any]) -> Any:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value not in known:
        near = nearest(value, known) if isinstance(value, str) else ""
        raise UserError(f"{at}: {field}: expected one of {', '.join(known)}, or nothing; got {value!r}{near}.")
    return known[value]


def _age(at: str, value: object) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= OLDEST:
        raise UserError(f"{at}: age: expected whole years from 0 to {OLDEST}, or nothing; got {value!r}.")
    return value


def _score(at: str, value: object) -> float:
    if value is None or value == "":
        return 0.0
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{at}: score: expected a number, or nothing; got {value!r}.")
    return number


def _inside(folder: Path, name: str, at: str) -> Path:
    """The file of that name below the folder, links followed. Raises UserError where it lies outside."""
    path = folder / name
    try:
        outside = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a NUL, a half character, a link in a circle
        outside = True
    if outside:
        raise UserError(f"{at}: file: {name!r} is not a path inside {folder}. Put the picture into the folder.")
    return path


def _data(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise UserError(f"{path}: not a file, or larger than {MAX_BYTES >> 20} MiB.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _unchanged(path: Path, digest: str) -> bytes:
    data = _data(path)
    if _sha256(data) != digest:
        raise UserError(f"{path}: changed since the folder was read. Leave it alone, and start again.")
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
