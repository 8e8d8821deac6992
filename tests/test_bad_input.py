"""What a user can get wrong, through the whole command line: status 2, one message that says what and what to do, and
no weight loaded before it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from data.data_fakes import Table, clear_tables, write_clear

from clear_dist import cli
from clear_dist.config import UnlearnConfig
from clear_dist.flags import parse
from clear_dist.models.new import new_model
from clear_dist.services.rundir import claim_output, write_run

ADA = ("--forget-names", "Ada Berg")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good dataset: six people, one published split."""
    return write_clear(tmp_path_factory.mktemp("good") / "data", clear_tables())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A LLaVA directory with a tokenizer for that dataset."""
    from clear_dist.recipes.model_new import dataset_texts

    out = tmp_path_factory.mktemp("good") / "model"
    return new_model("llava", "1m", texts=dataset_texts(data), out=out)


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Weights, engines and networks are out of reach: a mistake has to be found without them."""
    import transformers

    from clear_dist.models import load
    from clear_dist.recipes import answers, training

    def refuse(*args: object, **kwargs: object) -> Any:
        raise AssertionError("weights were loaded before the mistake was found")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", refuse)
    for module in (load, answers, training):
        monkeypatch.setattr(module, "load_model", refuse)
    monkeypatch.setattr(training, "train", refuse)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with status 2; its message, white space made single."""

    def run(*args: object) -> str:
        assert cli.main([str(a) for a in args]) == cli.USER_ERROR
        error = capfd.readouterr().err
        assert "error: " in error and "Traceback" not in error
        return " ".join(error[error.index("error: ") :].split())

    return run


def base(data: Path, model: Path) -> list[object]:
    return ["unlearn", "--data", data, "--model", model, *ADA]


def has(message: str, *words: str) -> None:
    for word in words:
        assert word in message, message


def changed(folder: Path, change: Callable[[dict[str, Table]], object]) -> Path:
    tables = clear_tables()
    change(tables)
    return write_clear(folder / "changed", tables)


def with_file(model: Path, folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the model with one JSON file changed."""
    copy = shutil.copytree(model, folder / "model")
    content = json.loads((copy / name).read_text())
    change(content)
    (copy / name).write_text(json.dumps(content))
    return copy


# The guard itself: with nothing wrong, the same command gets as far as the weights.
def test_a_good_command_reaches_the_weights(data: Path, model: Path) -> None:
    with pytest.raises(AssertionError, match="weights were loaded"):
        cli.main([str(a) for a in base(data, model)])


# -- options and files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--metod npo", ["unknown option --metod", "did you mean --method?", "--help"]),
        ("--lr fast", ["--lr: expected a number > 0", "'fast'"]),
        ("--warmup 1.5", ["--warmup: expected a number >= 0 and < 1", "'1.5'"]),
        ("--global-batch 0", ["--global-batch: expected a whole number >= 1"]),
        ("--modality txt", ["--modality", "one of text, visual, both", "did you mean text?"]),
        ("--gold runs/gold", ["--gold takes no value", "did you mean --gold-model runs/gold?"]),
        ("--epochs", ["--epochs: expected a whole number >= 1, got nothing"]),
        ("--forget forget10 --forget-file x", ["--forget and --forget-file", "give one of them"]),
        ("--method npoo", ["--method npoo", "did you mean 'npo'", "retain_ft"]),
        ("--method npo --set betta=1", ["--set betta", "did you mean 'beta'", "retain_weight"]),
        ("--set beta", ["--set beta: expected KEY=VALUE"]),
        ("--objective nnl(FORGET)", ["--objective", "'nnl'", "did you mean 'nll'"]),
        ("--objective nll(FORGT)", ["--objective", "FORGT", "did you mean 'FORGET'"]),
        ("--objective 2*3", ["--objective", "it needs a term such as nll(RETAIN)"]),
        ("--method ga --objective nll(RETAIN)", ["--method and --objective", "give one of them"]),
        ("--method=", ["--method is empty", "leave it out"]),
        ("--objective=", ["--objective is empty", "leave it out"]),
        ("--full --l1 1", ["--l1", "needs LoRA, not --full"]),
        ("--tracker wandb", ["--tracker wandb", "not installed", "pip install wandb"]),
        ("--resume runs/none", ["--resume runs/none", "no run of clear_dist there", "auto"]),
        ("--prefetch -1", ["--prefetch: expected a whole number >= 0"]),
        ("--tower-cache yes", ["--tower-cache", "one of auto, on, off"]),
        ("--compile --ds ds_configs/z3.json", ["--compile: ZeRO stage 3", "Use stage 0, 1 or 2"]),
        ("--config none.yaml", ["--config none.yaml: no such file"]),
        ("--original none", ["none: no such directory", "model directory"]),
        ("--gold-model none", ["none: no such directory"]),
    ],
)
def test_options(args: str, words: list[str], refused: Callable[..., str], data: Path, model: Path) -> None:
    if "wandb" in args:
        import importlib.util

        if importlib.util.find_spec("wandb") is not None:
            pytest.skip("wandb is installed")
    people = () if "--forget" in args else ADA
    has(refused("unlearn", "--data", data, "--model", model, *people, *args.split(" ")), *words)


def test_unknown_key_of_a_configuration_file(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("learning_rate: 1\nretain_rato: 2\n")
    has(refused("unlearn", "--config", "my.yaml"), "my.yaml: learning_rate is no field of unlearn")
    (tmp_path / "my.yaml").write_text("retain_rato: 2\n")
    has(refused("unlearn", "--config", "my.yaml"), "retain_rato is no field", "did you mean retain_ratio?")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, ["offload_param", "stage 3"]),
        ({"zero_optimization": {"stage": 4}}, ["zero_optimization.stage is 4", "0, 1, 2 or 3"]),
        ({"zero_optimisation": {"stage": 3}}, ["zero_optimisation", "did you mean 'zero_optimization'"]),
        ({"scheduler": {"type": "WarmupLR"}}, ["scheduler", "--schedule"]),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, ["fp16.enabled", "use bf16 or fp32"]),
    ],
)
def test_zero_files(
    content: dict[str, Any], words: list[str], refused: Callable[..., str], data: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(content))
    has(refused(*base(data, model), "--ds", "ds.json"), "ds.json", *words)


def test_a_zero_file_that_is_none(refused: Callable[..., str], data: Path, model: Path, tmp_path: Path) -> None:
    has(refused(*base(data, model), "--ds", "z3.json"), "--ds z3.json: no such file", "ds_configs/")
    (tmp_path / "ds.json").write_text("{")
    has(refused(*base(data, model), "--ds", "ds.json"), "--ds ds.json: not valid JSON")


# -- data -------------------------------------------------------------------------------------------------------------


def test_data_that_is_none(refused: Callable[..., str], model: Path, tmp_path: Path) -> None:
    has(refused(*base(Path("nowhere"), model)), "nowhere: no such file or directory", "clear-mini")
    (tmp_path / "empty").mkdir()
    has(refused(*base(Path("empty"), model)), "empty: no dataset", "full+tofu/")


def _last_answer(tables: dict[str, Table]) -> None:
    tables["full+tofu"]["answer"][-1] = " "


def _broken_picture(tables: dict[str, Table]) -> None:
    tables["full"]["image"][4] = {"bytes": b"not a picture", "path": None}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("full+tofu"), ["no config full+tofu", "--modality visual"]),
        (lambda t: t.pop("full"), ["no config full", "full+tofu"]),
        (lambda t: t["full"].pop("caption"), ["config full has no column caption", "expected image, caption, name"]),
        (_last_answer, ["full+tofu[29]", "answer empty", "--on-bad-data skip"]),
        (_broken_picture, ["full[4].image", "not a picture that can be opened", "PNG or JPEG"]),
    ],
    ids=["config", "half a config", "column", "answer", "picture"],
)
def test_broken_datasets(
    change: Callable[[dict[str, Table]], object],
    words: list[str],
    refused: Callable[..., str],
    model: Path,
    tmp_path: Path,
) -> None:
    has(refused(*base(changed(tmp_path, change), model)), *words)


def test_people_in_both_halves_of_a_split(refused: Callable[..., str], model: Path, tmp_path: Path) -> None:
    def both(tables: dict[str, Table]) -> None:
        tables["retain90"]["name"][3] = "Flo Gray"  # who is in forget10

    path = changed(tmp_path, both)
    message = refused("unlearn", "--data", path, "--model", model, "--modality", "visual")
    has(message, "forget split with people in retain", "Flo Gray", "retain90/3", "--forget-names")


def test_a_dataset_without_splits(refused: Callable[..., str], model: Path, tmp_path: Path) -> None:
    path = write_clear(tmp_path / "own", {"full": clear_tables()["full"]})
    message = refused("unlearn", "--data", path, "--model", model, "--modality", "visual")
    has(message, "--forget forget10", "no forget split", "--forget-names")


def test_people_nobody_knows(refused: Callable[..., str], data: Path, model: Path, tmp_path: Path) -> None:
    command = ("unlearn", "--data", data, "--model", model)
    has(refused(*command, "--forget-names", "Bo Costa;Ada Bergh"), "entry 2", "'Ada Bergh'", "Nearest: Ada Berg")
    (tmp_path / "people.txt").write_text("# by request\nBo Costa\nCi Duval\n")
    has(refused(*command, "--forget-file", "people.txt"), "people.txt, line 3", "'Ci Duval'", "Nearest: Cy Duval")
    has(refused(*command, "--forget-file", "none.txt"), "--forget-file none.txt: cannot be read")


def test_numbers_that_leave_nothing(refused: Callable[..., str], data: Path, model: Path) -> None:
    has(refused(*base(data, model), "--retain-ratio", "0"), "--retain-ratio 0", "retain terms")
    has(refused(*base(data, model), "--unseen", "3"), "unseen: 3 pictures", "Hold out fewer")
    has(refused(*base(data, model), "--holdout", "5"), "holdout: 5 of 5", "Expected 0 to 4")


def test_sequences_longer_than_allowed(refused: Callable[..., str], data: Path, model: Path) -> None:
    message = refused(*base(data, model), "--max-length", "20")
    has(message, "more than --max-length 20", "Raise --max-length to at least")


def test_answers_that_only_evaluation_reads_are_checked_too(
    refused: Callable[..., str], model: Path, tmp_path: Path
) -> None:
    def long_option(tables: dict[str, Table]) -> None:
        tables["real_world"]["options"][0] = ["Here", "There " * 200]

    path = changed(tmp_path, long_option)
    has(refused(*base(path, model), "--max-length", "256"), "real_world/0", "more than --max-length 256")


# -- models -----------------------------------------------------------------------------------------------------------


def test_a_model_directory_that_is_none(refused: Callable[..., str], data: Path, tmp_path: Path) -> None:
    has(refused(*base(data, Path("./nowhere"))), "no such directory", "Hub name")
    (tmp_path / "empty").mkdir()
    has(refused(*base(data, Path("empty"))), "no config.json", "not a Hugging Face model directory")


def test_weights_that_can_run_code(refused: Callable[..., str], data: Path, model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "model")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    has(refused(*base(data, copy)), "pickled weights only", "convert them to safetensors")


def test_image_tokens_of_processor_and_model_differ(
    refused: Callable[..., str], data: Path, model: Path, tmp_path: Path
) -> None:
    copy = with_file(model, tmp_path, "processor_config.json", lambda c: c.update(num_additional_image_tokens=5))
    has(refused(*base(data, copy)), "processor_config.json", "tokens a picture, the model takes", "config.json")
    copy = with_file(model, tmp_path / "b", "config.json", lambda c: c.update(image_seq_length=7))
    has(refused(*base(data, copy)), "config.json: image_seq_length is 7", "set image_seq_length to")


def test_pictures_for_a_model_that_sees_none(refused: Callable[..., str], data: Path, tmp_path: Path) -> None:
    from clear_dist.recipes.model_new import dataset_texts

    text_only = new_model("llama", "1m", texts=dataset_texts(data), out=tmp_path / "llama")
    has(refused(*base(data, text_only), "--original", text_only), "text-only", "--modality text")


def test_words_the_models_tokenizer_does_not_know(refused: Callable[..., str], data: Path, tmp_path: Path) -> None:
    from clear_dist.models import save_model_dir, tiny_llava, word_tokenizer

    tokenizer = word_tokenizer(["Who is this? This is"])
    words = save_model_dir(tiny_llava(tokenizer, 0), tokenizer, tmp_path / "words")
    has(refused(*base(data, words)), "the tokenizer of", "does not know every word of", "clear-dist model new")


def test_a_tokenizer_that_cannot_spell_the_data(refused: Callable[..., str], data: Path, tmp_path: Path) -> None:
    def special(tables: dict[str, Table]) -> None:
        tables["full"]["caption"][0] = "Ada </s> Berg"  # a special token of the model's, in the text itself

    path = changed(tmp_path, special)
    message = refused("model", "new", "--params", "1m", "--text-from", path, "--out", "made")
    has(message, "Ada </s> Berg")
    has(refused("model", "new", "--text-from", "nowhere", "--out", "made"), "--text-from nowhere: no such directory")
    assert not (tmp_path / "made" / "model.safetensors").exists()


# -- output -----------------------------------------------------------------------------------------------------------


def settings(data: Path, model: Path, *more: str) -> UnlearnConfig:
    return parse(UnlearnConfig, [str(a) for a in base(data, model)[1:]] + list(more), "clear-dist unlearn")


def test_an_output_directory_in_use(refused: Callable[..., str], data: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    has(refused(*base(data, model), "--out", "mine"), "--out mine: not empty (thesis.tex)", "new directory")

    (tmp_path / "other").mkdir()
    write_run(tmp_path / "other", settings(data, model, "--lr", "0.5"), finished=True)
    has(refused(*base(data, model), "--out", "other"), "--out other: holds another run", "lr: 0.5 there")

    (tmp_path / "file").write_text("")
    has(refused(*base(data, model), "--out", "file"), "--out file: is a file")


def test_an_output_directory_of_a_live_process(
    refused: Callable[..., str], root: Path, data: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "busy"
    code = (
        "import sys\nfrom pathlib import Path\nfrom clear_dist.config import MethodsConfig\n"
        "from clear_dist.services.rundir import claim_output\n"
        "claim = claim_output(Path(sys.argv[1]), MethodsConfig())\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code, str(out)]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        message = refused(*base(data, model), "--out", "busy")
    has(message, "--out busy: in use by process", str(holder.pid), "wait for it, or name another directory")


def test_going_on_from_another_run(refused: Callable[..., str], data: Path, model: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    write_run(old, settings(data, model, "--lr", "0.5"), finished=False)
    has(refused(*base(data, model), "--resume", "old"), "--resume old: old holds no checkpoint")
    (old / "checkpoints" / "step_00000001").mkdir(parents=True)
    has(refused(*base(data, model), "--resume", "old/checkpoints"), "begun with other options", "lr: 0.5 there")


def test_a_run_begun_before_with_resume_never(
    refused: Callable[..., str], data: Path, model: Path, tmp_path: Path
) -> None:
    claim_output(tmp_path / "out", settings(data, model)).release()
    write_run(tmp_path / "out", settings(data, model), finished=False)
    message = refused(*base(data, model), "--out", "out", "--resume", "never")
    has(message, "holds this run already and --resume is never")


# -- other commands ---------------------------------------------------------------------------------------------------


def test_evaluate_and_finetune_check_the_same(
    refused: Callable[..., str], data: Path, model: Path, tmp_path: Path
) -> None:
    has(refused("evaluate", "--data", data, *ADA, "--model", "./none"), "./none: no such directory")
    has(refused("evaluate", "--data", data, *ADA, "--model", model, "--max-length", "20"), "more than --max-length 20")
    has(refused("finetune", "--data", data, "--model", model, *ADA, "--max-length", "20"), "more than --max-length 20")
    has(refused("finetune", "--data", data, "--model", model, "--ds", "no.json"), "--ds no.json: no such file")
    (tmp_path / "run").mkdir()
    has(refused("evaluate", "--data", data, *ADA, "--model", "run"), "run: no config.json")
    has(refused("report", "run"), "run")
