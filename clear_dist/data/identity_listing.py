"""The pictures of a source, listed before any is opened: which there are, whose, and a digest of all their pixels
depend on. Names found in the data are labels only: nothing is written under them and no path is made of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from clear_dist.data.images import decode
from clear_dist.types import Picture, UserError

Open = Callable[[], Image.Image]  # raises UserError where it is no picture
Reason = tuple[str, str]  # (id, why it is left out)


class SourceChanged(UserError):
    """A file is not what was listed: going on would keep other pixels under the listing's digest."""


@dataclass(frozen=True)
class Listing:
    """The pictures of a source, not opened yet.

    ids: "name/file", unique, in order of (name, file), numbers in them compared as numbers. names: whose each is.
    content: SHA-256 of all that pixels depend on. skipped: what is no picture as far as one sees without opening it.
    pictures: size -> (i, how to open picture i as RGB), in order; drawn pictures are of that size already.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    content: str
    pictures: Callable[[int], Iterator[tuple[int, Open]]]
    skipped: tuple[Reason, ...] = ()


def listing_of(
    kept: Sequence[tuple[str, str]],
    content: str,
    pictures: Callable[[int], Iterator[tuple[int, Open]]],
    skipped: Sequence[Reason],
) -> Listing:
    """A listing of (id, name) pairs in order."""
    ids = tuple(row_id for row_id, _ in kept)
    assert len(set(ids)) == len(ids), "ids are unique"
    return Listing(ids, tuple(name for _, name in kept), content, pictures, tuple(sorted(skipped)))


def natural(text: str) -> tuple[tuple[str | tuple[int, str], ...], str]:
    """A sort key in which "a9" comes before "a10"; the text itself decides between "a1" and "a01"."""
    parts = re.split(r"([0-9]+)", text)
    # A number by its length, then its digits: names may hold more of them than int() takes.
    numbers = [part.lstrip("0") for part in parts]
    return tuple((len(numbers[i]), numbers[i]) if i % 2 else part for i, part in enumerate(parts)), text


def content_of(kind: str, parts: Sequence[Any], skipped: Sequence[Reason] = ()) -> str:
    """``Listing.content`` from JSON values. skipped: files whose bytes are not among the parts."""
    return hashlib.sha256(json.dumps([kind, parts, sorted(skipped)]).encode()).hexdigest()


def sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def opened(row_id: str, read: Callable[[], bytes]) -> Image.Image:
    """The picture whose encoded bytes ``read`` returns, as RGB. Raises UserError naming the id."""
    return decode(Picture("", row_id, read))
