"""Checkpoints: published by rename, refused by name when damaged, and never a way to run somebody's code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_support import run, write_model

from clear_dist.engine.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from clear_dist.engine.export import release
from clear_dist.engine.step import StepModule
from clear_dist.engine.world import World
from clear_dist.methods import FORGET, nll
from clear_dist.models import add_lora, load_model
from clear_dist.types import UserError


@pytest.fixture
def cut(base_dir: Path, world: World, tmp_path: Path) -> Path:
    """A run with checkpoints after steps 1 and 2."""
    go(base_dir, world, tmp_path)
    return tmp_path


def go(base_dir: Path, world: World, run_dir: Path, **changed: Any) -> None:
    model = load_model(base_dir, dtype="fp32", device="cpu")
    model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    values = {"stage": 2, "steps": 2, "checkpoint_every": 1, **changed}
    release(run(StepModule(model.module, model.family), model, nll(FORGET), world, run_dir, **values))


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def shards(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "checkpoints" / "step_00000002").rglob("*.pt"))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("form", ["torch", "plain"])
def test_a_planted_pickle_is_refused_and_does_not_run(
    cut: Path, base_dir: Path, world: World, tmp_path: Path, which: int, form: str
) -> None:
    mark = tmp_path / "ran"
    assert len(shards(cut)) == 2  # the model's and the optimiser's
    shard = shards(cut)[which]
    if form == "torch":
        torch.save({"module": Evil(mark)}, shard)
    else:
        shard.write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(UserError, match=rf"{shard.name}: .*Delete .*checkpoints to start over"):
        go(base_dir, world, cut, resume=True, steps=3)
    assert not mark.exists()
    pickle_runs = Evil(tmp_path / "proof")
    pickle.loads(pickle.dumps(pickle_runs))
    assert (tmp_path / "proof").exists(), "the trap itself does not work"


def test_loading_itself_refuses_too(
    cut: Path, base_dir: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only the inspection beforehand: a shard may change in between."""
    monkeypatch.setattr("clear_dist.engine.checkpoint._inspect", lambda folder, world: None)
    mark = tmp_path / "ran"
    torch.save({"module": Evil(mark)}, shards(cut)[1])
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported|unpickl"):
        go(base_dir, world, cut, resume=True, steps=3)
    assert not mark.exists()
    assert torch.load.__module__ == "torch.serialization", "torch.load is itself again"


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_shard_cut_off_is_named(cut: Path, base_dir: Path, world: World, keep: float) -> None:
    shard = shards(cut)[1]
    data = shard.read_bytes()
    shard.write_bytes(data[: int(len(data) * keep) if keep < 1 else int(keep)])
    with pytest.raises(UserError, match=rf"{shard.name}: .*damaged"):
        go(base_dir, world, cut, resume=True, steps=3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a checkpoint pointer"),
        ("[]", "not a checkpoint pointer"),
        ('{"tag": "step_00000002"}', "not a checkpoint pointer"),
        ('{"tag": "step_00000002", "step": "x", "world_size": 1}', "not a checkpoint pointer"),
        ('{"tag": "step_00000009", "step": 9, "world_size": 1}', "is not a folder of"),
        ('{"tag": "../../elsewhere", "step": 2, "world_size": 1}', "is not a folder of"),
        ('{"tag": "step_00000001", "step": 2, "world_size": 1}', "does not hold step 2"),
        ('{"tag": "step_00000002", "step": 2, "world_size": 4}', r"written by 4 rank.s., this run has 1"),
    ],
)
def test_a_damaged_pointer(cut: Path, base_dir: Path, world: World, text: str, said: str) -> None:
    (cut / "checkpoints" / "latest.json").write_text(text)
    with pytest.raises(UserError, match=said):
        go(base_dir, world, cut, resume=True, steps=3)


def test_no_checkpoint(tmp_path: Path, base_dir: Path, world: World) -> None:
    assert latest_checkpoint(tmp_path) is None
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        go(base_dir, world, tmp_path, resume=True)


class Half:
    """An engine that dies while it writes its second checkpoint."""

    def __init__(self) -> None:
        self.saved = 0

    def save_checkpoint(self, folder: str, tag: str, **_: Any) -> None:
        self.saved += 1
        target = Path(folder) / tag
        target.mkdir(parents=True)
        (target / "part.pt").write_text("half")
        if self.saved > 1:
            raise KeyboardInterrupt


def test_published_by_rename(tmp_path: Path, world: World) -> None:
    """Dying in the middle of writing leaves the last good checkpoint, whole, and the pointer to it."""
    engine = Half()
    save_checkpoint(engine, tmp_path, 3, world)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(engine, tmp_path, 6, world)
    assert latest_checkpoint(tmp_path) == {"tag": "step_00000003", "step": 3, "world_size": 1}
    assert not (tmp_path / "step_00000006").exists()
    engine.saved = 0
    for step in (6, 9):  # what was left behind is in nobody's way
        engine.saved = 0
        save_checkpoint(engine, tmp_path, step, world)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "step_00000006", "step_00000009"]


def test_checkpoints_hold_the_adapter_only(cut: Path, base_dir: Path) -> None:
    """Frozen weights are not written: adapter and two moments take a fraction of what the base takes."""
    base = (base_dir / "model.safetensors").stat().st_size
    assert 0 < sum(p.stat().st_size for p in shards(cut)) < base / 2
    model_shard = next(p for p in shards(cut) if "model_states" in p.name)
    state = torch.load(model_shard, weights_only=False)["module"]  # our own file, written a moment ago
    assert state and all("lora_" in name for name in state)


def test_load_says_the_step(tmp_path: Path, world: World) -> None:
    model = load_model(write_model(tmp_path / "m", 1), dtype="fp32", device="cpu")
    model.module = add_lora(model.module, 2, 4.0, model.family, seed=1)
    module = StepModule(model.module, model.family)
    trained = run(module, model, nll(FORGET), world, tmp_path / "r", steps=1, checkpoint_every=1)
    assert load_checkpoint(trained.engine, tmp_path / "r" / "checkpoints", world) == 1
