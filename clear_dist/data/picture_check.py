"""Every picture decoded once before anything is trained on it: half a JPEG has a whole header, and would end a run in
its middle. Which ones decode well is remembered by their digests, so that only new ones are looked at again.

The list lies in the cache, one file for each version of the decoder: a line with the SHA-256 of what follows, then the
digests, 32 bytes each. A damaged list is none.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL

from clear_dist.data.images import check_picture, decode
from clear_dist.types import Picture, UserError

THREADS = 4  # each may hold a picture of MAX_PIXELS


def check_pictures(
    pictures: Iterable[Picture],
    *,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, UserError]:
    """``images.decode`` on every distinct picture: digest -> what is wrong with it, for the bad ones, in their order.

    cache: folder of the list of good ones (None: none is kept). on_progress: called with (pictures done, pictures).
    """
    distinct: dict[str, Picture] = {}
    for picture in pictures:
        distinct.setdefault(picture.digest, picture)  # of equal pictures the first gives its name
    file = None if cache is None else cache / f"decoded-{PIL.__version__}.list"
    known = set[str]() if file is None else _read(file)
    new = [picture for digest, picture in distinct.items() if digest not in known]
    errors: dict[str, UserError] = {}
    with ThreadPoolExecutor(THREADS) as threads:
        for done, (picture, error) in enumerate(zip(new, threads.map(_problem, new), strict=True), start=1):
            if error is not None:
                errors[picture.digest] = error
            if on_progress is not None:
                on_progress(done, len(new))
    if file is not None and len(errors) < len(new):
        _write(file, _read(file) | known | {picture.digest for picture in new} - errors.keys())
    return errors


def _problem(picture: Picture) -> UserError | None:
    try:
        check_picture(picture)  # header and checksums first: a bomb is refused before it unfolds
        decode(picture)
    except UserError as error:
        return error
    return None


def _read(file: Path) -> set[str]:
    try:
        head, _, body = file.read_bytes().partition(b"\n")
    except OSError:
        return set()
    if head.decode("ascii", "replace") != hashlib.sha256(body).hexdigest() or len(body) % 32:
        return set()
    return {body[i : i + 32].hex() for i in range(0, len(body), 32)}


def _write(file: Path, digests: set[str]) -> None:
    """Replaced in one step. Where the cache cannot be written, pictures are looked at again next time."""
    body = b"".join(sorted(bytes.fromhex(digest) for digest in digests))
    part = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as out:
            part = out.name
            out.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        os.replace(part, file)
    except OSError:
        if part is not None:
            Path(part).unlink(missing_ok=True)
