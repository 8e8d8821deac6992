"""What the pages of a dataset share: sections, pictures inside the page, and a page written whole or not at all."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from clear_dist.report.blocks import Block
from clear_dist.report.render import write_report
from clear_dist.types import UserError

_MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


@dataclass(frozen=True)
class Look:
    """A list of what needs a look: (who, what, words) in a row, where a table's columns would be too narrow for words.

    rest: how many more there are.
    """

    title: str
    rows: tuple[tuple[str, str, str], ...]
    rest: int = 0


@dataclass(frozen=True)
class Section(Block):
    """A section with such lists below its tables."""

    looks: tuple[Look, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.looks) or super().__bool__()


@dataclass(frozen=True)
class Thumbnail:
    """uri: the picture itself (``data:``), None where there is none to show; alt: its description; note: what is said
    below it."""

    uri: str | None
    alt: str
    note: str = ""


def thumbnail(data: bytes | None, alt: str, note: str = "") -> Thumbnail:
    """data: PNG or JPEG; anything else is a gap, and so is None."""
    kind = next((kind for magic, kind in _MAGIC.items() if data is not None and data.startswith(magic)), None)
    if data is None or kind is None:
        return Thumbnail(None, alt, note)
    return Thumbnail(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", alt, note)


def write_page(path: Path, page: str) -> None:
    """Writes a page; what was there before stays until the new one is whole. Raises UserError naming the file."""
    if path.is_dir():
        raise UserError(f"{path}: is a directory; name a file for the page")
    try:
        write_report(path.parent, (), {path.name: page})
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another place for the page") from error


def several(count: int, one: str, many: str = "") -> str:
    """``1 fault``, ``2,000 faults``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
