"""The smallest files and words that once ended in a traceback: each is refused, by name, or read as it should be."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from report import run_files

from clear_dist import cli
from clear_dist.config import CompareConfig, RobustnessConfig, SweepConfig, UnlearnConfig
from clear_dist.engine.ds_config import load_ds_config
from clear_dist.engine.metrics_log import _lines_until
from clear_dist.errors import LONGEST, UserError
from clear_dist.flags import build, parse, read_file
from clear_dist.metrics.interval import Estimate
from clear_dist.metrics.record import Record, read_records
from clear_dist.reading import MOST, json_value, unique_keys, yaml_value
from clear_dist.recipes.reproduce import differences
from clear_dist.recipes.sweep import read_rows
from clear_dist.recipes.unlearn import equation_text
from clear_dist.report.run import read_summary
from clear_dist.report.runs import expand
from clear_dist.report.scan import scan
from clear_dist.services.flat import records_table
from clear_dist.services.log_rows import read_object
from clear_dist.services.rundir import read_run

DEEP = "[" * 100_000
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGED = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))

# ---------------------------------------------------------------------------------------------- JSON and YAML


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP, "nested more than 100 deep"),
        ('{"a":' * 100_000, "nested more than 100 deep"),
        ("[" * 102 + "]" * 102, "nested more than 100 deep"),
        ("9" * 5_000, "a whole number of 5,000 digits"),
        ("1" + "0" * 400, "a whole number of 401 digits"),
        ('"\\ud800"', r"half of a character ('\ud800')"),
        ('{"\\uDC00": 1}', "half of a character"),
        (b"\xff", "can't decode byte 0xff"),
        ('{"a":1,"a":2}', "key 'a' occurs twice"),
        ("", "Expecting value"),
    ],
)
def test_json_that_no_one_should_write(text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        json_value(text, object_pairs_hook=unique_keys)
    assert said in str(caught.value)


def test_json_that_is_fine_is_what_json_reads() -> None:
    for value in ([[]] * 500, {"a": [1.5, -3, None, True, "\U0001f600 [[["]}, 10**307, "\\ud800"):
        assert json_value(json.dumps(value)) == value
    assert json_value('"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP[:2_000], "nested more than 100 deep"),
        ("a: &a [*a]", "nested more than 100 deep"),
        (LAUGHS, f"more than {MOST:,} values"),
        (MERGED, "a mapping has more than"),
        ("a: 1\na: 2", "key 'a' occurs twice"),
        ("a: 0x" + "f" * 5_000, "beyond all floats, of 20,000 bits"),
        ('a: "\\ud800"', "half of a character"),
        ('!!int ""', "does not fit its tag"),
        ('!!float ""', "does not fit its tag"),
        ("!!bool maybe", "does not fit its tag"),
        ("!!timestamp x", "does not fit its tag"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("2024-99-99", "month must be in 1..12"),
        ("\0", "unacceptable character"),
    ],
)  # fmt: skip
def test_yaml_that_no_one_should_write(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        yaml_value(text)
    assert said in str(caught.value)


def test_yaml_with_anchors_and_merged_mappings_is_read() -> None:
    assert yaml_value("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: *a}") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2},
    }


# ---------------------------------------------------------------------------------------------- what is asked for


def refused(config: type[Any], values: dict[str, Any], folder: Path) -> str:
    file = folder / "o.json"
    file.write_text(json.dumps(values))
    with pytest.raises(UserError) as caught:
        build(config, read_file(file, config), {}, file)
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "values", "said"),
    [
        (UnlearnConfig, {"method": ["npo"]}, "o.json: method: expected text, got \"['npo']\""),
        (UnlearnConfig, {"method": "npo", "objective": "nll(RETAIN)"}, "o.json: method and objective both say"),
        (UnlearnConfig, {"ds": "\0"}, "o.json: ds '\\x00' holds a zero byte"),
        (UnlearnConfig, {"data": "a" * 256}, "is too long for a path: 256 bytes between slashes"),
        (UnlearnConfig, {"out": "a/" * 2_100}, "is too long for a path"),
        (
            SweepConfig,
            {"out": "x", "objectives": [{"a": "b"}]},
            "objectives: expected a mapping, or a list of KEY=VALUE",
        ),
        (SweepConfig, {"out": "x", "seeds": "9" * 5_000}, "o.json: seeds: expected N,N,N"),
        (RobustnessConfig, {"run": "x", "relearn_steps": "9" * 5_000}, "o.json: relearn_steps: expected N,N,N"),
    ],
)
def test_options_of_a_wrong_kind_are_named(
    config: type[Any], values: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in refused(config, values, tmp_path)


def test_a_path_no_file_can_have_is_refused_before_anything_looks_for_it() -> None:
    for flag in ("--ds", "--forget-file", "--idk-answers", "--out", "--model"):
        with pytest.raises(UserError, match=f"{flag} 'a+' is too long for a path: 5,000 bytes"):
            parse(UnlearnConfig, [flag, "a" * 5_000], "clear-dist unlearn")
    with pytest.raises(UserError, match=r"--config a+.*: no such file"):
        parse(UnlearnConfig, ["--config", "a" * 300], "clear-dist unlearn")
    assert equation_text("a" * 300) == "a" * 300
    with pytest.raises(UserError, match=r"--objective a+\.txt: neither an equation nor a file"):
        equation_text("a" * 300 + ".txt")
    assert len(UnlearnConfig(objective="a" * 300).digest()) == 64


def test_an_on_off_flag_with_a_value_is_refused() -> None:
    for words in (["--json=yes", "runs/a"], ["--json=--runs", "--no-json"], ["--no-json=1"]):
        with pytest.raises(UserError, match="json takes no value, got"):
            parse(CompareConfig, words, "clear-dist compare")


def test_a_model_s_name_drives_no_terminal() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert cli.main(["evaluate", "--name", "\x1b[2J"]) == cli.USER_ERROR
    assert "--name: expected NAME" in said.getvalue() and "\x1b" not in said.getvalue()


def test_a_message_is_printable_and_short_whatever_it_quotes() -> None:
    said = str(UserError("a.json: \x1b[2J\u202e\ud800\0 \u00e4\U0001f600\nnext"))
    assert said == "a.json: \\x1b[2J\\u202e\\ud800\\x00 \u00e4\U0001f600\nnext"
    said = str(UserError(f"a.json: {'x' * 10_000}: remove it"))
    assert len(said) < LONGEST and said.startswith("a.json: x") and said.endswith("x: remove it")
    assert "[... 8,119 characters left out ...]" in said


def test_a_deepspeed_file_that_is_no_good_json_is_named(tmp_path: Path) -> None:
    texts = {"deep.json": DEEP, "long.json": "9" * 5_000, "twice.json": '{"bf16": {}, "bf16": {}}'}
    texts |= {"nan.json": '{"gradient_clipping": NaN}', "inf.json": '{"gradient_clipping": 1e999}'}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"--ds .*{name}: not valid JSON"):
            load_ds_config(tmp_path / name)


# ---------------------------------------------------------------------------------------------- what a run has written


@pytest.mark.parametrize(
    "text", [DEEP, '{"config": []}', '{"recipe": []}', '{"versions": " "}', '{"machine": 1}', "9" * 5_000]
)
def test_a_damaged_run_json_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    assert read_run(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sets": {"forget": []}}, "summary.json: models.unlearned.sets.forget: expected an object"),
        ({"sets": {"forget": {"all": [1]}}}, "models.unlearned.sets.forget.all: expected an object"),
        ({"sets": {"forget": {"all": {"metric": {"value": 1, "ci": [1], "n": 1}}}}}, "forget.all.metric: expected"),
        ({"real_metric": {"value": "", "ci": [0, 1], "n": 1}}, "models.unlearned.real_metric: expected"),
        ({"forget_quality": {"p": 0.1, "n": "many"}}, "models.unlearned.forget_quality.n: expected a count"),
        ({"robustness": {"int4": [1]}}, "models.unlearned.robustness.int4: expected an object"),
    ],
)  # fmt: skip
def test_a_summary_with_a_figure_out_of_form_is_refused_by_its_place(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = run_files.write(tmp_path / "run", {"unlearned": {**run_files.block(), **change}})
    with pytest.raises(UserError) as caught:
        read_summary(folder / "summary.json")
    assert said in str(caught.value)


@pytest.mark.parametrize("seconds", ["x", 3, [1], True])
def test_times_that_are_no_object_are_refused(seconds: object, tmp_path: Path) -> None:
    folder = run_files.write(tmp_path / "run", {"unlearned": run_files.block()})
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "seconds": seconds}))
    with pytest.raises(UserError, match=r"summary\.json: seconds: expected an object or null"):
        read_summary(folder / "summary.json")
    (folder / "summary.json").write_text(json.dumps({**summary, "seconds": None}))
    read_summary(folder / "summary.json")


def test_a_figure_is_three_finite_numbers_and_a_count() -> None:
    assert Estimate.of({"value": 1, "ci": [0, 1], "n": 2}) == Estimate(1.0, 0.0, 1.0, 2)
    for wrong in ({"value": "1"}, {"ci": [None, 1]}, {"n": 1.5}, {"n": -1}, {"n": 10**30}, {"value": float("nan")}):
        with pytest.raises(UserError, match="expected"):
            Estimate.of({"value": 1, "ci": [0, 1], "n": 2, **wrong})


def test_lists_of_a_sweep_that_cannot_be_read(tmp_path: Path) -> None:
    for text in (DEEP, "{", "{}", "[1]", '[{"run": 1}]'):
        (tmp_path / "sweep.json").write_text(text)
        for read in (expand, read_rows):
            with pytest.raises(UserError, match=r"sweep\.json: "):
                read([tmp_path] if read is expand else tmp_path)  # pyright: ignore[reportArgumentType]


def test_a_line_of_records_is_named_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    good = Record("m", "forget", "text", "qa", "a", "?", "!").to_line().encode()
    file = tmp_path / "records.jsonl"
    for bad in (
        b"\xff\n",
        DEEP.encode() + b"\n",
        b"9" * 5_000 + b"\n",
        b'{"v": "\\ud800"}\n',
        good + b"\r" + good + b"\n",
    ):
        file.write_bytes(good + b"\n" + bad)
        for read in (read_records, scan):
            with pytest.raises(UserError, match=r"records\.jsonl:2: not a JSON object"):
                read(file)


def test_a_score_named_as_another_column_is_not_exported_over_it() -> None:
    record = Record("m", "forget", "text", "qa", "a", "?", "!", scores={"prompt": 1.0})
    with pytest.raises(UserError, match="the score 'prompt' has the name of another column"):
        records_table({"run": [record]})


def test_metrics_of_lists_and_of_depth_are_no_steps(tmp_path: Path) -> None:
    for name in ("then", "now"):
        (tmp_path / name).mkdir()
    (tmp_path / "now" / "metrics.jsonl").write_text(f'{DEEP}\n[1]\n{{"step": 1}}\n')
    assert _lines_until(tmp_path / "now" / "metrics.jsonl", 1) == ['{"step": 1}']
    with pytest.raises(UserError, match=r"metrics\.jsonl:1: not a JSON object"):
        list(differences(tmp_path / "then", tmp_path / "now"))


def test_half_a_character_in_a_log_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text('{"a": "\\ude42"}')
    with pytest.raises(UserError, match=r"log\.json: not JSON \(half of a character"):
        read_object(tmp_path / "log.json")
