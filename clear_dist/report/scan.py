"""Reads records quickly: a report over many runs needs the forget set's answers, and of all others only their ids.

A file of records is some megabytes a model, nearly all of it log-probabilities. Lines that nobody asks for are
recognised by how our writer begins them and not decoded. A last line that an interrupted run left half-written is left
out and said; any other broken line is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clear_dist.metrics.record import Record, decode_object, parse_record
from clear_dist.reading import json_value
from clear_dist.types import UserError

Key = tuple[str, str]  # set, id
_TEXT = rb'"((?:[^"\\]|\\.)*)"'
_START = re.compile(
    rb'\{"v":1,"model":' + _TEXT + rb',"set":"(\w+)","modality":"\w+","kind":"\w+","id":' + _TEXT + rb","
)


@dataclass(frozen=True)
class Scan:
    """records: those wanted. ids: model -> what it was asked. cut: number of a half-written last line, left out."""

    records: tuple[Record, ...]
    ids: dict[str, frozenset[Key]] = field(default_factory=dict)
    cut: int | None = None

    def questions(self, model: str) -> str | None:
        """Digest of ids, questions and right answers of a model's records that were read; None where there is none."""
        rows = sorted((r.set, r.id, r.prompt, r.answer) for r in self.records if r.model == model)
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest() if rows else None


def _whole(line: bytes) -> bool:
    """Whether a line without its line end is a JSON value."""
    try:
        json_value(line)
    except ValueError:
        return False
    return True


def scan(path: Path, wanted: Callable[[str, str], bool] = lambda model, set_name: True) -> Scan:
    """Records of a file, in order.

    Args:
        wanted: (model, set) -> whether its records are to be read; of others only the ids are.

    Raises UserError on a bad line, and on one example recorded twice.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected one JSON object per line") from error
    cut = len(lines) if lines[-1].strip() and not _whole(lines[-1]) else None
    records: list[Record] = []
    first: dict[tuple[str, str, str], int] = {}
    for number, line in enumerate(lines[:-1] if cut else lines, start=1):
        if not line.strip():
            continue
        start = _START.match(line)
        key = None
        if start is not None and b"\\" not in start[1] + start[3]:
            key = (_utf8(start[1], path, number), start[2].decode(), _utf8(start[3], path, number))
        if key is None or wanted(key[0], key[1]):
            record = parse_record(decode_object(line, where := f"{path}:{number}"), where)
            key = (record.model, record.set, record.id)
            if wanted(record.model, record.set):
                records.append(record)
        if key in first:
            raise UserError(
                f"{path}:{number}: example {key[2]!r} of model {key[0]!r} and set {key[1]!r} stands already in line "
                f"{first[key]}: it would count twice; delete one of the two lines"
            )
        first[key] = number
    ids: dict[str, set[Key]] = {}
    for model, set_name, name in first:
        ids.setdefault(model, set()).add((set_name, name))
    return Scan(tuple(records), {model: frozenset(keys) for model, keys in ids.items()}, cut)


def _utf8(text: bytes, path: Path, number: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8 text: {error}") from error
