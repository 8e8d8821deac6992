"""Jobs of real size and schema, shortened: a LLaVA of 30 million parameters on a dataset of CLEAR's layout and size, a
causal language model on TOFU; and a long tiny job that must not grow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from distributed.ranks import run_ranks

from clear_dist.data.mini.text import vocabulary_texts
from clear_dist.models import save_model_dir, tiny_llava, word_tokenizer
from clear_dist.models.new import new_model
from clear_dist.recipes.model_new import dataset_texts

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "launchers" / "unlearn.py"
DataDir = Callable[[str], Path]


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "loss" in line]


def unlearn(ranks: int, folder: Path, model: Path, *more: str) -> Path:
    """The launcher on so many ranks; the run directory."""
    run = folder / "run"
    flags = ["--original", str(model), "--model", str(model), "--no-gold", "--out", str(run), *more]
    outputs = run_ranks(ranks, LAUNCHER, flags, folder / "cache")
    assert "unlearning" in outputs[0], "rank 0 says what it does"
    assert all("FutureWarning" not in output for output in outputs)
    return run


def check_summary(run: Path, sets: set[str], limit: int) -> dict[str, Any]:
    """Original and unlearned side by side on every set, one record for each question."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    records = [json.loads(line) for line in (run / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in ("original", "unlearned"):
        assert set(summary["models"][name]["sets"]) == sets
        mine = [r for r in records if r["model"] == name]
        assert {r["set"] for r in mine} == sets
        assert len(mine) == limit * len(sets)
        assert all(r["generated"] is not None for r in mine)
    assert (run / "index.html").is_file() and (run / "report.md").is_file()
    return summary


@pytest.mark.slow
@pytest.mark.distributed
def test_llava_on_a_dataset_of_real_size(data_dir: DataDir, tmp_path: Path):
    """Two ranks, ZeRO-3, both modalities, a model of the user's own."""
    data = data_dir("clear_shaped")
    model = new_model("llava", "30m", texts=dataset_texts(data), out=tmp_path / "model")
    flags = f"--ds {ROOT / 'ds_configs' / 'z3.json'} --data {data} --forget forget10 --modality both --global-batch 4"
    run = unlearn(2, tmp_path, model, *flags.split(), *"--lr 1e-4 --max-steps 6 --eval-limit 2".split())
    lines = metrics(run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["real_tokens"] > 0 and line["grad_norm"] > 0 for line in lines)
    memory = [line["memory_gb"] for line in lines]
    assert max(memory) < 4, memory  # decoded pictures are cached as they are met; all of them take 0.6 GB
    check_summary(run, {"forget", "retain", "real_faces", "real_world"}, 2)


@pytest.mark.slow
def test_language_model_on_tofu(data_dir: DataDir, tmp_path: Path):
    """Text only: no vision tower, no picture, TOFU's own files."""
    data = data_dir("tofu")
    model = new_model("llama", "10m", texts=dataset_texts(data), out=tmp_path / "model")
    flags = f"--data {data} --forget forget05 --modality text --global-batch 8 --lr 1e-4 --max-steps 6 --eval-limit 3"
    run = unlearn(1, tmp_path, model, *flags.split())
    lines = metrics(run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    summary = check_summary(run, {"forget", "retain", "real_faces", "real_world"}, 3)
    forget = summary["models"]["unlearned"]["sets"]["forget"]["text"]
    assert forget["truth_ratio"]["n"] == 3, "TOFU brings its own wrong answers"


@pytest.mark.soak
def test_memory_does_not_grow(tmp_path: Path):
    """300 steps of the tiny job: from step 50 on, resident memory grows by less than 5 %."""
    tokenizer = word_tokenizer(vocabulary_texts())
    model = save_model_dir(tiny_llava(tokenizer), tokenizer, tmp_path / "model")
    flags = "--max-steps 300 --epochs 100 --global-batch 8 --method npo --eval-limit 1"
    run = unlearn(1, tmp_path, model, "--ds", str(ROOT / "ds_configs" / "z3.json"), *flags.split())
    memory = [line["memory_gb"] for line in metrics(run)]
    assert len(memory) == 300
    early, late = median(memory[45:55]), median(memory[-10:])
    assert late < 1.05 * early, f"{early:.3f} GB after 50 steps, {late:.3f} GB after 300"
