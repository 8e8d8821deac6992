"""Texts of a dataset directory: every string of parquet and JSON lines once, pictures and documents left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clear_dist.recipes.model_new import dataset_texts
from clear_dist.types import UserError


def test_texts_of_parquet_and_json_lines(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": pa.array([{"bytes": b"x", "path": "p.png"}, None]),
            "caption": ["a cat", None],
            "options": [["one", "two"], ["a cat"]],
            "row": [1, 2],
        }
    )
    (tmp_path / "full").mkdir()
    pq.write_table(table, tmp_path / "full" / "train.parquet")
    (tmp_path / "tofu.json").write_text(json.dumps({"question": "who?", "wrong": ["me", ""], "n": 1}) + "\n")
    (tmp_path / "attributes.json").write_text(json.dumps({"digest": {"hair": "red"}}, indent=1))
    assert dataset_texts(tmp_path) == ["a cat", "one", "two", "who?", "me"]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        dataset_texts(tmp_path / "none")
    with pytest.raises(UserError, match="no text in its 0 parquet and 0 JSON files"):
        dataset_texts(tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"bad\.parquet is not a parquet file"):
        dataset_texts(tmp_path)
