"""The table of promises in docs/reliability.md names tests that exist, and marks those that CI does not run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

MARKS = ("slow", "soak", "gpu")


def marks_by_test(root: Path) -> dict[str, set[str]]:
    """Test function -> marks by which all of it is kept out of CI."""
    found: dict[str, set[str]] = {}
    for file in sorted((root / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                shown = {ast.unparse(decorator) for decorator in node.decorator_list}
                found[node.name] = {mark for mark in MARKS if f"pytest.mark.{mark}" in shown}
    return found


@pytest.mark.parametrize("page", ["docs/reliability.md"])
def test_what_is_promised_is_tested(root: Path, page: str) -> None:
    text, known = (root / page).read_text(encoding="utf-8"), marks_by_test(root)
    rows = re.findall(r"^\| (\d+)\. (.*)\|$", text, flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 13))
    for number, row in rows:
        named = re.findall(r"`(test_\w+)`( \((?:soak|slow))?", row)
        assert named or "data.md" in row, number
        for name, mark in named:
            assert name in known, f"{page}, {number}: no test {name}"
            assert known[name] == ({mark.strip(" (")} if mark else set()), f"{page}, {number}: {name}"
    for name in re.findall(r"`(test_\w+)`", text):
        assert name in known, name
