"""``clear-dist reproduce``: the same run comes to the same, bit for bit; what does not is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from clear_dist import cli
from clear_dist.data.mini.text import vocabulary_texts
from clear_dist.models import save_model_dir, tiny_llava, word_tokenizer
from clear_dist.recipes.reproduce import changes, differences


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = word_tokenizer(vocabulary_texts())
    place = tmp_path_factory.mktemp("reproduce")
    base = save_model_dir(tiny_llava(tokenizer), tokenizer, place / "base")
    flags = f"--original {base} --model {base} --no-gold --max-steps 3 --eval-limit 1 --global-batch 4 --eval-every 2"
    flags += " --deterministic"  # every kernel on the way has one whose sums have an order, or this would stop
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEAR_DIST_CACHE", str(place / "cache"))
        assert cli.main(["unlearn", *flags.split(), "--out", str(place / "run")]) == 0
    return place / "run"


@pytest.fixture(autouse=True)
def cache(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(run_dir.parent / "cache"))


def test_a_run_comes_to_the_same(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "again"
    assert cli.main(["reproduce", str(run_dir), "--out", str(out)]) == 0
    assert "reproduced, bit for bit" in capsys.readouterr().err
    assert "RANK" not in os.environ, "a group of one leaves no launcher's word behind"
    assert json.loads((out / "run.json").read_text())["finished"] is True
    assert list(differences(run_dir, out)) == []
    # What is changed afterwards is found, one by one.
    lines = (out / "metrics.jsonl").read_text().splitlines()
    step = json.loads(lines[1])
    step["loss"] += 1e-9
    (out / "metrics.jsonl").write_text("\n".join([lines[0], json.dumps(step), *lines[2:]]) + "\n")
    assert next(iter(differences(run_dir, out))).startswith("metrics.jsonl: step 1: loss was")
    (out / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    assert list(differences(run_dir, out)) == ["metrics.jsonl: step 3 is only in the first run"]
    (out / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    weights = out / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = sorted(tensors)[3]
    tensors[name] = tensors[name] + 2.0**-10
    save_file(tensors, weights, metadata={"format": "pt"})
    (told,) = differences(run_dir, out)
    assert (
        told.startswith("adapter/adapter_model.safetensors: 1 of") and "at most 0.000977 apart" in told and name in told
    )
    save_file({**tensors, name: load_file(run_dir / "adapter" / "adapter_model.safetensors")[name]}, weights)
    records = (out / "records.jsonl").read_text().splitlines()
    (out / "records.jsonl").write_text("\n".join(records[1:]) + "\n")
    (told,) = differences(run_dir, out)
    assert told.startswith(f"records.jsonl: 1 of {len(records)} records differ")


def _changed(run_dir: Path, to: Path, **facts: Any) -> Path:
    to.mkdir()
    run = json.loads((run_dir / "run.json").read_text())
    (to / "run.json").write_text(json.dumps({**run, **facts}))
    return to


def test_what_cannot_be_run_again_is_refused(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    config = json.loads((run_dir / "run.json").read_text())["config"]
    cases = {
        (str(tmp_path),): "no run of clear_dist there",
        (str(_changed(run_dir, tmp_path / "a", finished=False)),): "did not come to its end",
        (str(_changed(run_dir, tmp_path / "b", recipe="sweep")),): "a run of sweep; expected one of finetune, unlearn",
        (str(_changed(run_dir, tmp_path / "c", ranks=2)),): "torchrun --nproc-per-node 2 launchers/reproduce.py",
        (str(_changed(run_dir, tmp_path / "d", config={**config, "lr": "fast"})),): "none that this version knows",
        (str(run_dir), "--out", str(there)): "exists; name a new directory",
    }
    for args, words in cases.items():
        assert cli.main(["reproduce", *args]) == cli.USER_ERROR
        said = capsys.readouterr().err
        assert words in said, (args, said)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["reproduce", str(run_dir)]) == cli.USER_ERROR
    assert "was made by one rank" in capsys.readouterr().err


def test_what_could_make_bits_differ_is_said(run_dir: Path) -> None:
    facts = json.loads((run_dir / "run.json").read_text())
    assert not [line for line in changes(facts) if "the code was" not in line]
    facts["machine"] = {"device": "NVIDIA H100", "threads": 64, "deterministic": False}
    told = "; ".join(changes({**facts, "versions": {**facts["versions"], "torch": "0.1"}}))
    assert "torch was 0.1, is" in told and "device: NVIDIA H100 then, cpu now" in told and "threads: 64 then" in told
    assert "without --deterministic" in told


def test_a_seed_makes_another_run(run_dir: Path, tmp_path: Path) -> None:
    """Equality above means something: one number of the configuration, and nothing is the same."""
    values = json.loads((run_dir / "run.json").read_text())
    other = _changed(run_dir, tmp_path / "other", config={**values["config"], "seed": 1})
    assert cli.main(["reproduce", str(other), "--out", str(tmp_path / "made")]) == 1
    told = list(differences(run_dir, tmp_path / "made"))
    assert {line.split(":")[0] for line in told} >= {"run.json", "metrics.jsonl", "adapter/adapter_model.safetensors"}
