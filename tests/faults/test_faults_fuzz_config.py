"""What is asked for: the command line, its files, DeepSpeed's, a sweep's and a study's grid. All is checked, or refused
by name, before anything is loaded."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from clear_dist import cli
from clear_dist.config import Config, EvaluateConfig, SweepConfig, UnlearnConfig
from clear_dist.engine.ds_config import RunNumbers, check_ds_config, load_ds_config, resolve_ds_config
from clear_dist.engine.ds_shipped import SHIPPED, shipped
from clear_dist.errors import UserError
from clear_dist.flags import build, read_file
from clear_dist.recipes.scale_grid import read_grid
from clear_dist.recipes.shadow_settings import _unlearning
from clear_dist.recipes.sweep_plan import jobs_of
from clear_dist.recipes.unlearn import objective_of
from clear_dist.shadow.presets import PRESETS

from .fuzz import counted
from .fuzz_inputs import HOSTILE_TEXTS, altered, damaged, files

COUNTS = [pytest.param(500, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]
SLOW_PARSER = [pytest.param(400, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]
COMMANDS = [
    shlex.split(line)[1:] for c in cli.COMMANDS.values() for line in c.examples if line.startswith("clear-dist")
]
FLAGS = sorted(
    {f"--{name.replace('_', '-')}" for command in cli.COMMANDS.values() for name in command.config.model_fields}
)
ODD = (
    *("--no-gold", "--no-full", "--config", "-h", "--", "-", "-1", "--=", "--lr=", "--lr=nan", "--set=beta=1", "="),
    *(
        "--local_rank=1",
        "beta=0.5",
        "A,B",
        "1e999",
        "9" * 5_000,
        "a" * 300,
        "a/" * 3_000,
        "\udcff",
        "inf",
        "0.5",
        "none",
    ),
    *(text for text in HOSTILE_TEXTS if "\0" not in text),
)


def begin(settings: Config) -> int:
    """What recipes do first: all that is checked without data, models or a directory."""
    assert len(settings.digest()) == 64
    if isinstance(settings, UnlearnConfig):
        objective_of(settings)
    if isinstance(settings, SweepConfig):
        jobs_of(settings)
    return 0


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A good command with words lost, doubled, replaced or added; rarely no command at all."""
    words = list(draw(st.sampled_from(COMMANDS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(min(1, len(words)), len(words)))
        new = draw(st.sampled_from(ODD) | st.sampled_from(ODD) | st.text(max_size=5).map(lambda t: t.replace("\0", "")))
        match draw(st.sampled_from(("add", "pair", "pair", "replace", "remove", "join"))):
            case "add":
                words.insert(at, new)
            case "pair":
                words[at:at] = [draw(st.sampled_from(FLAGS)), new]
            case "replace":
                words[at : at + 1] = [new]
            case "remove":
                del words[at : at + 1]
            case _:
                words[at : at + 2] = ["=".join(words[at : at + 2])]
    return words


@pytest.mark.parametrize("count", SLOW_PARSER)
def test_a_command_line_is_a_checked_configuration_or_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int
) -> None:
    def recipe(name: str) -> Any:
        assert name.startswith("clear_dist.recipes."), "something else was loaded"
        return SimpleNamespace(run=begin)

    monkeypatch.chdir(tmp_path)  # words may name files
    monkeypatch.setattr(cli, "importlib", SimpleNamespace(import_module=recipe))

    def command_line(words: list[str]) -> None:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                status = cli.run(words)
        except SystemExit as stop:
            assert not stop.code and {"-h", "--help"} & set(words), "only --help exits"
        else:
            assert status == (0 if words else cli.USER_ERROR)

    names = ["--", "unknown command", "unexpected argument", " is required"]
    counted(
        count, command_lines(), command_line, names=names, accepted_at_least=count // 10, rejected_at_least=count // 4
    )


# ---------------------------------------------------------------------------------------------- --config

UNLEARN: dict[str, Any] = {
    "method": "npo", "set": {"beta": 0.5}, "epochs": 3, "lr": 1e-3, "forget_names": ["Ada Example", "Bo Sample"],
    "train_layers": [1, 2], "out": "runs/x", "full": False, "gold": None, "ds": "z3", "preset": "mini", "seed": 7,
}  # fmt: skip
EQUATION = {"objective": "2*nll(RETAIN) - nll(FORGET)", "preset": "paper", "data": "d", "model": "m", "l1": 0.1}
SWEEP: dict[str, Any] = {
    "methods": "npo,idk", "objectives": {"mine": "nll(IDK) + nll(RETAIN)"}, "seeds": "0,1", "out": "runs/all",
    "grid": {"lr": [1e-3, 3e-4], "set.beta": "0.1,0.5"}, "budget": "equal", "epochs": 2,
}  # fmt: skip
EVALUATE: dict[str, Any] = {"model": "m", "gold": "g", "out": "runs/e", "eval_limit": 5, "truth_ratio": "geometric"}
YAML_PIECES = (
    *(b'!!int ""', b'!!float ""', b"!!bool maybe", b"!!timestamp x", b"!!binary x", b"0x" + b"f" * 5_000),
    *(b"0b" + b"1" * 20_000, b"!!set {a}", b"!!omap [a]", b"!!pairs [a]", b"0001-01-01t00:00:00+23:59", b"? {a: b}"),
    *(b"!!python/object/apply:os.system ['true']", b"!!python/name:os.system", b"&a [*a]", b"&a {b: *a}", b"*a"),
    *(b"? [1]\n: 2", b"<<: 1", b"2024-99-99", b"1:99", b"---\n", b"...\n", b"%YAML 9.9", b"\t"),
    *(b"- " * 400, b"[" * 300, b"{a: " * 300, b"~", b".nan", b"-.inf", b"|", b">", b"@", b"`", b"x: y: z", b": "),
)  # fmt: skip


@st.composite
def yaml_files(draw: st.DrawFn, good: list[dict[str, Any]]) -> bytes:
    """A good file whose values are changed, with pieces of YAML where they do not belong, or damaged."""
    value = draw(altered(good))
    try:
        text = yaml.safe_dump(value, sort_keys=False).encode("utf-8", "replace")
    except (yaml.YAMLError, ValueError):
        text = json.dumps(value).encode()
    if draw(st.booleans()):
        return text
    lines = text.splitlines(keepends=True) or [b"a: 1"]
    at = draw(st.integers(0, len(lines) - 1))
    piece = draw(st.sampled_from(YAML_PIECES))
    lines[at] = draw(st.sampled_from((lines[at].partition(b":")[0] + b": " + piece + b"\n", piece, lines[at] + piece)))
    return draw(st.just(b"".join(lines)) | damaged([b"".join(lines), text], most=2))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("config", [UnlearnConfig, SweepConfig, EvaluateConfig], ids=lambda c: c.recipe)
@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_file_of_options_is_a_checked_configuration_or_refused(
    count: int, config: type[Config], ending: str, tmp_path: Path
) -> None:
    file = tmp_path / f"options.{ending}"
    good = {UnlearnConfig: [UNLEARN, EQUATION], SweepConfig: [SWEEP], EvaluateConfig: [EVALUATE]}[config]
    contents = files([json.dumps(g, indent=1).encode() for g in good], good) if ending == "json" else yaml_files(good)

    def options(content: bytes) -> None:
        file.write_bytes(content)
        begin(build(config, read_file(file, config), {}, file))

    names = [file.name, "--"]  # what a file may say and a method may not is told of as a flag
    counted(count // 3, contents, options, names=names, accepted_at_least=count // 200, rejected_at_least=count // 10)


# ---------------------------------------------------------------------------------------------- grids


STUDY: dict[str, Any] = {
    "models": ["tiny", {"arch": "llava", "params": "8m"}, {"name": "wide", "arch": "llama", "hidden": 64, "layers": 2}],
    "gpu": "cpu", "gpus": [1, 2], "gpus_per_node": 8, "stages": ["z0", "z3"], "methods": ["gd", "npo"],
    "set": {"npo": {"beta": 0.5}}, "mixes": {"half": {"tokens": 64, "scored": 32, "pictures": 0.5}}, "steps": 3,
    "scaling": ["strong"], "timeout": 120, "retain_ratio": 1.5, "reference": "auto", "full": False,
}  # fmt: skip


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_grid_of_a_study_is_read_or_refused(count: int, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"grid.{ending}"
    contents = files([json.dumps(STUDY, indent=1).encode()], [STUDY]) if ending == "json" else yaml_files([STUDY])

    def grid(content: bytes) -> None:
        file.write_bytes(content)
        assert read_grid(file).size > 0

    counted(count, contents, grid, names=[file.name], accepted_at_least=count // 40, rejected_at_least=count // 4)


TUNED = ("npo.lr=0.1", "npo.epochs=2", "npo.set.beta=0.5", "scrub_bio.batch=8", "npo.objective=nll(RETAIN)-nll(FORGET)")


@st.composite
def tunings(draw: st.DrawFn) -> dict[str, str]:
    """``--tune METHOD.FIELD=VALUE``, several of them."""
    out: dict[str, str] = {}
    for _ in range(draw(st.integers(0, 3))):
        key, _, value = draw(st.sampled_from(TUNED)).partition("=")
        name, _, field = key.partition(".")
        if draw(st.integers(0, 3)) == 0:
            name = draw(st.sampled_from((name, "np", "", "scrub_bio")))
            field = draw(st.sampled_from(("stages", "schedule", "repeat", "set.", "set.x", "__class__", "perturb", "")))
        odd = st.sampled_from(HOSTILE_TEXTS) | st.sampled_from(
            ("1", "0", "-1", "1e400", "nan", "9" * 5_000, "1,2", "train")
        )
        out[f"{name}.{field}"] = draw(odd) if draw(st.integers(0, 2)) == 0 else value
    return out


@pytest.mark.parametrize("count", COUNTS)
def test_numbers_of_a_farm_s_methods_are_taken_or_refused(count: int) -> None:
    def tune(given: dict[str, str]) -> None:
        _unlearning(PRESETS["mini"], ("npo", "scrub_bio"), given)

    counted(count, tunings(), tune, names=["--tune"], accepted_at_least=count // 10, rejected_at_least=count // 4)


# ---------------------------------------------------------------------------------------------- --ds


LAYOUTS = [
    RunNumbers(1, 16, 1, bf16=False, lr=1e-3, weight_decay=0.0),
    RunNumbers(16, 64, 2, bf16=True, lr=1e-4, weight_decay=0.01, device="cuda", ranks_per_node=8),
]


@pytest.mark.parametrize("count", COUNTS)
def test_a_deepspeed_file_is_resolved_or_refused(count: int, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    good: list[Any] = [shipped(name) for name in SHIPPED]
    good.append({"bf16": {"enabled": True}, "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": "auto"}}})

    def deepspeed(content: bytes) -> None:
        file.write_bytes(content)
        config = load_ds_config(file)
        check_ds_config(config, str(file))
        told: list[UserError] = []
        for numbers in LAYOUTS:  # a file may fit the one and not the other
            try:
                resolved, lines = resolve_ds_config(config, numbers, str(file))
            except UserError as error:
                told.append(error)
            else:
                json.dumps(resolved, allow_nan=False)
                assert "auto" not in map(str, resolved["zero_optimization"].values()) and all(
                    map(str.isprintable, lines)
                )
        if len(told) == len(LAYOUTS):
            raise told[0]

    contents = files([json.dumps(g, indent=1).encode() for g in good], good)
    counted(count, contents, deepspeed, names=[file.name], accepted_at_least=count // 25, rejected_at_least=count // 4)
