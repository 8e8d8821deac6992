"""Documents, Makefile and packaging say what is there: commands exist, files exist, numbers agree."""

from __future__ import annotations

import json
import re
import shlex
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from clear_dist import __version__, cli
from clear_dist.config import Config
from clear_dist.flags import parse

DOCS = (
    "aftermath",
    "architecture",
    "building",
    "data",
    "decisions",
    "exit-codes",
    "formats",
    "imports",
    "methods",
    "metrics",
    "ops",
    "reliability",
    "report",
    "results",
    "robustness",
    "scaling",
    "shadow",
    "tutorial",
)
PAGES = ("README.md", "CONTRIBUTING.md", "ds_configs/README.md", *(f"docs/{name}.md" for name in DOCS))
ZERO = ("z0", "z1", "z2", "z3", "z3_offload", "z3_nvme")


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


def shell_lines(root: Path, page: str) -> list[str]:
    """Commands of a page's bash blocks, continuation lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", (root / page).read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


def commands(root: Path) -> list[tuple[str, str]]:
    return [(page, line) for page in PAGES for line in shell_lines(root, page)]


def make_targets(root: Path) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (root / "Makefile").read_text(), flags=re.MULTILINE))


def test_every_clear_dist_command_of_the_documents_parses(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for page in PAGES:  # the files that documents tell the reader to write
        for name, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", (root / page).read_text(), flags=re.DOTALL):
            (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    seen = 0
    for page, line in commands(root):
        words = shlex.split(line, comments=True)
        if words[0] == "deepspeed":
            script = root / words[1]
            assert script.is_file(), f"{page}: {line}"
            words = ["clear-dist", script.stem.replace("_", "-"), *words[2:]]
        if words[0] != "clear-dist" or "--help" in words:
            continue
        name, rest = cli._split(words[1:])
        assert isinstance(parse(cli.COMMANDS[name].config, rest, name), Config), f"{page}: {line}"
        seen += 1
    assert seen >= 15


def test_every_ds_file_of_the_documents_exists(root: Path) -> None:
    for page, line in commands(root):
        for file in re.findall(r"--ds (\S+)", line):
            shipped = root / "ds_configs" / f"{file}.json"  # a name will do
            assert file == "auto" or (root / file).is_file() or shipped.is_file(), f"{page}: {line}"


def test_make_targets_of_the_documents_exist(root: Path) -> None:
    targets = make_targets(root)
    for page in PAGES:
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", (root / page).read_text(), flags=re.MULTILINE):
            assert target in targets, f"{page}: make {target}"
    assert {"setup", "quickstart", "test", "lint", "test-slow", "soak", "gpu", "wheels", "clean", "help"} <= targets


def test_tree_of_the_readme_is_the_tree(root: Path) -> None:
    tree = next(b for b in (root / "README.md").read_text().split("```") if b.strip().startswith("clear_dist/"))
    shown: set[str] = set()
    for line in tree.strip().splitlines():
        inside = line.startswith("  ")
        for name in re.match(r"\s*((?:[\w.]+/?\s)+)", line + " ")[1].split():  # pyright: ignore[reportOptionalSubscript]
            if name.endswith(("/", ".py")):
                path = root / "clear_dist" / name if inside else root / name
                assert path.exists(), line
                shown.add(name.rstrip("/"))
    packages = {p.parent.name for p in (root / "clear_dist").glob("*/__init__.py")}
    assert packages <= shown


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(root: Path, page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (root / page).read_text()):
        if not target.startswith("http"):
            assert ((root / page).parent / target).exists(), f"{page}: {target}"


def test_make_help_lists_every_target(root: Path) -> None:
    page = subprocess.run(["make", "-s"], cwd=root, capture_output=True, text=True, check=True).stdout
    for target in make_targets(root):
        assert re.search(rf"^  {target} +\S", page, flags=re.MULTILINE), target


def test_make_test_is_what_ci_runs(root: Path) -> None:
    script = root / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR and (root / ".ci" / "gpu").stat().st_mode & stat.S_IXUSR
    assert script.read_text().rstrip().endswith("exec make test")
    plan = subprocess.run(["make", "-n", "test"], cwd=root, capture_output=True, text=True, check=True).stdout
    for tool in ("ruff check", "ruff format -q --check", "basedpyright", "lint-imports", "pytest"):
        assert tool in plan
    assert '-m "not slow and not gpu and not soak"' in plan


def test_a_broken_gpu_part_is_refused(root: Path) -> None:
    done = subprocess.run([".ci/gpu", "speed"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "PART=speed" in done.stderr


def test_dependencies_have_ranges_reasons_and_tested_versions(root: Path, project: dict[str, Any]) -> None:
    text = (root / "pyproject.toml").read_text()
    block = text.split("dependencies = [")[1].split("]")[0]
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (root / "constraints.txt").read_text(), flags=re.MULTILINE))
    versions = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    for line in block.strip().splitlines():
        name = re.match(r'\s*"([\w-]+)>=[\d.]+,<[\d.]+",\s+# \w', line)
        assert name, line
        assert name[1] in versions, line
    for requirement in project["project"]["optional-dependencies"]["dev"]:
        assert re.split(r"[><=]", requirement)[0] in versions, requirement
    assert not re.search(r"https?:|--index|\+", (root / "constraints.txt").read_text().split("\n", 1)[1])


def test_versions_agree(root: Path, project: dict[str, Any]) -> None:
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "clear_dist.__version__"
    assert f"version: {__version__}\n" in (root / "CITATION.cff").read_text()
    assert project["project"]["scripts"]["clear-dist"] == "clear_dist.cli:main"
    assert "Apache License" in (root / "LICENSE").read_text() and project["project"]["license"] == "Apache-2.0"


@pytest.mark.parametrize("name", ZERO)
def test_zero_files_say_what_matters_and_leave_the_rest(root: Path, name: str) -> None:
    config = json.loads((root / "ds_configs" / f"{name}.json").read_text())
    assert config["gradient_clipping"] == 1.0
    assert config["bf16"] == {"enabled": "auto"} and "fp16" not in config
    assert all(
        config[k] == "auto"
        for k in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    )
    assert config["zero_optimization"]["stage"] == int(name[1])
    assert ("offload_param" in config["zero_optimization"]) == ("_" in name)
    assert "optimizer" not in config and "scheduler" not in config
    assert f"`{name}.json`" in (root / "ds_configs" / "README.md").read_text()
    from clear_dist.engine.ds_config import check_ds_config

    assert check_ds_config(config, name) == int(name[1])


def test_no_machine_shows_in_the_project(root: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    home = re.compile(r"/(?:root|home/\w+)/")
    for name in listed.stdout.splitlines():
        path = root / name
        if path.suffix in (".py", ".md", ".toml", ".json", ".txt", ".j2", ".cff") and path.is_file():
            assert not home.search(path.read_text(encoding="utf-8")), name
