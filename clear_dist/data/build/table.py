"""Rows of a CSV table that somebody wrote by hand, each with where it stands."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from clear_dist.errors import nearest
from clear_dist.types import UserError


def csv_rows(path: Path, text: str, key: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(file and line, column -> cell without spaces around it), empty lines left out.

    key: the column that has to be there; columns: all that may be. Raises UserError naming line and column.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if key not in header or len(set(header)) < len(header):
            raise UserError(
                f"{path}, line 1: expected column names, {key!r} among them, each once, of {', '.join(columns)}; "
                f"got {header}."
            )
        for name in header:
            if name not in columns:
                raise UserError(
                    f"{path}, line 1: {name!r} is no column{nearest(name, columns)}; expected {', '.join(columns)}."
                )
        for cells in reader:
            at = f"{path}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(f"{at}: expected {len(header)} cells, as in line 1; got {len(cells)}.")
            yield at, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV that can be read ({error}).") from error
