"""An original (or gold model) that is trained on the way to unlearning: cut off, it goes on like any other run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clear_dist.config import FinetuneConfig
from clear_dist.data.load import Dataset, load_dataset
from clear_dist.engine import loop
from clear_dist.engine.world import World
from clear_dist.recipes.common import release_claim
from clear_dist.recipes.finetune import cached

WEIGHTS = "model/model.safetensors"


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Dataset:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(cache))
    return load_dataset("clear-mini")


def job(model: Path) -> FinetuneConfig:
    values = {"model": str(model), "max_steps": 5, "global_batch": 8, "replay": False, "checkpoint_every": 2}
    return FinetuneConfig(**values)  # pyright: ignore[reportArgumentType]


def test_cut_off_in_its_training_it_goes_on_from_the_last_checkpoint(
    model: Path,
    data: Dataset,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "whole"))
    whole = cached(job(model), data, world)
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cut"))
    real, steps = loop.one_step, [0]

    def cut_off(*args: Any, **kwargs: Any) -> Any:
        steps[0] += 1
        if steps[0] == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "one_step", cut_off)
    with pytest.raises(KeyboardInterrupt):
        cached(job(model), data, world)
    (begun,) = (tmp_path / "cut" / "models").iterdir()
    saved = sorted(int(p.name.removeprefix("step_")) for p in (begun / "checkpoints").iterdir())
    assert begun.name.endswith(".part") and saved and saved[-1] == 2
    capfd.readouterr()
    release_claim(begun)  # as the death of its process does
    steps[0] = 100
    found = cached(job(model), data, world)
    assert f"goes on from the checkpoint of step {saved[-1]}" in " ".join(capfd.readouterr().err.split())
    assert steps[0] - 100 == 5 - saved[-1], "no step is done twice"
    lines = [json.loads(line) for line in (found / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 6))
    a, b = load_file(found / WEIGHTS), load_file(whole / WEIGHTS)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in b)
    assert [p.name for p in (tmp_path / "cut" / "models").iterdir()] == [found.name]
