"""The configs of CLEAR (docs/data.md), and their rows, read without stopping at what is broken."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from clear_dist.data.clear import ClearFiles
from clear_dist.data.rows import BadData, ChoiceRow, TextRow, VisualRow
from clear_dist.types import UserError

from .findings import Report

T = TypeVar("T")
OPTIONAL = ("real_faces", "real_world")  # without them what a model knew before is not asked for
_FORGET = re.compile(r"forget(\d\d)")
_ROW = re.compile(r"([\w+]+)\[(\d+)\](\.\w+)?: (.*)", re.DOTALL)


@dataclass
class Tables:
    """splits: forgetXX -> retainYY, smallest first. visual: config -> rows with a picture, those of ``*_perturbed``
    with paraphrases and wrong answers; text: config (``+tofu``) -> rows without; choices: real people and the world."""

    splits: dict[str, str]
    visual: dict[str, list[VisualRow]] = field(default_factory=dict)
    text: dict[str, list[TextRow]] = field(default_factory=dict)
    choices: list[ChoiceRow] = field(default_factory=list)


def read_tables(directory: Path, report: Report) -> tuple[Tables, ClearFiles]:
    """Every config there is; what is missing or broken goes into the report."""
    bad = BadData("skip")
    files = ClearFiles(directory, bad)
    names = files.configs()
    forgets = sorted(name for name in names if _FORGET.fullmatch(name))
    tables = Tables({name: f"retain{100 - int(name[-2:]):02d}" for name in forgets})
    expected = ["full", "full+tofu", "real_faces", "real_world", "retain_perturbed"]
    if not forgets:
        report.add("config-missing", "forgetXX", "there is no forget split (forget01, forget05, forget10)")
    for forget, retain in tables.splits.items():
        expected += [retain, f"{forget}+tofu", f"{retain}+tofu", f"{forget}_perturbed"]
    for name in expected:
        if name not in names:
            what = f"there is no config {name}: a folder {name}/ with parquet files"
            report.add("config-missing", name, what, warn=name in OPTIONAL)
    for name in names:
        if name.endswith("+tofu"):
            plain = name.removesuffix("+tofu")
            people = _read(report, plain, lambda plain=plain: files.names(plain) if files.has(plain) else []) or []
            found = _read(report, name, lambda name=name, people=people: files.text(name, people))
            tables.text[name] = found or []
        elif name not in ("real_faces", "real_world"):
            own = [name] if name.endswith("_perturbed") else []
            tables.visual[name] = _read(report, name, lambda name=name, own=own: files.visual(name, own)) or []
    for name, rows in [*tables.visual.items(), *tables.text.items()]:
        report.counts[name] = len(rows)
    tables.choices = _read(report, "real_faces, real_world", files.choices) or []
    for name in ("real_faces", "real_world"):
        report.counts[name] = sum(row.set == name for row in tables.choices)
    for line in dict.fromkeys(bad.skipped):
        found = _ROW.match(line)
        place = f"{found[1]}[{found[2]}]" if found else str(directory)
        report.add(
            _kind(line), place, f"{found[3] or ''}: {found[4]}".removeprefix(": ").removeprefix(".") if found else line
        )
    return tables, files


def _read(report: Report, name: str, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except UserError as error:
        report.add("config-broken", name, str(error))
        return None


def _kind(line: str) -> str:
    if ".image: " in line or line.endswith("image empty."):
        return "picture-missing"
    return "id-twice" if "is also that of row" in line else "cell-empty"


def place(row_id: str) -> str:
    """``forget10/3`` as messages have it: ``forget10[3]``."""
    config, _, number = row_id.rpartition("/")
    return f"{config}[{number}]"
