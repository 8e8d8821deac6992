"""Files of a build's stages that are broken are refused, naming file, line and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic_data import blank_figures, build_files, changed, write_build

from clear_dist.report.data_build_page import data_build_page
from clear_dist.types import UserError

FILES = build_files()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    blank_figures(monkeypatch)
    return write_build(tmp_path / "work", FILES)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("attributes.jsonl", {"age": -1}, "age: expected a whole number from 0 to 150, got -1"),
        ("attributes.jsonl", {"age": 30.0}, "age: expected a whole number"),
        ("attributes.jsonl", {"age": True}, "age: expected a whole number"),
        ("attributes.jsonl", {"name": None}, "name: expected an object, got nothing"),
        ("attributes.jsonl", {"genre": {"value": 3}}, "genre: value: expected a text or null, got 3"),
        ("attributes.jsonl", {"books": [3]}, r"books\[0\]: expected an object, got 3"),
        ("attributes.jsonl", {"books": {}}, "books: expected a list, got dict"),
        ("attributes.jsonl", {"invented": [1]}, "invented: expected a list of texts, got list"),
        ("attributes.jsonl", {"person": 0}, "person 0 stands on a line before"),
        ("faces.jsonl", {"score": "high"}, "score: expected a number from -1e[+]15 to 1e[+]15, got 'high'"),
        ("faces.jsonl", {"id": "face-0"}, "id face-0 stands on a line before"),
        ("matching.jsonl", {"cost": -0.1}, "cost: expected a number from 0 to"),
        ("matching.jsonl", {"others": 1.5}, "others: expected a whole number"),
        ("prompts.jsonl", {"text": None}, "text: expected a text, got nothing"),
        ("images.jsonl", {"kept": 1}, "kept: expected true or false, got 1"),
        ("images.jsonl", {"file": "../secret.png"}, "is not below images/"),
        ("images.jsonl", {"file": "/etc/x.png"}, "is not below images/"),
        ("texts.jsonl", {"perturbed": "a"}, "perturbed: expected a list of texts, got 'a'"),
    ],
)
def test_fields_that_cannot_be_are_refused_by_file_and_line(
    work: Path, name: str, change: dict[str, Any], told: str
) -> None:
    changed(work, name, lambda row: row.update(change), 1)
    with pytest.raises(UserError, match=rf"{name}:2: .*{told}"):
        data_build_page(work)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("matching.json", {"shortages": [{}]}, r"shortages\[0\]: gender: expected a text, got nothing"),
        ("matching.json", {"total": None}, "total: expected a number"),
        ("dataset.json", {"counts": {"full": -1}}, "counts: full: expected a whole number"),
        ("dataset.json", {"splits": {"forget10": "Ada"}}, "splits: forget10: expected a list of texts"),
        ("dataset.json", {"findings": []}, "findings: expected an object, got list"),
    ],
)
def test_objects_that_cannot_be_are_refused_by_file(work: Path, name: str, change: dict[str, Any], told: str) -> None:
    changed(work, name, lambda row: row.update(change))
    with pytest.raises(UserError, match=rf"{name}: {told}"):
        data_build_page(work)


@pytest.mark.parametrize("line", [b'{"person": 1', b"[1]", b"\xff\xfe", b'{"person": NaN}', b'{"person": 1e999}'])
def test_a_broken_line_is_named(work: Path, line: bytes) -> None:
    with (work / "attributes.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(UserError, match=r"attributes\.jsonl:21: "):
        data_build_page(work)
    (work / "dataset.json").write_bytes(line)
    (work / "attributes.jsonl").unlink()
    with pytest.raises(UserError, match=r"dataset\.json: "):
        data_build_page(work)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        data_build_page(tmp_path / "none")
