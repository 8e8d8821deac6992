"""Tables of identities that pyarrow cannot read, in whatever words it says so: the file is named."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clear_dist.data.identities import load_identities
from clear_dist.data.identity_source import _readable
from clear_dist.types import UserError

SNAPPY, LZO = b"\x15\x02", b"\x15\x06"
"""A column's codec in a Parquet footer: the header of a number in thrift's compact protocol, and the number. What was
packed with LZO, pyarrow does not read."""


def table(folder: Path) -> Path:
    """Two pictures of one person, in CLEAR's layout; returns the file."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    (folder / "full").mkdir(parents=True)
    kind = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "name": pa.string()})
    rows = {"image": [{"bytes": picture.getvalue(), "path": "a"}] * 2, "name": ["A", "A"]}
    file = folder / "full" / "train.parquet"
    pq.write_table(pa.table(rows, schema=kind), file, compression="snappy")
    return file


def test_a_column_packed_in_a_way_that_is_not_read(tmp_path: Path) -> None:
    """Of the pictures, of the names, or of both: each place that may be a codec is changed in turn."""
    file = table(tmp_path / "in")
    good = file.read_bytes()
    footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    refused = []
    for at in range(footer, len(good) - 8):
        if good[at : at + 2] == SNAPPY:
            file.write_bytes(good[:at] + LZO + good[at + 2 :])
            try:
                load_identities(tmp_path / "in", 8, tmp_path / f"cache{at}")
            except UserError as error:
                refused.append(str(error))
    assert all(str(file) in said for said in refused)
    assert sum("ArrowNotImplementedError" in said or "LZO" in said for said in refused) >= 2, refused


@pytest.mark.parametrize(
    "error",
    [
        pa.ArrowException("x"),
        pa.ArrowInvalid("x"),
        pa.ArrowNotImplementedError("x"),
        pa.ArrowKeyError("x"),
        pa.ArrowTypeError("x"),
        pa.ArrowMemoryError("x"),
        pa.ArrowCapacityError("x"),
        pa.ArrowSerializationError("x"),
        OSError("x"),
        ValueError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_wrong_the_file_is_named(error: Exception) -> None:
    said = rf"a\.parquet: not a parquet file that can be read \({type(error).__name__}: "
    with pytest.raises(UserError, match=said), _readable(Path("a.parquet")):
        raise error


def test_a_mistake_of_ours_is_not_the_file_s() -> None:
    with pytest.raises(ZeroDivisionError), _readable(Path("a.parquet")):
        raise ZeroDivisionError
