"""A folder of identities, or a zip of one, listed. A zip is read in place, nothing is unpacked."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from clear_dist.data.identity_listing import (
    Listing,
    Open,
    Reason,
    SourceChanged,
    content_of,
    listing_of,
    natural,
    opened,
    sha256,
)
from clear_dist.types import UserError

MAX_BYTES: Final = 64 << 20  # of one encoded picture; larger files are refused before they are read
_LITTER = ("__macosx", "thumbs.db", "desktop.ini")


def list_folder(root: Path, workers: int) -> Listing:
    """Every ordinary file below a folder; links are followed. Raises OSError where a folder cannot be read."""
    found: dict[str, Path] = {}
    skipped: list[Reason] = []
    seen = {root.resolve()}
    for folder, inner, names in os.walk(root, followlinks=True, onerror=_raise):
        folders = [Path(folder) / name for name in sorted(inner) if not _litter(name)]
        inner.clear()
        for path in folders:
            real = path.resolve()
            if real in seen:  # links may lead round in circles
                skipped.append((_text(path, root), "a link to a folder that is read already"))
            else:
                seen.add(real)
                inner.append(path.name)
        for name in sorted(names):
            text = _text(Path(folder) / name, root)
            if text in found:  # only where one name is the other's escaped form
                skipped.append((text, "another file has this name"))
            elif not _litter(name):
                found[text] = Path(folder) / name
    rows, outside = _rows(found)
    files = {row_id: found[text] for row_id, _, text in rows}

    with ThreadPoolExecutor(workers) as pool:
        digests = dict(zip(files, pool.map(_digest, files.values()), strict=True))
    reason = f"not a file that can be read, or larger than {MAX_BYTES >> 20} MiB"
    skipped += outside + [(row_id, reason) for row_id, digest in digests.items() if digest is None]
    kept = [(row_id, name) for row_id, name, _ in rows if digests[row_id] is not None]

    def pictures(size: int) -> Iterator[tuple[int, Open]]:
        for i, (row_id, _) in enumerate(kept):
            yield i, partial(opened, row_id, partial(_unchanged, files[row_id], str(digests[row_id])))

    parts = [[row_id, digests[row_id]] for row_id, _ in kept]
    return listing_of(kept, content_of("folder", parts, skipped), pictures, skipped)


def list_zip(path: Path) -> Listing:
    """Every entry of a zip. Raises UserError where it cannot be read."""
    try:
        archive = zipfile.ZipFile(path)  # closed when the last function that reads from it is gone
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a zip file that can be read ({type(error).__name__}: {error}).") from error
    assert archive.fp is not None
    archive.fp.seek(0)  # hashed is the very file that is read from later, whatever the path names by then
    content = hashlib.file_digest(cast(Any, archive.fp), "sha256").hexdigest()
    found: dict[str, zipfile.ZipInfo] = {}
    skipped: list[Reason] = []
    for info in archive.infolist():
        # Older tools on Windows write backslashes.
        parts = info.filename.replace("\\", "/").encode("utf-8", "backslashreplace").decode().split("/")
        parts = [part for part in parts if part not in ("", ".")]
        if info.is_dir() or any(_litter(part) for part in parts):
            continue
        name = "/".join(parts)
        if name in found:
            skipped.append((name, "an earlier entry of the zip has this name"))
        elif info.file_size > MAX_BYTES:
            skipped.append((name, f"{info.file_size} bytes, more than the {MAX_BYTES >> 20} MiB allowed"))
        else:
            found[name] = info
    rows, outside = _rows(found)

    def pictures(size: int) -> Iterator[tuple[int, Open]]:
        for i, (row_id, _, text) in enumerate(rows):
            yield i, partial(opened, row_id, partial(_zip_bytes, archive, found[text]))

    kept = [(row_id, name) for row_id, name, _ in rows]
    return listing_of(kept, content_of("zip", [content]), pictures, skipped + outside)


def _rows(paths: Iterable[str]) -> tuple[list[tuple[str, str, str]], list[Reason]]:
    """Paths as (id, identity, path), in order; those in no identity's folder are left out.

    The identity is the first folder. Folders that hold everything, such as the one a zip was made of, are looked
    through: their names are no part of ids.
    """
    split = {path: [part for part in path.split("/") if part] for path in paths}
    inside = {path: parts for path, parts in split.items() if len(parts) > 1}
    outside = [(path, "in no identity's folder") for path in split if path not in inside]
    depth = 0
    while inside and all(len(parts) > depth + 2 for parts in inside.values()):
        if len({parts[depth] for parts in inside.values()}) > 1:
            break
        depth += 1
    rows = [("/".join(parts[depth:]), parts[depth], path) for path, parts in inside.items()]
    rows.sort(key=lambda row: (natural(row[1]), natural(row[0])))
    return rows, outside


def _digest(file: Path) -> str | None:
    """SHA-256 of an ordinary file of bearable size (a pipe would be waited for forever); None for others."""
    try:
        status = file.stat()
        return sha256(file) if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES else None
    except OSError:
        return None


def _unchanged(file: Path, digest: str) -> bytes:
    """The bytes of a file that was listed. Raises SourceChanged where they are others by now."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SourceChanged(
            f"{file}: cannot be read any more ({error}). Leave the folder alone, and start again."
        ) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise SourceChanged(f"{file}: changed while the folder was being read. Leave it alone, and start again.")
    return data


def _zip_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(info) as entry:
            return entry.read(MAX_BYTES + 1)  # checks the CRC at the end
    except Exception as error:  # damaged, encrypted, or packed in a way Python does not know
        raise OSError(f"{type(error).__name__}: {error}") from error


def _text(path: Path, root: Path) -> str:
    """A path below ``root`` as text that can be written anywhere, whatever bytes it is made of."""
    return os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")


def _litter(name: str) -> bool:
    """What systems leave behind: hidden files, resource forks, thumbnails. ".." as well."""
    return name.startswith(".") or name.lower() in _LITTER


def _raise(error: OSError) -> None:
    raise error
