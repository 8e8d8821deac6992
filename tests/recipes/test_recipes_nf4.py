"""Unlearning on top of 4-bit weights: from an original made so, through evaluation; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from robustness_runs import DATA
from safetensors.torch import load_file

from clear_dist import cli
from clear_dist.config import EvaluateConfig, RobustnessConfig, UnlearnConfig
from clear_dist.data.mini.text import vocabulary_texts
from clear_dist.engine.world import World, close_world, init_world
from clear_dist.models import inspect_model, load_model, save_model_dir, tiny_llava, word_tokenizer
from clear_dist.recipes import evaluate
from clear_dist.recipes.chat import infos_of
from clear_dist.recipes.chat_models import Named
from clear_dist.recipes.common import open_data
from clear_dist.recipes.robustness import attack_models
from clear_dist.recipes.unlearn import objective_of, unlearn

SHORT = "--max-steps 2 --eval-limit 1 --global-batch 4"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = word_tokenizer(vocabulary_texts())
    return save_model_dir(tiny_llava(tokenizer), tokenizer, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def original(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Taught on 4-bit weights: an adapter, since nothing can be merged."""
    out = tmp_path_factory.mktemp("runs") / "original"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEAR_DIST_CACHE", str(out.parent / "cache"))
        assert run("finetune", f"--model {base} --base-weights nf4 --no-full {SHORT} --lora-r 4 --out {out}") == 0
    assert (out / "adapter" / "base_weights.json").is_file() and not (out / "model").exists()
    return out


@pytest.fixture(autouse=True)
def cache(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(original.parent / "cache"))  # CLEAR-mini is drawn once


def run(command: str, flags: str) -> int:
    return cli.main([command, *flags.split()])


SLOW = pytest.mark.slow


@pytest.mark.parametrize("reference", ["adapter", pytest.param("cache", marks=SLOW), pytest.param("copy", marks=SLOW)])
def test_an_original_in_four_bits_is_unlearned_and_asked_as_it_was_trained(
    base: Path, original: Path, tmp_path: Path, reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = (
        f"--original {original} --model {base} --no-gold --method kl --lora-r 3 {SHORT} --ds z2 --reference {reference}"
    )
    assert run("unlearn", f"{flags} --out {out}") == 0
    info = inspect_model(out / "adapter")
    assert info.base_weights == "nf4" and info.path == base.resolve()
    known, made = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (original, out))
    for name, tensor in known.items():
        if ".lora_A." in name:
            assert torch.equal(made[name][:4], tensor) and made[name].shape[0] == 7, "the original's adapter, and ours"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert abs(lines[0]["parts"]["kl(RETAIN)"]) < 1e-6, "the reference of the first step is the student itself"
    # Asked again from its folder alone: the same answers to the same questions.
    again = tmp_path / "again"
    assert run("evaluate", f"--model {out} --eval-limit 1 --out {again}") == 0

    def scores(folder: Path) -> dict[str, list[float]]:
        rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        return {f"{r['set']}/{r['id']}": r["logp"]["answer"] for r in rows if r["model"] == "unlearned"}

    mine, others = scores(out), scores(again)
    shared = mine.keys() & others.keys()
    assert len(shared) > 3
    for key in shared:
        assert mine[key] == pytest.approx(others[key], abs=1e-5)


def test_full_weights_are_another_reference(base: Path, original: Path, tmp_path: Path) -> None:
    """--base-weights full merges the same adapter into the weights as they are stored; the adapter that comes out holds
    it too, as the merged model does."""
    out = tmp_path / "run"
    flags = f"--original {original} --model {base} --base-weights full --no-gold --merge --lora-r 3 {SHORT}"
    assert run("unlearn", f"{flags} --out {out}") == 0
    assert (out / "model" / "model.safetensors").is_file() and inspect_model(out / "adapter").base_weights == "full"
    adapted, never = (load_model(f, dtype="fp32", device="cpu").module for f in (out / "adapter", base))
    for name, weight in load_model(out / "model", dtype="fp32", device="cpu").module.named_parameters():
        torch.testing.assert_close(adapted.get_parameter(name), weight, atol=1e-6, rtol=0)
    assert any(not torch.equal(p, never.get_parameter(n)) for n, p in adapted.named_parameters())


def test_a_run_in_four_bits_goes_on_where_it_was(original: Path, tmp_path: Path) -> None:
    def trained(name: str, *steps: int) -> list[dict[str, torch.Tensor]]:
        made: list[dict[str, torch.Tensor]] = []
        for last in steps:
            config = UnlearnConfig(
                method="npo", original=original, out=tmp_path / name, ds=Path("z2"), max_steps=last, checkpoint_every=2,
                global_batch=4, epochs=4, lora_r=3, lr=1e-2,
            )  # fmt: skip
            info = inspect_model(original / "adapter")
            data = open_data(config, world)
            (tmp_path / name).mkdir(exist_ok=True)
            resume = len(made) > 0
            folder = unlearn(config, data, objective_of(config), info, tmp_path / name, world, resume=resume)
            made.append(load_file(folder / "adapter_model.safetensors"))
        return made

    world = init_world()
    (whole,) = trained("whole", 4)
    half, resumed = trained("cut", 2, 4)
    close_world()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert any(not torch.equal(tensor, half[name]) for name, tensor in whole.items())


def test_compared_models_are_kept_alike(
    base: Path, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands beside a model is asked on weights like its own, and after an attack as before it."""
    asked: list[str] = []
    monkeypatch.setattr(evaluate, "compare", lambda *_, asking, **__: asked.append(asking.base_weights))
    for number, (model, beside, flags) in enumerate(
        [
            (original, base, ""),
            (base, original, ""),
            (base, base, "--base-weights nf4"),
            (original, base, "--base-weights full"),
        ]
    ):
        out = tmp_path / str(number)
        assert run("evaluate", f"--model {model} --original {beside} --eval-limit 1 {flags} --out {out}") == 0
    assert asked == ["nf4", "full", "nf4", "full"]
    named = [Named("original", base), Named("unlearned", original / "adapter", own=True), Named("gold", base)]
    assert [i.base_weights for i in infos_of(named)] == ["nf4"] * 3
    plain = [Named("original", original / "adapter"), Named("unlearned", base, own=True)]
    assert [i.base_weights for i in infos_of(plain)] == ["full"] * 2
    asked_for = [Named("original", base), Named("unlearned", base, own=True, base_weights="nf4")]
    assert [i.base_weights for i in infos_of(asked_for)] == ["nf4"] * 2
    source = EvaluateConfig(data="clear-mini", tofu="none", base_weights="nf4")
    config = RobustnessConfig(run=tmp_path, attacks="quantise")
    found = attack_models({"unlearned": base}, DATA, tmp_path, World(0, 1, 0, torch.device("cpu")), config, source)
    assert found == [], "nothing is left to round"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--base-weights nf4 --full", ["`base_weights` nf4 are frozen", "LoRA"]),
        ("--base-weights nf4 --merge", ["--merge", "4-bit"]),
        ("--base-weights nf4 --compile", ["--compile does not know 4-bit weights"]),
        ("--base-weights nf4 --ds z3", ["--ds z3", "does not shard 4-bit weights", "stage 0, 1 or 2"]),
        ("--base-weights int8", ["--base-weights", "nf4"]),
        ("--full", ["the original's weights are in 4 bits"]),
        ("--ds z3_offload", ["does not shard 4-bit weights"]),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    base: Path, original: Path, tmp_path: Path, flags: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run("unlearn", f"--original {original} --model {base} --no-gold {SHORT} --out {out} {flags}") == 2
    said = capsys.readouterr().err
    assert all(word.replace("`base_weights`", "--base-weights") in said or word in said for word in words), said


@pytest.mark.parametrize("weights", ["auto", "full"])
def test_an_original_of_more_than_plain_lora_is_refused(
    base: Path, original: Path, tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = Path(shutil.copytree(original / "adapter", tmp_path / "dora"))
    config = json.loads((spoilt / "adapter_config.json").read_text())
    (spoilt / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    flags = f"--original {spoilt} --model {base} --no-gold {SHORT} --base-weights {weights}"
    assert run("unlearn", f"{flags} --out {tmp_path / 'run'}") == 2
    assert "adapter_config.json: use_dora: this is more than plain LoRA" in " ".join(capsys.readouterr().err.split())


def test_the_quantise_attack_leaves_it_out(original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from clear_dist.recipes.robustness_attacks import Ask, Notes, quantised

    info = inspect_model(original / "adapter")
    asking = Ask(World(0, 1, 0, torch.device("cpu")), 64, 4)
    assert quantised({"unlearned": info}, {}, asking, Notes(True)) == []
    assert "in 4 bits already" in capsys.readouterr().err
