"""Where pictures of identities come from: files (``data.identity_files``), CLEAR's tables, or the drawing of people."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from clear_dist.data.identity_files import list_folder, list_zip
from clear_dist.data.identity_listing import (
    Listing,
    Open,
    SourceChanged,
    content_of,
    listing_of,
    natural,
    opened,
    sha256,
)
from clear_dist.types import UserError

MINI: Final = "clear-mini"
MINI_PEOPLE, MINI_PICTURES = 120, 12
EXPECTED: Final = (
    "Expected a folder or a zip with one subfolder for each identity, a directory in CLEAR's layout, or clear-mini"
)
_MINI = re.compile(rf"{MINI}(?::(\d+)x(\d+))?")


def list_source(source: str | Path, workers: int) -> Listing:
    """Tell what the source is, and list it. Raises UserError where it is nothing known."""
    drawn = _MINI.fullmatch(str(source))
    if drawn:
        people, pictures = (int(n) for n in drawn.groups()) if drawn[1] else (MINI_PEOPLE, MINI_PICTURES)
        return _list_drawn(people, pictures)
    path = Path(source)
    try:
        if path.is_dir():
            tables = sorted((path / "full").glob("*.parquet"), key=lambda p: natural(p.name))
            if tables:
                return _list_tables(tables)
            if any(path.glob("*/*.parquet")):
                raise UserError(f"{source}: no config full. Expected a folder full/ with parquet files (image, name).")
            return list_folder(path, workers)
        if path.is_file():
            if zipfile.is_zipfile(path):
                return list_zip(path)
            raise UserError(f"{source}: not a zip file, or damaged. {EXPECTED}.")
    except OSError as error:
        raise UserError(f"{str(source)[:200]}: cannot be read ({str(error)[:300]}).") from error
    raise UserError(f"{source}: no such file or directory. {EXPECTED}, or {MINI}:60x10 (people x pictures).")


def _list_tables(files: Sequence[Path]) -> Listing:
    """``full`` of a directory in CLEAR's layout: columns image (bytes, path) and name. Ids are "name/row"."""
    import pyarrow.parquet as pq

    digests = [sha256(file) for file in files]
    names = [name for file in files for name in _table_names(file)]
    skipped = [(f"full/{row}", "no name") for row, name in enumerate(names) if not name]
    order = sorted((row for row, name in enumerate(names) if name), key=lambda row: (natural(names[row]), row))
    place = {row: i for i, row in enumerate(order)}

    def pictures(size: int) -> Iterator[tuple[int, Open]]:
        row = 0
        for file, digest in zip(files, digests, strict=True):
            with _readable(file), pq.ParquetFile(file) as table:
                for batch in table.iter_batches(batch_size=64, columns=["image.bytes"]):
                    for cell in batch.column("image").field("bytes"):
                        if row in place:
                            data = cell.as_py() or b""
                            yield place[row], partial(opened, f"{names[row]}/{row}", partial(bytes, data))
                        row += 1
            if sha256(file) != digest:
                raise SourceChanged(f"{file}: changed while it was being read. Leave it alone, and start again.")

    content = content_of("parquet", [[file.name, digest] for file, digest in zip(files, digests, strict=True)])
    return listing_of([(f"{names[row]}/{row}", names[row]) for row in order], content, pictures, skipped)


def _table_names(file: Path) -> list[str]:
    """The name of every row, "" where there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable(file):
        schema = pq.read_schema(file)
        encoded = schema.field("image").type if schema.names.count("image") == 1 else pa.null()
        at = encoded.get_field_index("bytes") if pa.types.is_struct(encoded) else -1
        binary = at >= 0 and (pa.types.is_binary(encoded[at].type) or pa.types.is_large_binary(encoded[at].type))
        if schema.names.count("name") != 1 or not binary:
            raise UserError(f"{file}: expected columns image (bytes, path) and name; found {', '.join(schema.names)}.")
        found = pq.read_table(file, columns=["name"])["name"].to_pylist()
    return [name.strip() if isinstance(name, str) else "" for name in found]


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Names the file where what is read from it makes no sense. Some of pyarrow's errors are no ArrowExceptions."""
    from pyarrow import ArrowException

    try:
        yield
    except UserError:
        raise
    except (ArrowException, ValueError, OSError) as error:
        raise UserError(f"{file}: not a parquet file that can be read ({type(error).__name__}: {error}).") from error


def _list_drawn(people: int, pictures_each: int) -> Listing:
    from clear_dist.data.mini import portraits

    shots = portraits.portrait_shots(people, pictures_each)
    width = len(str(pictures_each - 1))
    flat = [(name, f"{i:0{width}d}", shot) for name, some in shots.items() for i, shot in enumerate(some)]

    def pictures(size: int) -> Iterator[tuple[int, Open]]:
        for i, (_, _, shot) in enumerate(flat):
            yield i, partial(shot.draw, size)

    folder = Path(portraits.__file__).parent
    code = [[file.name, sha256(file)] for file in sorted(folder.glob("*.py"))]
    kept = [(f"{name}/{number}", name) for name, number, _ in flat]
    return listing_of(kept, content_of("drawn", [people, pictures_each, code]), pictures, [])
