"""The command line from outside: quick help, exit statuses, no tracebacks, quiet ranks, launchers from a bare clone."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from clear_dist import cli
from clear_dist.config import UnlearnConfig
from clear_dist.types import UserError

LAUNCHERS = ("unlearn", "finetune", "evaluate", "plan", "quickstart", "report", "scale_study", "sweep")


def run(root: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return subprocess.run(
        [sys.executable, *args], cwd=root, env={**inherited, **env}, capture_output=True, text=True, check=False
    )


def stub(monkeypatch: pytest.MonkeyPatch, recipe: str, outcome: object) -> list[object]:
    """Puts a recipe in place that returns, or raises, ``outcome``; what it was called with."""
    seen: list[object] = []

    def run(config: object) -> object:
        seen.append(config)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    module = types.ModuleType(f"clear_dist.recipes.{recipe}")
    vars(module)["run"] = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


def test_help_waits_for_no_heavy_library(root: Path) -> None:
    code = (
        "import sys\nfrom clear_dist import cli\n"
        "cli.main(['--help'])\n"
        "for name in cli.COMMANDS:\n"
        "    try: cli.main([*name.split(), '--help'])\n"
        "    except SystemExit as stop: assert stop.code == 0, name\n"
        "heavy = {'torch', 'transformers', 'deepspeed', 'datasets', 'peft', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = run(root, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    page = capsys.readouterr().out
    assert stop.value.code == 0
    command = cli.COMMANDS[name]
    for field, info in command.config.model_fields.items():
        if "positional" not in info.metadata:
            assert f"--{field.replace('_', '-')}" in page, field
    assert page.rstrip().endswith(command.examples[-1])
    assert "clear_dist." not in page and "Annotated" not in page


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_examples_parse(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    for line in cli.COMMANDS[name].examples:
        words = shlex.split(line)
        args = words[1:] if words[0] == "clear-dist" else [Path(words[1]).stem.replace("_", "-"), *words[2:]]
        seen = stub(monkeypatch, cli.COMMANDS[name].config.recipe, None)
        assert cli.main(args) == 0
        assert isinstance(seen[0], cli.COMMANDS[name].config)


def test_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(f"  {name}" in page for name in cli.COMMANDS)
    assert cli.main([]) == cli.USER_ERROR


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from clear_dist import __version__

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"clear-dist {__version__}"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["unlern"], "unknown command unlern (did you mean unlearn?)"),
        (["data", "mimi"], "unknown command data mimi (did you mean data mini?)"),
        (["model"], "unknown command model"),
        (["unlearn", "--metod", "ga"], "unknown option --metod (did you mean --method?)"),
    ],
)
def test_user_mistakes_end_with_2_and_one_line(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(args) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_recipes_get_their_configuration_and_their_errors_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = stub(monkeypatch, "unlearn", None)
    assert cli.main(["unlearn", "--lr", "0.5", "--local_rank=0"]) == 0
    assert seen == [UnlearnConfig(lr=0.5)]
    stub(monkeypatch, "unlearn", 3)
    assert cli.main(["unlearn"]) == 3
    stub(monkeypatch, "unlearn", UserError("row 7: empty answer"))
    assert cli.main(["unlearn"]) == cli.USER_ERROR
    assert capsys.readouterr().err == "error: row 7: empty answer\n"
    stub(monkeypatch, "unlearn", KeyboardInterrupt())
    assert cli.main(["unlearn"]) == cli.INTERRUPTED
    stub(monkeypatch, "unlearn", ValueError("a bug, not a mistake"))
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["unlearn"])


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK"])
def test_only_rank_0_speaks(variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv(variable, "1")
    assert cli.main(["unlearn", "--lr", "x"]) == cli.USER_ERROR
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit):
        cli.main(["unlearn", "--help"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_run_from_anywhere_and_are_short(root: Path, tmp_path: Path, name: str) -> None:
    script = root / "launchers" / f"{name}.py"
    assert len(script.read_text().splitlines()) <= 20
    done = subprocess.run(
        [sys.executable, str(script), "--local_rank=0", "--no-such-option"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == cli.USER_ERROR
    assert "unknown option --no-such-option" in done.stderr and "Traceback" not in done.stderr


def test_module_and_console_script_are_the_same(root: Path) -> None:
    assert run(root, "-m", "clear_dist", "--version").stdout.startswith("clear-dist ")


def test_help_into_a_closed_pipe_says_nothing() -> None:
    """`clear-dist unlearn --help | head -1`: the reader leaves, no traceback follows."""
    process = subprocess.Popen(
        [sys.executable, "-m", "clear_dist", "unlearn", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0, errors
    assert b"Traceback" not in errors, errors
