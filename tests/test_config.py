"""Configurations: defaults and presets, round trips, files and flags, and every refusal with its wording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clear_dist import config as configs
from clear_dist.config import Config, DataMiniConfig, EvaluateConfig, FinetuneConfig, UnlearnConfig
from clear_dist.defaults import DEFAULT_METHOD, MINI_METHODS, MINI_UNLEARN, PAPER_UNLEARN, preset_values
from clear_dist.flags import expectation, nearest, parse, strip_local_rank
from clear_dist.types import UserError

ALL = [c for c in vars(configs).values() if isinstance(c, type) and issubclass(c, Config) and "recipe" in vars(c)]
REQUIRED: dict[str, Any] = {"out": "somewhere", "text_from": "data", "run": "runs/x", "farm": "runs/farm"}
REQUIRED |= {"grid": "g.yaml", "folder": "data/mine", "text": "people.jsonl"}
REQUIRED |= {"log": "log.json", "runs": ("runs/x",), "url": "http://localhost:8000/v1", "judge_model": "m"}


def make(config: type[Config], **values: Any) -> Config:
    needed = {k: v for k, v in REQUIRED.items() if k in config.model_fields and config.model_fields[k].is_required()}
    return config.model_validate({**needed, **values})


def unlearn(*args: str) -> UnlearnConfig:
    return parse(UnlearnConfig, args, "clear-dist unlearn")


def refused(*args: str, config: type[Config] = UnlearnConfig) -> str:
    with pytest.raises(UserError) as caught:
        parse(config, args, "clear-dist sub")
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.recipe)
def test_every_field_is_described_grouped_and_flat(config: type[Config]) -> None:
    for name, field in config.model_fields.items():
        extra = field.json_schema_extra
        assert field.description, name
        assert isinstance(extra, dict) and extra["group"], name
        assert not (isinstance(field.annotation, type) and issubclass(field.annotation, Config)), name


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.recipe)
def test_round_trip_through_json_and_yaml(config: type[Config]) -> None:
    made = make(config)
    assert config.model_validate(json.loads(made.model_dump_json())) == made
    assert config.model_validate(yaml.safe_load(yaml.safe_dump(made.model_dump(mode="json")))) == made


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.recipe)
def test_frozen_and_closed(config: type[Config]) -> None:
    made = make(config)
    name = next(iter(config.model_fields))
    with pytest.raises(ValueError, match="frozen"):
        setattr(made, name, getattr(made, name))
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        make(config, no_such_field=1)


def test_offline_default() -> None:
    made = UnlearnConfig()
    assert (made.model, made.data, made.forget_split, made.method_name) == (
        "tiny",
        "clear-mini",
        "forget10",
        DEFAULT_METHOD,
    )
    assert made.wants_gold
    assert not UnlearnConfig(data="somewhere").wants_gold
    assert UnlearnConfig(data="somewhere", gold=True).wants_gold


@pytest.mark.parametrize("method", MINI_METHODS)
def test_presets_fill_only_what_is_not_given(method: str) -> None:
    expected = {**MINI_UNLEARN, **MINI_METHODS[method]}
    made = UnlearnConfig(method=method)
    assert {k: getattr(made, k) for k in expected} == expected
    assert UnlearnConfig(method=method, lr=0.25).lr == 0.25
    paper = UnlearnConfig(method=method, preset="paper", epochs=99)
    assert (paper.epochs, paper.lr, paper.lora_alpha, paper.set) == (99, PAPER_UNLEARN["lr"], 32.0, {})


def test_preset_keys_are_fields() -> None:
    for preset in ("mini", "paper"):
        assert set(preset_values(preset, "finetune")) <= set(FinetuneConfig.model_fields)
        for method in (None, *MINI_METHODS):
            assert set(preset_values(preset, "unlearn", method)) <= set(UnlearnConfig.model_fields)


def test_set_is_merged_over_the_preset_of_the_method_only() -> None:
    assert UnlearnConfig(method="npo", set={"beta": 2.0}).set == {**MINI_METHODS["npo"]["set"], "beta": 2.0}
    assert UnlearnConfig(method="ga").set == {}
    assert UnlearnConfig(objective="nll(RETAIN)").set == {}


def test_digest_is_about_numbers_only(tmp_path: Path) -> None:
    base = UnlearnConfig()
    assert base.digest() == UnlearnConfig(out=tmp_path, resume="never", tracker="tensorboard", dry_run=True).digest()
    assert base.digest() != UnlearnConfig(seed=1).digest()
    assert base.digest() != FinetuneConfig().digest()
    assert base.run_dir() == Path("runs") / f"unlearn-{base.digest()[:8]}"
    assert UnlearnConfig(out=tmp_path).run_dir() == tmp_path
    ds = tmp_path / "z.json"
    ds.write_text("{}")
    before = UnlearnConfig(ds=ds).digest()
    ds.write_text('{"gradient_clipping": 0.0}')
    assert UnlearnConfig(ds=ds).digest() != before


# ---------------------------------------------------------------------------------------------- flags and files


def test_flags_reach_their_fields() -> None:
    made = unlearn(
        *"--model m --data d --method idk --set retain_weight=2 --set beta=.5 --lr 3e-4 --full --no-gold".split(),
        *"--forget-file f.txt --layout padded --eval_every 7 --global-batch=8 --micro-batch 4 --resume ck".split(),
    )
    assert (made.model, made.data, made.method, made.lr, made.full, made.gold) == ("m", "d", "idk", 3e-4, True, False)
    assert made.set == {"retain_weight": 2.0, "beta": 0.5}
    assert (made.forget_file, made.layout, made.eval_every) == (Path("f.txt"), "padded", 7)
    assert (made.global_batch, made.micro_batch, made.resume, made.forget_split) == (8, 4, "ck", None)
    assert unlearn() == UnlearnConfig()
    assert unlearn("--no-full").full is False and unlearn("--gold").gold is True


def test_names_with_spaces_and_equations() -> None:
    made = unlearn("--forget-names", "Ada Example; Bo Sample", "--objective", "-nll(FORGET)")
    assert made.forget_names == ("Ada Example", "Bo Sample")
    assert made.objective == "-nll(FORGET)" and made.method_name is None


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_file_then_flags(tmp_path: Path, suffix: str) -> None:
    values = {"method": "npo", "lr": 0.5, "set": {"beta": 0.25}, "gold": False, "epochs": 3}
    file = tmp_path / f"run{suffix}"
    file.write_text(json.dumps(values) if suffix == ".json" else yaml.safe_dump(values))
    made = unlearn("--config", str(file), "--epochs", "4", "--set", "retain_weight=1", "--gold")
    assert (made.lr, made.epochs, made.gold) == (0.5, 4, True)
    assert made.set == {**UnlearnConfig().set, "beta": 0.25, "retain_weight": 1.0}


def test_a_run_can_be_repeated_from_its_own_record(tmp_path: Path) -> None:
    made = UnlearnConfig(method="scrub", lr=1e-4, out=tmp_path)
    (tmp_path / "config.json").write_text(made.model_dump_json())
    assert unlearn("--config", str(tmp_path / "config.json")) == made


def test_yaml_numbers_in_scientific_notation(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("lr: 1e-3\n")  # YAML 1.1 reads this as text
    assert unlearn("--config", str(file)).lr == 1e-3


def test_local_rank_is_dropped_wherever_it_stands() -> None:
    for form in (["--local_rank", "1"], ["--local_rank=1"], ["--local-rank", "1"], ["--local-rank=1"]):
        assert strip_local_rank(["--lr", "1", *form, "--seed", "2"]) == ["--lr", "1", "--seed", "2"]
        assert unlearn(*form).seed == 0


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--epochz", "3"], ["unknown option --epochz", "did you mean --epochs?"]),
        (["--lerning_rate=3"], ["unknown option --lerning_rate"]),
        (["--lr"], ["--lr: expected a number > 0, got nothing"]),
        (["--lr", "--epochs", "3"], ["--lr: expected a number > 0, got nothing"]),
        (["--config"], ["--config: expected a file, got nothing"]),
        (["stray"], ["unexpected argument stray"]),
        (["--lr", "abc"], ["--lr: expected a number > 0, got 'abc'"]),
        (["--lr", "-1"], ["--lr: expected a number > 0, got '-1'"]),
        (["--lr", "nan"], ["--lr: expected a number > 0"]),
        (["--lr", "inf"], ["--lr: expected a number > 0"]),
        (["--epochs", "2.5"], ["--epochs: expected a whole number >= 1, got '2.5'"]),
        (["--warmup", "1"], ["--warmup: expected a number >= 0 and < 1"]),
        (["--dtype", "bf61"], ["--dtype: expected one of auto, fp32, bf16", "did you mean bf16?"]),
        (["--preset", "papr"], ["--preset: expected one of mini, paper", "did you mean paper?"]),
        (["--forget", "forget1"], ["--forget: expected one of forget01, forget05, forget10"]),
        (["--set", "beta"], ["--set beta: expected KEY=VALUE"]),
        (["--set", "=3"], ["--set =3: expected KEY=VALUE"]),
        (["--forget", "forget10", "--forget-file", "f"], ["--forget and --forget-file", "give one of them"]),
        (["--method", "ga", "--objective", "x"], ["--method and --objective", "give one of them"]),
        (["--full", "--reference", "adapter"], ["--reference adapter needs LoRA"]),
        (["--full", "--l1", "1"], ["--l1 is a penalty on LoRA weights"]),
        (["--layout", "varlen", "--attention", "sdpa"], ["--layout varlen needs --attention flash_attention_2"]),
    ],
)
def test_wrong_flags_are_refused(args: list[str], words: list[str]) -> None:
    message = refused(*args)
    for word in words:
        assert word in message


def test_every_problem_is_named_at_once() -> None:
    message = refused("--lr", "0", "--epochs", "0")
    assert "--lr" in message and "--epochs" in message


def test_missing_required_values() -> None:
    assert "--out is required" in refused(config=DataMiniConfig)
    assert "RUN is required" in refused(config=configs.ReportConfig)
    assert "--params: expected SIZE" in refused("--params", "big", config=configs.ModelNewConfig)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"epochz": 3}', ["a.json: epochz is no field of unlearn", "did you mean epochs?"]),
        ("b.yaml", "lr: fast", ["b.yaml: lr: expected a number > 0, got 'fast'"]),
        ("c.yaml", "set: {beta: [1]}", ["c.yaml: set.beta"]),
        ("d.json", '{"lr": 1,}', ["d.json: not valid JSON"]),
        ("e.yaml", "a: [1", ["e.yaml: not valid YAML"]),
        ("f.yaml", "- lr", ["f.yaml: expected a mapping", "list"]),
        ("g.yaml", "{method: ga, objective: x}", ["method and objective"]),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, name: str, text: str, words: list[str]) -> None:
    (tmp_path / name).write_text(text)
    message = refused("--config", str(tmp_path / name))
    for word in words:
        assert word in message


def test_absent_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refused("--config", str(tmp_path / "none.yaml"))


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert unlearn("--config", str(tmp_path / "empty.yaml")) == UnlearnConfig()


def test_a_flag_beside_a_file_keeps_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("epochs: 0\n")
    message = refused("--config", str(tmp_path / "x.yaml"), "--lr", "0")
    assert "x.yaml: epochs: expected" in message and "--lr: expected" in message


def test_expectations_and_nearest() -> None:
    assert expectation(UnlearnConfig.model_fields["gold"]) == "true or false"
    assert expectation(EvaluateConfig.model_fields["original"]) == "a path"
    assert nearest("retan_ft", ["retain_ft", "ga"]) == " (did you mean retain_ft?)"
    assert nearest("zzz", ["retain_ft", "ga"]) == ""


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(UnlearnConfig.model_fields)), st.integers(0, 20), st.characters(categories=["Ll"]))
def test_a_mistyped_option_never_passes(name: str, at: int, letter: str) -> None:
    typed = "--" + (name[:at] + letter + letter + name[at:]).replace("_", "-")
    assert f"unknown option {typed}" in refused(typed, "1")


@pytest.mark.parametrize("field", ["forget_file", "idk_answers", "objective"])
def test_a_run_is_the_contents_of_the_files_it_names(field: str, tmp_path: Path) -> None:
    file = tmp_path / "named.txt"
    digests = []
    for text in ("nll(RETAIN)", "nll(RETAIN)", "nll(RETAIN) - nll(FORGET)"):
        file.write_text(text)
        digests.append(UnlearnConfig(**{field: str(file)}).digest())  # pyright: ignore[reportArgumentType]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("text", ["0,2", "2 0", "0,2,2"])
def test_layers_from_a_flag(text: str) -> None:
    assert UnlearnConfig(train_layers=text).train_layers == (0, 2)  # pyright: ignore[reportArgumentType]
