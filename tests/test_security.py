"""What the code must not be able to do: run what it reads, unpickle, ask a shell, or speak to the network unasked."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from clear_dist import reading

CODE = ("clear_dist", "launchers", "benchmarks", "setup.py")
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle"}
# Who may speak to other machines or to itself over a socket, and why.
NETWORK = {
    "clear_dist/services/judge.py": "the judge's endpoint, which the user names",
    "clear_dist/models/files.py": "a model's Hub name that was asked for",
    "clear_dist/models/photo_files.py": "a pipeline's Hub name that was asked for",
    "clear_dist/services/checks.py": "doctor: this host's own name and a port on it",
    "clear_dist/services/rank_processes.py": "a free port for ranks on this machine",
    "clear_dist/recipes/sweep_workers.py": "a free port for ranks on this machine",
    "clear_dist/engine/world.py": "a free port for a group of one",
    "clear_dist/engine/tower_cache.py": "this host's name, to share its memory between its ranks",
}
SOCKETS = {"socket", "ssl", "http", "urllib.request", "urllib3", "requests", "httpx", "aiohttp", "ftplib", "smtplib"}
SOCKETS |= {"huggingface_hub", "asyncio"}


def sources(root: Path) -> Iterator[tuple[str, ast.Module]]:
    for part in CODE:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield str(file.relative_to(root)), ast.parse(file.read_text(encoding="utf-8"))


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a chain of names; an empty string for anything else."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def offences(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of everything that could run, or load as code, what was read."""
    for node in ast.walk(tree):
        for module in imported(node):
            if module.split(".")[0] in UNPICKLERS:
                yield node.lineno, f"imports {module}"  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        given = {k.arg: k.value for k in node.keywords}
        if name in ("eval", "exec", "__import__", "compile"):
            yield node.lineno, f"calls {name}"
        if name in ("os.system", "os.popen", "tempfile.mktemp", "torch.load", "torch.jit.load", "torch.package"):
            yield node.lineno, f"calls {name}"
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            yield node.lineno, f"calls {name}: safe_load it is"
        # Left out, it means to ask on the terminal where a directory brings code of its own.
        if name.lower().startswith("auto") and name.endswith(".from_pretrained") and "trust_remote_code" not in given:
            yield node.lineno, "leaves trust_remote_code to be asked for"
        for flag in ("allow_pickle", "shell", "trust_remote_code"):
            if flag in given and not (isinstance(given[flag], ast.Constant) and not given[flag].value):  # pyright: ignore[reportAttributeAccessIssue]
                yield node.lineno, f"passes {flag}"
        if name.endswith("Environment") and "autoescape" not in given:
            yield node.lineno, "a template environment that does not escape"


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def test_nothing_that_is_read_is_run(root: Path) -> None:
    found = [(file, what) for file, tree in sources(root) for _, what in offences(tree)]
    assert found == [("clear_dist/reading.py", "calls yaml.load: safe_load it is")]
    assert issubclass(reading._Loader, yaml.SafeLoader), "what that one call reads with"
    for text in ("!!python/object/apply:os.getcwd []", "!!python/name:os.getcwd", "!!python/tuple [1]"):
        with pytest.raises(ValueError, match="could not determine a constructor"):
            reading.yaml_value(text)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import pickle", "imports pickle"),
        ("from dill import loads", "imports dill"),
        ("eval('1')", "calls eval"),
        ("torch.load(f, weights_only=True)", "calls torch.load"),
        ("np.load(f, allow_pickle=True)", "passes allow_pickle"),
        ("np.load(f, allow_pickle=given)", "passes allow_pickle"),
        ("subprocess.run(c, shell=True)", "passes shell"),
        ("AutoModel.from_pretrained(d, trust_remote_code=True)", "passes trust_remote_code"),
        ("AutoModel.from_pretrained(d, trust_remote_code=given)", "passes trust_remote_code"),
        ("auto.from_pretrained(d)", "leaves trust_remote_code"),
        ("yaml.load(f)", "calls yaml.load"),
        ("jinja2.Environment()", "does not escape"),
    ],
)
def test_each_offence_would_be_seen(code: str, what: str) -> None:
    (found, *_) = offences(ast.parse(code))
    assert what in found[1]


def test_calls_that_only_look_alike_are_left_alone() -> None:
    fine = (
        "model.eval()\nre.compile('a')\nnp.load(f, allow_pickle=False)\nfrom .pickle import x\nyaml.safe_load(f)\n"
        "AutoModel.from_pretrained(d, trust_remote_code=False)\nCLIPModel.from_pretrained(d)"
    )
    assert list(offences(ast.parse(fine))) == []


def test_sockets_are_opened_where_it_is_said_and_nowhere_else(root: Path) -> None:
    found = {
        file
        for file, tree in sources(root)
        for node in ast.walk(tree)
        for module in imported(node)
        if module in SOCKETS or module.split(".")[0] in SOCKETS
    }
    assert {file for file in found if file.startswith(("clear_dist/", "launchers/"))} == set(NETWORK)


def test_templates_let_nothing_through_unescaped(root: Path) -> None:
    """No ``|safe``, no block without escaping; ``Markup`` in one file, for the page's own script and style."""
    for file in sorted((root / "clear_dist").rglob("*.j2")):
        assert not re.search(r"\|\s*safe\b|autoescape", file.read_text(encoding="utf-8")), file
    marked = {
        file
        for file, tree in sources(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] == "Markup"
    }
    assert marked == {"clear_dist/report/render.py"}


def test_no_file_of_the_project_is_a_pickle(root: Path) -> None:
    for pattern in ("*.pkl", "*.pickle", "*.pt", "*.pth", "*.bin", "*.joblib", "*.npy"):
        assert [p for part in ("clear_dist", "tests", "benchmarks") for p in (root / part).rglob(pattern)] == []
