"""A model with random weights whose tokenizer was trained on a dataset's own text: jobs of real size, no download."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clear_dist.config import ModelNewConfig
from clear_dist.models.new import new_model
from clear_dist.services.progress import say
from clear_dist.types import UserError


def run(config: ModelNewConfig) -> None:
    """Read the text, make the model, say where it is.

    Raises:
        UserError: no text, a size that cannot be met, ``out`` in use.
    """
    texts = dataset_texts(config.text_from)
    out = new_model(
        config.arch,
        config.params,
        texts=texts,
        out=config.out,
        layers=config.layers,
        hidden=config.hidden,
        vocab=config.vocab,
        seed=config.seed,
    )
    say(
        f"a {config.arch} with random weights is in {out}; its tokenizer knows {len(texts)} texts of {config.text_from}"
    )


def dataset_texts(folder: Path) -> list[str]:
    """Every distinct text of a dataset directory, in order: string and list-of-string columns of its parquet files,
    and the same of JSON lines.

    Raises:
        UserError: no directory, or no text in it.
    """
    if not folder.is_dir():
        raise UserError(f"--text-from {folder}: no such directory; name a dataset, e.g. of `clear-dist data mini`")
    files = sorted(folder.rglob("*.parquet"))
    lines = sorted([*folder.rglob("*.json"), *folder.rglob("*.jsonl")])
    found: dict[str, None] = {}
    for file in files:
        found.update(dict.fromkeys(_parquet_texts(file)))
    for file in lines:
        found.update(dict.fromkeys(_json_texts(file)))
    if not found:
        raise UserError(f"--text-from {folder}: no text in its {len(files)} parquet and {len(lines)} JSON files")
    return list(found)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _parquet_texts(file: Path) -> Iterator[str]:
    try:
        schema = pq.read_schema(file)
        wanted = [
            f.name for f in schema if _is_text(f.type) or (pa.types.is_list(f.type) and _is_text(f.type.value_type))
        ]
        table = pq.read_table(file, columns=wanted)
    except pa.ArrowException as error:
        raise UserError(f"--text-from: {file} is not a parquet file that can be read ({error})") from None
    for column in table.columns:
        yield from _strings(column.to_pylist())


def _json_texts(file: Path) -> Iterator[str]:
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            return  # a document over several lines, such as attributes.json: no rows
        if isinstance(row, dict):
            yield from _strings(row.values())


def _strings(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str) and value:
            yield value
        elif isinstance(value, list):
            yield from _strings(value)
