"""docs/methods.md is what ``clear-dist methods --markdown`` prints, and the table names every method."""

from __future__ import annotations

from pathlib import Path

import pytest

from clear_dist.config import MethodsConfig
from clear_dist.methods import METHODS, build, hyperparameters
from clear_dist.recipes import methods


def test_the_document_is_current(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods.run(MethodsConfig(markdown=True))
    printed = capsys.readouterr().out
    document = root / "docs" / "methods.md"
    current = document.read_text(encoding="utf-8") if document.is_file() else ""
    assert current == printed, "METHODS has changed; run: clear-dist methods --markdown > docs/methods.md"


def test_every_method_is_listed_with_its_equation() -> None:
    rows = {line.split("`")[1]: line for line in methods.markdown().splitlines() if line.startswith("| `")}
    assert list(rows) == list(METHODS)
    for name, row in rows.items():
        assert f"`{build(name)}`" in row
        assert all(f"{key}={value:g}" in row for key, value in hyperparameters(name).items())
        assert row.count(" | ") == 3, "a bar in a cell would break the table"
        assert not row.rstrip().endswith("|  |"), f"{name} says nothing about itself"


def test_the_table_on_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    methods.run(MethodsConfig())
    printed = capsys.readouterr().out
    assert all(name in printed for name in METHODS)
