"""Writing ``records.jsonl``: append-only, one line per example and model, each line whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from clear_dist.metrics.record import LogProbs, Record, Score, parse_record, read_records

__all__ = ["LogProbs", "Record", "RecordWriter", "Score", "parse_record", "read_records", "write_records"]


class RecordWriter:
    """Appends records to a file. A half-written last line, left by a killed run, is cut off on opening."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        end = self._file.seek(0, os.SEEK_END)
        keep = end
        while keep > 0:  # back to just after the last newline, block by block
            start = max(0, keep - 65536)
            self._file.seek(start)
            newline = self._file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < end:
            self._file.truncate(keep)

    def write(self, records: Iterable[Record]) -> None:
        """Appends the records and hands them to the operating system as one write."""
        data = "".join(record.to_line() + "\n" for record in records).encode()
        self._file.write(data)
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes a fresh file, replacing one that is there, by a rename: readers see the old or the new, never half."""
    temporary = path.with_name(path.name + ".partial")
    temporary.unlink(missing_ok=True)
    with RecordWriter(temporary) as writer:
        writer.write(records)
    os.replace(temporary, path)
