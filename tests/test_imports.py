"""Who may import whom: the contracts of pyproject.toml hold, and they would notice if one did not."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

LINTER = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"


def lint(folder: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", LINTER], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def contracts(root: Path) -> list[dict[str, object]]:
    return tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_contracts_hold(root: Path) -> None:
    code, output = lint(root)
    assert code == 0, output
    assert f"Contracts: {len(contracts(root))} kept, 0 broken." in output


def test_every_package_stands_behind_the_fences(root: Path) -> None:
    packages = {
        f"clear_dist.{p.name}" for p in (root / "clear_dist").iterdir() if p.is_dir() and (p / "__init__.py").exists()
    }
    fences = {str(c["name"]): c for c in contracts(root) if c.get("allow_indirect_imports")}
    for name, home in (
        ("deepspeed in engine only", "engine"),
        ("transformers, peft and diffusers in models only", "models"),
    ):
        sources = fences[name]["source_modules"]
        assert isinstance(sources, list)
        assert packages - set(sources) == {f"clear_dist.{home}"}


@pytest.mark.parametrize(
    ("package", "line", "contract"),
    [
        ("metrics", "import torch", "metrics is NumPy"),
        ("data", "import deepspeed", "deepspeed in engine only"),
        ("engine", "def late():\n    import peft", "transformers, peft and diffusers in models only"),
        ("models", "from clear_dist import data", "models -> ops, types"),
        ("report", "from clear_dist.evaluation import x", "report -> metrics, types"),
        ("methods", "from clear_dist.engine import x", "data, methods, metrics and ops do not look up"),
    ],
)
def test_a_forbidden_import_is_found(root: Path, tmp_path: Path, package: str, line: str, contract: str) -> None:
    text = (root / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(text)
    for row in contracts(root):
        for key in ("source_modules", "forbidden_modules", "modules"):
            listed = row.get(key, [])
            assert isinstance(listed, list)
            for module in listed:
                if str(module).startswith("clear_dist."):
                    folder = tmp_path / str(module).replace(".", "/")
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / "__init__.py").write_text("")
    (tmp_path / "clear_dist" / "__init__.py").write_text("")
    (tmp_path / "clear_dist" / package / "__init__.py").write_text(line + "\n")
    code, output = lint(tmp_path)
    assert code == 1, output
    broken = [row for row in output.splitlines() if row.endswith(" BROKEN")]
    assert any(contract in row for row in broken), output
