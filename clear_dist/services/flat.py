"""Records and summaries as flat tables, in Parquet or CSV, for spreadsheets and data frames.

CSV is made for eyes: UTF-8 with a byte-order mark, lists as JSON, and text that a spreadsheet would take for a formula
(it comes from models) starts with an apostrophe. Absent and empty text look alike there; in Parquet they do not.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from clear_dist.metrics.record import SCORES, Record
from clear_dist.types import UserError

Kind = Literal["text", "number", "count", "truth", "list", "lists"]
Row = Mapping[str, Any]
SUFFIXES = (".parquet", ".csv")
# What makes a spreadsheet read a cell as a formula, full-width forms included (https://owasp.org, CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
TYPES: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "number": pa.float64(),
    "count": pa.int64(),
    "truth": pa.bool_(),
    "list": pa.list_(pa.float64()),
    "lists": pa.list_(pa.list_(pa.float64())),
}
FIELDS: dict[str, Kind] = {
    "run": "text",
    "model": "text",
    "set": "text",
    "modality": "text",
    "kind": "text",
    "id": "text",
    "person": "text",
    "seen": "truth",
    "picture": "text",
    "prompt": "text",
    "generated": "text",
    "answer": "text",
    "label": "text",
}
LOGPS: dict[str, Kind] = {
    "logp.answer": "list",
    "logp.paraphrase": "list",
    "logp.perturbed": "lists",
    "logp.options": "lists",
}


@dataclass(frozen=True)
class Table:
    """Columns with their kinds, and rows; a row may lack a column (then it is absent there)."""

    columns: Mapping[str, Kind]
    rows: Sequence[Row]


def records_table(runs: Mapping[str, Sequence[Record]]) -> Table:
    """A row per record: its fields, each score by its name, ``attr.NAME`` for each visible attribute (1 named rightly,
    0 not), and ``logp.*``, lists of natural log-probabilities. ``run`` is the mapping's key."""
    records = [(run, record) for run, part in runs.items() for record in part]
    names = dict.fromkeys(s for s in SCORES if s != "attributes")
    inner: dict[str, None] = {}
    for _, record in records:
        for name, value in record.scores.items():
            if isinstance(value, Mapping):
                inner |= dict.fromkeys(_inner(name, key) for key in value)
            elif name != "attributes":
                names[name] = None
    if taken := next((name for name in (*names, *inner) if name in FIELDS or name in LOGPS), None):
        raise UserError(f"records.jsonl: the score {taken!r} has the name of another column; give it another name")
    columns: dict[str, Kind] = {
        **FIELDS,
        **dict.fromkeys(names, "number"),
        **dict.fromkeys(sorted(inner), "number"),
        **LOGPS,
    }
    return Table(columns, [_record_row(run, record) for run, record in records])


def _inner(score: str, key: str) -> str:
    return f"attr.{key}" if score == "attributes" else f"{score}.{key}"


def _record_row(run: str, record: Record) -> Row:
    row: dict[str, Any] = {name: getattr(record, name) for name in FIELDS if name != "run"}
    row["run"] = run
    for name, value in record.scores.items():
        if isinstance(value, Mapping):
            row |= {_inner(name, key): float(hit) for key, hit in value.items()}
        elif value is not None:
            row[name] = float(value)
    for name, kind in LOGPS.items():
        value = getattr(record.logp, name.removeprefix("logp."))
        row[name] = [list(v) for v in value] if kind == "lists" else value and list(value)
    return row


def summary_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per figure of each summary: run, model, set, group, metric, value, low, high, n, note.

    Figures of a model as a whole have no set and no group; those within a part are named ``part.figure``
    (``forget_quality.p``, ``aftermath.named``). A model under an attack is ``model/attack``. What was not measured has
    no row.
    """
    columns: dict[str, Kind] = {
        **dict.fromkeys(("run", "model", "set", "group", "metric"), "text"),
        **dict.fromkeys(("value", "low", "high"), "number"),
        "n": "count",
        "note": "text",
    }
    rows = []
    for run, summary in runs.items():
        for model, content in summary["models"].items():
            rows += [{"run": run, **row} for row in _model_rows(model, content)]
    return Table(columns, rows)


def _model_rows(model: str, content: Mapping[str, Any]) -> Iterator[Row]:
    yield from _set_rows(model, content.get("sets") or {})
    for name, value in content.items():
        if name not in ("sets", "robustness"):
            yield from ({"model": model, **row} for row in _figures(name, value))
    for attack, sets in (content.get("robustness") or {}).items():
        yield from _set_rows(f"{model}/{attack}", sets or {})


def _set_rows(model: str, sets: Mapping[str, Any]) -> Iterator[Row]:
    for name, groups in sets.items():
        for group, metrics in (groups or {}).items():
            for metric, value in (metrics or {}).items():
                yield from ({"model": model, "set": name, "group": group, **row} for row in _figures(metric, value))


def _figures(name: str, value: object) -> Iterator[Row]:
    """An estimate, a number, or a mapping of such; words and nulls are no figures."""
    if isinstance(value, Mapping):
        if "ci" in value:
            low, high = value["ci"]
            yield {"metric": name, "value": float(value["value"]), "low": float(low), "high": float(high)} | {
                k: kind(value[k]) for k, kind in (("n", int), ("note", str)) if value.get(k) is not None
            }
            return
        n = value.get("n")
        for key, inside in value.items():
            if key != "n":
                yield from ({"n": n, **row} for row in _figures(f"{name}.{key}", inside))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield {"metric": name, "value": float(value)}


def check_target(path: Path) -> None:
    """Raises UserError unless ``write_table`` can write there, as far as the name tells."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out {path}: expected a file that ends in {' or '.join(SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"--out {path}: is a directory; name a file")


def write_table(path: Path, table: Table) -> None:
    """Writes a table by a rename: Parquet or CSV, by the file's ending. Raises UserError where that is not possible."""
    check_target(path)
    temporary = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".csv":
            _write_csv(temporary, table)
        else:
            _write_parquet(temporary, table)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written ({error.strerror}); name another file") from None


def _write_parquet(path: Path, table: Table) -> None:
    schema = pa.schema([(_clean(name), TYPES[kind]) for name, kind in table.columns.items()])
    columns = {
        _clean(name): [_clean(v) if isinstance(v := row.get(name), str) else v for row in table.rows]
        for name in table.columns
    }
    pq.write_table(pa.table(columns, schema=schema), path)


def _write_csv(path: Path, table: Table) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow([csv_cell(name) for name in table.columns])
        for row in table.rows:
            writer.writerow([csv_cell(row.get(name)) for name in table.columns])


def csv_cell(value: object) -> object:
    """A value as a CSV cell: numbers as they are, lists as JSON, truth as true and false, absent as nothing; text that
    would be a formula behind an apostrophe."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, str):
        text = _clean(value)
        return f"'{text}" if text.startswith(FORMULA) or text.lstrip().startswith(FORMULA) else text
    return value


def _clean(text: str) -> str:
    """Halves of characters, which UTF-8 cannot hold, become question marks; zero bytes are left out."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
