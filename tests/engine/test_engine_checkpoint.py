"""Checkpoints of an engine: refused by name when damaged, and never a way to run somebody's code."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_support import metrics, run
from safetensors import safe_open
from safetensors.torch import save_file

from clear_dist.engine import checkpoint, checkpoint_files
from clear_dist.engine.checkpoint import Checkpoints
from clear_dist.engine.checkpoint_files import (
    MANIFEST,
    File,
    Manifest,
    file_name,
    hashed_file,
    problems,
    published,
    read_manifest,
    write_manifest,
)
from clear_dist.engine.export import release, trainable_tensors
from clear_dist.engine.step import StepModule
from clear_dist.engine.world import World
from clear_dist.methods import FORGET, nll
from clear_dist.models import add_lora, load_model
from clear_dist.types import UserError


def go(base_dir: Path, world: World, run_dir: Path, **changed: Any) -> dict[str, torch.Tensor]:
    """Train an adapter; its tensors."""
    model = load_model(base_dir, dtype="fp32", device="cpu")
    model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    values = {"stage": 2, "steps": 2, "checkpoint_every": 1, **changed}
    trained = run(StepModule(model.module, model.family), model, nll(FORGET), world, run_dir, **values)
    state = trainable_tensors(trained, world)
    release(trained)
    return state


@pytest.fixture
def cut(base_dir: Path, world: World, tmp_path: Path) -> Path:
    """A run with checkpoints after steps 1 and 2."""
    go(base_dir, world, tmp_path)
    return tmp_path


def newest(run_dir: Path) -> Path:
    return published(run_dir / "checkpoints")[0]


def damages(run_dir: Path) -> list[str]:
    return [line["damaged"] for line in metrics(run_dir) if "damaged" in line]


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def plant(folder: Path, mark: Path, form: str) -> None:
    """Put a trap in the place of a rank's file, and a manifest that agrees with it."""
    file = folder / file_name(0)
    manifest = read_manifest(folder)
    if form == "torch":
        torch.save({"module": Evil(mark)}, file)
    elif form == "plain":
        file.write_bytes(pickle.dumps(Evil(mark)))
    else:  # safetensors, and yet none of ours
        save_file({"weight/x": torch.zeros(2)}, file, metadata={"parts": form})
    data = file.read_bytes()
    file.unlink()
    with hashed_file(file) as again:
        again.write(data)
    (folder / MANIFEST).unlink()
    entry = File(file.name, again.bytes, again.sha256)
    write_manifest(folder, Manifest(manifest.step, 1, manifest.zero_stage, 0, (entry,)))
    assert problems(folder) == [], "hashes agree: only the reader is left to refuse it"


FORMS = ["torch", "plain", "[]", "null", '{"x": [0, 9, 9]}', '{"x": [0, 2, 3]}', '{"y": [0, 2, 2]}', '{"x": "ab"}']


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_planted_pickle_is_refused_and_does_not_run(base_dir: Path, world: World, tmp_path: Path, stage: int) -> None:
    mark = tmp_path / "ran"
    go(base_dir, world, tmp_path, stage=stage)
    for form in FORMS if stage == 2 else FORMS[:2]:
        for folder in published(tmp_path / "checkpoints"):
            plant(folder, mark, form)
        with pytest.raises(UserError, match=r"no checkpoint can be used.*step_0+2.*Delete .* to start over"):
            go(base_dir, world, tmp_path, stage=stage, resume=True, steps=3)
        assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "proof")))
    assert (tmp_path / "proof").exists(), "the trap itself does not work"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_nothing_is_unpickled(
    base_dir: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    """Neither by us nor by DeepSpeed, at any stage: what could do it is not called."""
    go(base_dir, world, tmp_path, stage=stage)

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was unpickled")

    for module in ("torch", "torch.serialization"):
        monkeypatch.setattr(f"{module}.load", never)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(f"pickle.{name}", never)
    go(base_dir, world, tmp_path, stage=stage, resume=True, steps=3)


def damage(file: Path, how: str) -> None:
    if how == "deleted":
        file.unlink()
        return
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(
        {"flipped": bytes(data), "cut": bytes(data[: len(data) // 2]), "empty": b"", "longer": data + b"x"}[how]
    )


@pytest.mark.parametrize(("name", "how"), [(MANIFEST, "deleted"), (file_name(0), "deleted"), (file_name(0), "flipped")])
def test_what_is_damaged_is_named_and_the_one_before_is_used(
    cut: Path, base_dir: Path, world: World, tmp_path: Path, name: str, how: str
) -> None:
    file = newest(cut) / name
    damage(file, how)
    said: list[str] = []
    found = go(base_dir, world, cut, resume=True, steps=3, on_damage=said.append)
    assert len(said) == 1 and said[0].startswith(f"{file}: ") and damages(cut) == said
    assert [line["step"] for line in metrics(cut) if "loss" in line] == [1, 2, 3]
    assert [p.name[-1] for p in published(cut / "checkpoints")] == ["3", "2"], "damaged, made again"
    assert not any(problems(p) for p in published(cut / "checkpoints"))
    wanted = go(base_dir, world, tmp_path / "whole", steps=3)
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)


def test_where_none_is_whole_all_are_named(cut: Path, base_dir: Path, world: World) -> None:
    damage(newest(cut) / MANIFEST, "deleted")
    damage(published(cut / "checkpoints")[1] / file_name(0), "flipped")
    with pytest.raises(UserError, match=r"step_0+2/manifest.json: missing.*step_0+1/rank_00000.*SHA-256.*start over"):
        go(base_dir, world, cut, resume=True, steps=3)


def test_no_checkpoint(tmp_path: Path, base_dir: Path, world: World) -> None:
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        go(base_dir, world, tmp_path, resume=True)


def test_another_models_checkpoint(cut: Path, base_dir: Path, world: World) -> None:
    model = load_model(base_dir, dtype="fp32", device="cpu")
    model.module = add_lora(model.module, 2, 8.0, model.family, seed=1)
    with pytest.raises(UserError, match=r"step_0+2: of another model \(.*lora_A.* elements there"):
        run(StepModule(model.module, model.family), model, nll(FORGET), world, cut, stage=2, resume=True)


@pytest.mark.parametrize("keep", [1, 3])
def test_how_many_stay(base_dir: Path, world: World, tmp_path: Path, keep: int) -> None:
    seen: list[int] = []
    folder = tmp_path / "checkpoints"
    go(
        base_dir,
        world,
        tmp_path,
        steps=5,
        keep_checkpoints=keep,
        on_step=lambda *_: seen.append(len(published(folder))),
    )
    assert [p.name[-1] for p in published(folder)] == ["5", "4", "3"][:keep]
    # While the newest is not yet read again, the one that was stays beside it.
    assert max(seen) <= max(2, keep)


def test_damage_on_the_way_to_the_disk_is_found_while_training_goes_on(
    base_dir: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpoint_files.publish

    def spoilt(folder: Path, manifest: Manifest) -> Path:
        out = original(folder, manifest)
        if manifest.step in (2, 4):
            damage(out / file_name(0), "flipped")
        return out

    monkeypatch.setattr("clear_dist.engine.checkpoint.publish", spoilt)
    said: list[str] = []
    go(base_dir, world, tmp_path, steps=4, keep_checkpoints=1, on_damage=said.append)
    folder = tmp_path / "checkpoints"
    assert [text.split("/")[-2][-1] for text in said] == ["2", "4"] and damages(tmp_path) == said
    assert [p.name[-1] for p in published(folder)] == ["4", "3"], "the last good one stays"
    assert problems(published(folder)[1]) == []
    assert not [t for t in threading.enumerate() if t.name == "verify-checkpoint"]


def test_no_thread_is_left_when_training_fails(
    base_dir: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops reading instead of holding the process up."""
    begun = threading.Event()
    stopped: list[bool] = []

    def slowly(folder: Path, file: File, *, cold: bool = False, stop: threading.Event | None = None) -> None:
        assert cold and stop is not None
        begun.set()
        stopped.append(stop.wait(60))

    monkeypatch.setattr("clear_dist.engine.checkpoint.file_problem", slowly)

    def fail(step: int, line: Any) -> None:
        if step == 2:
            assert begun.wait(60)
            raise RuntimeError("elsewhere")

    with pytest.raises(RuntimeError, match="elsewhere"):
        go(base_dir, world, tmp_path, on_step=fail)
    assert stopped == [True]
    assert not [t for t in threading.enumerate() if t.name == "verify-checkpoint"]


def test_dying_while_saving_leaves_the_last_one(
    cut: Path, base_dir: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_tensors", die)
        with pytest.raises(KeyboardInterrupt):
            go(base_dir, world, cut, resume=True, steps=4)
    assert [p.name[-1] for p in published(cut / "checkpoints")] == ["2", "1"]
    go(base_dir, world, cut, resume=True, steps=4)
    assert sorted(p.name[-1] for p in (cut / "checkpoints").iterdir()) == ["3", "4"]


def assert_unsaved(cut: Path, base_dir: Path, world: World, step: int) -> None:
    with pytest.raises(UserError, match=rf"step {step} could not be saved \(.*No space left.*--keep-checkpoints 1"):
        go(base_dir, world, cut, resume=True, steps=4)
    folder = cut / "checkpoints"
    assert sorted(p.name[-1] for p in folder.iterdir()) == ["1", "2"], "nothing half published, its room given back"
    assert not any(problems(p) for p in published(folder))


@pytest.mark.parametrize("at", ["a tensor", "the manifest", "a folder"])
def test_a_full_disk(cut: Path, base_dir: Path, world: World, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner, name = {
        "a tensor": (checkpoint_files.HashedFile, "write"),
        "the manifest": (checkpoint_files, "write_manifest"),
        "a folder": (checkpoint_files, "sync_folder"),
    }[at]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        assert_unsaved(cut, base_dir, world, 3)
    go(base_dir, world, cut, resume=True, steps=4)


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """3 MiB of memory, mounted as a disk."""
    folder = tmp_path_factory.mktemp("disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_really_is_full(small_disk: Path, base_dir: Path, world: World) -> None:
    go(base_dir, world, small_disk)
    need = read_manifest(newest(small_disk)).bytes
    room = os.statvfs(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * (room.f_bavail * room.f_frsize - need // 2))
    assert_unsaved(small_disk, base_dir, world, 3)
    ballast.unlink()
    go(base_dir, world, small_disk, resume=True, steps=4)
    assert [p.name[-1] for p in published(small_disk / "checkpoints")] == ["4", "3"]


def test_checkpoints_hold_the_adapter_only(cut: Path, base_dir: Path) -> None:
    """Frozen weights are not written: adapter and two moments take a fraction of what the base takes."""
    base = (base_dir / "model.safetensors").stat().st_size
    with safe_open(newest(cut) / file_name(0), framework="pt") as file:
        names = list(file.keys())
        assert names and all("lora_" in name for name in names)
        assert {name.split("/")[0] for name in names} == {"weight", "step", "exp_avg", "exp_avg_sq"}
    assert 0 < read_manifest(newest(cut)).bytes < base / 2


def test_load_says_the_step(cut: Path, base_dir: Path, world: World) -> None:
    model = load_model(base_dir, dtype="fp32", device="cpu")
    model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    trained = run(StepModule(model.module, model.family), model, nll(FORGET), world, cut / "r", steps=1, stage=2)
    assert Checkpoints(cut / "checkpoints", world).load(trained.engine) == 2
    assert trained.engine.global_steps == 2 and trained.engine.lr_scheduler.last_epoch == 2
    release(trained)
