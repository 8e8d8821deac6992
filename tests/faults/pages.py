"""Folders that pages are made of, as values: every text and number in them can be changed, and the page made again."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jinja2 import BytecodeCache, Environment
from jinja2.bccache import Bucket

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "report"))

from synthetic_farm import ROWS, make_farm  # noqa: E402  # pyright: ignore[reportMissingImports]
from synthetic_run import make_run  # noqa: E402  # pyright: ignore[reportMissingImports]
from synthetic_runs import Method, make_runs  # noqa: E402  # pyright: ignore[reportMissingImports]
from synthetic_scale import make_study  # noqa: E402  # pyright: ignore[reportMissingImports]

from clear_dist.report import draw, render  # noqa: E402
from clear_dist.report.build import report, report_runs  # noqa: E402
from clear_dist.report.scale_page import scale_report  # noqa: E402
from clear_dist.report.words import clean  # noqa: E402

Contents = dict[str, Any]  # file -> JSON value, list of them (.jsonl), or rows (.csv)
KEPT = 40  # records of a run: enough for a sample of each kind

# What decides which part of a page a value goes to is no free text. Of keys, only these are names that somebody gave.
WORDS = {
    *("original", "gold", "forget", "retain", "real_faces", "real_world", "holdout", "text", "visual", "both", "all"),
    *("qa", "caption", "name", "describe", "attribute", "choice", "strong", "weak", "unlearn", "attack"),
    *("original+shuffled", "h100-80g", "cpu"),
}
NAMED = {"unlearned", "npo(FORGET)", "nll(RETAIN)", "retain_ft(FORGET)", "torch", "transformers", "deepspeed"}
NAMED |= {row.name for row in ROWS} - WORDS


@dataclass(frozen=True)
class Kind:
    """A kind of page: how its folder is made, and the page of a folder."""

    make: Callable[[Path], object]
    write: Callable[[Path], tuple[Path, Path]]


def _farm(folder: Path) -> object:
    return make_farm(folder, ROWS[:4], people=("p0", "p1", "p2"), pictures=2)


def _runs(folder: Path) -> object:
    return make_runs(folder, (Method("npo", 0.0, 1.0), Method("retain_ft", 0.9, 1.0)))


def _study(folder: Path) -> object:
    return make_study(folder, models=("a", "big"), gpus=(1, 2, 4), methods=("gd", "npo"), left_out=["c: too large"])


KINDS = {
    "run": Kind(make_run, lambda folder: report(folder, folder / "out")),
    "runs": Kind(_runs, lambda folder: report_runs([folder / "npo", folder / "retain_ft"], folder / "out")),
    "farm": Kind(_farm, lambda folder: report(folder, folder / "out")),
    "scale": Kind(_study, lambda folder: scale_report(folder, folder / "out")),
}


def read(folder: Path) -> Contents:
    out: Contents = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.suffix == ".json":
            out[name] = json.loads(file.read_text())
        elif file.suffix == ".jsonl":
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            out[name] = lines[:: max(1, len(lines) // KEPT)]
        elif file.suffix == ".csv":
            out[name] = list(csv.reader(io.StringIO(file.read_text())))
    return out


def write(folder: Path, contents: Mapping[str, Any], known: Sequence[str]) -> None:
    """Files of known names; one that is absent, or went under another name, is not there."""
    for name in known:
        file = folder / name
        if name not in contents:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(_encoded(name, contents[name]))


def _encoded(name: str, value: Any) -> bytes:
    if name.endswith(".jsonl") and isinstance(value, list):
        return "".join(json.dumps(line) + "\n" for line in value).encode()
    if name.endswith(".csv") and isinstance(value, list):
        text = io.StringIO()
        rows = (row if isinstance(row, list) else [row] for row in value)
        csv.writer(text).writerows([str(cell) for cell in row] for row in rows)
        return text.getvalue().encode("utf-8", "replace")
    return json.dumps(value).encode()


def with_texts(value: Any, text: Callable[[str], str]) -> Any:
    """All free texts, names in keys too, given anew; the same text becomes the same one everywhere."""
    if isinstance(value, str):
        return value if value in WORDS or _is_number(value) else text(value)
    if isinstance(value, list):
        return [with_texts(inside, text) for inside in value]
    if isinstance(value, dict):
        return {text(k) if k in NAMED else k: with_texts(inside, text) for k, inside in value.items()}
    return value


def all_texts(contents: Contents, texts: Sequence[str]) -> Contents:
    """Every free text of the files is one of these, with a number so that no two become the same."""
    given: dict[str, str] = {}

    def text(old: str) -> str:
        new = f"{texts[len(given) % len(texts)]}{len(given)}"
        if old == "unlearned":  # a model: these would say that it is under attack, or a control
            new = "".join(c for c in new if c not in "/+@")
        return given.setdefault(old, new)

    return {
        name: [value[0], *with_texts(value[1:], text)] if name.endswith(".csv") else with_texts(value, text)
        for name, value in contents.items()
    }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text
    return True


class Folder:
    """A folder of a kind of page, its page made again of other contents."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._write, self.folder = KINDS[kind].write, folder
        KINDS[kind].make(folder)
        self.good: Contents = read(folder)

    def page(self, contents: Any) -> str:
        write(self.folder, contents if isinstance(contents, dict) else {}, list(self.good))
        page, text = self._write(self.folder)
        lines = text.read_text().lower().splitlines()
        markdown = "\n".join(line for line in lines if not line.startswith("    "))  # code, where nothing is markup
        assert not [tag for tag in ("<script", "<img", "<svg", "<b>") if tag in markdown]
        return page.read_text()

    def names(self, contents: object) -> list[str]:
        return [str(self.folder)]


class _Memory(BytecodeCache):
    """Templates compiled once a test."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self.kept:
            bucket.bytecode_from_string(self.kept[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self.kept[bucket.key] = bucket.bytecode_to_string()


def unpainted(patch: pytest.MonkeyPatch, *, composed: bool) -> None:
    """No figure is painted; without ``composed`` none is put together either."""
    memory = _Memory()
    patch.setattr(render, "Environment", lambda **settings: Environment(**settings, bytecode_cache=memory))
    if composed:
        patch.setattr(draw, "encode", lambda figure, kind, color: b"\x89PNG" if kind == "png" else b"<?xml")
        patch.setattr(draw, "_settle", lambda figure: None)
        patch.setattr(draw, "_settle_as", lambda figure, other: None)
        return

    def blank(name: str, make: object, *, alt: str, title: str, numbers: Any = None) -> draw.Image:
        return draw.Image(name, b"\x89PNG", b"\x89PNG", b"<?xml", clean(alt), title, numbers)

    drawn = draw.draw
    for name, module in list(sys.modules.items()):
        if name.startswith("clear_dist.report.") and getattr(module, "draw", None) is drawn:
            patch.setattr(module, "draw", blank)
