"""Checkpoints on disk, without an engine: what a manifest promises, what is published, what is removed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest

from clear_dist.engine import checkpoint_files as files
from clear_dist.engine.checkpoint_files import (
    MANIFEST,
    Damaged,
    File,
    Manifest,
    file_name,
    fresh_staging,
    hashed_file,
    problems,
    prune,
    publish,
    published,
    read_manifest,
)


def save(folder: Path, step: int, ranks: int = 2) -> Path:
    staging = fresh_staging(folder)
    written = []
    for rank in range(ranks):
        with hashed_file(staging / file_name(rank)) as file:
            file.write(b"x" * (10 + rank))
        written.append(File(file_name(rank), file.bytes, file.sha256))
    return publish(folder, Manifest(step, ranks, 3, 0, tuple(written)))


def test_what_is_published_is_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "checkpoints"
    checkpoint = save(folder, 120)
    assert checkpoint.name == "step_00000120" and published(folder) == [checkpoint]
    manifest = read_manifest(checkpoint)
    assert (manifest.step, manifest.world_size, manifest.zero_stage, manifest.bytes) == (120, 2, 3, 21)
    assert manifest.files[1] == File("rank_00001.safetensors", 11, hashlib.sha256(b"x" * 11).hexdigest())
    assert problems(checkpoint) == []
    assert [p.name for p in folder.iterdir()] == ["step_00000120"], "nothing half done is left"


def test_the_form_is_as_documented(tmp_path: Path, root: Path) -> None:
    text = (root / "docs" / "formats.md").read_text().split("## `checkpoints/`")[1].split("```")[1]
    shown, made = json.loads(text), json.loads((save(tmp_path, 120) / MANIFEST).read_text())
    assert shown.keys() == made.keys() and [f.keys() for f in shown["files"]] == [f.keys() for f in made["files"]]


def test_newest_first_and_only_folders_of_that_name(tmp_path: Path) -> None:
    for step in (9, 10, 2):
        save(tmp_path, step)
    (tmp_path / "step_00000077").write_text("a file")
    (tmp_path / "step_x").mkdir()
    (tmp_path / "step_00000088").symlink_to(tmp_path / "step_00000009")
    assert [p.name[-2:] for p in published(tmp_path)] == ["10", "09", "02"]
    assert published(tmp_path / "none") == []


def test_every_bit_of_a_manifest_counts(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 3)
    path = checkpoint / MANIFEST
    data = path.read_bytes()
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(Damaged, match=str(path)):
                read_manifest(checkpoint)
    for end in range(len(data)):
        path.write_bytes(data[:end])
        assert problems(checkpoint), end
    path.write_bytes(data)
    assert problems(checkpoint) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"v": 1}',
        "[" * 100_000,
        '{"v": 1, "files": [{"name": "../../etc", "bytes": 1}]}',
        "NaN",
    ],
)
def test_what_is_no_manifest(tmp_path: Path, text: str) -> None:
    checkpoint = save(tmp_path, 3)
    (checkpoint / MANIFEST).write_text(text)
    with pytest.raises(Damaged, match=f"{MANIFEST}: damaged"):
        read_manifest(checkpoint)


def rewritten(checkpoint: Path, **changed: object) -> None:
    """A manifest that agrees with itself, as an attacker would write it."""
    manifest = read_manifest(checkpoint)
    values = {name: getattr(manifest, name) for name in ("step", "world_size", "zero_stage", "skipped", "files")}
    (checkpoint / MANIFEST).unlink()
    files.write_manifest(checkpoint, Manifest(**{**values, **changed}))


@pytest.mark.parametrize(
    "name", ["../rank_00000.safetensors", "/etc/passwd", "rank_00000.pt", "rank_00001.safetensors"]
)
def test_a_manifest_names_files_of_ranks_only(tmp_path: Path, name: str) -> None:
    checkpoint = save(tmp_path, 3, ranks=1)
    rewritten(checkpoint, files=(File(name, 10, "0" * 64),))
    with pytest.raises(Damaged, match=r"no file of a checkpoint|one file of each rank"):
        read_manifest(checkpoint)


def test_another_steps_manifest(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 3)
    checkpoint.rename(tmp_path / "step_00000009")
    with pytest.raises(Damaged, match="is that of step 3"):
        read_manifest(tmp_path / "step_00000009")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 3)
    for name in (file_name(0), MANIFEST):
        elsewhere = tmp_path / name
        (checkpoint / name).rename(elsewhere)
        (checkpoint / name).symlink_to(elsewhere)
        assert any(f"{name}: cannot be read" in problem for problem in problems(checkpoint))


def test_pickles_are_not_even_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = save(tmp_path, 3)
    (checkpoint / MANIFEST).write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    assert problems(checkpoint) and not (tmp_path / "ran").exists()


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize(
    ("keep", "bad", "proved", "left"),
    [
        (2, (), (), (5, 4)),
        (1, (), (5,), (5,)),
        (1, (), (3,), (5, 3)),  # 5 may turn out damaged: 3 was seen to be whole
        (2, (), (2, 1), (5, 4, 2)),
        (2, (5,), (4,), (5, 4, 3)),  # a bad one does not count
        (2, (4,), (), (5, 4, 3)),  # what is bad goes when it is old
        (1, (4, 3), (5,), (5,)),
        (9, (), (), (5, 4, 3, 2, 1)),
        (1, (5, 4, 3, 2, 1), (), (5, 4, 3, 2, 1)),
    ],
)
def test_what_is_removed(
    tmp_path: Path, keep: int, bad: tuple[int, ...], proved: tuple[int, ...], left: tuple[int, ...]
) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    gone = prune(tmp_path, keep, {files.folder_name(s) for s in bad}, {files.folder_name(s) for s in proved})
    assert [p.name for p in published(tmp_path)] == [files.folder_name(s) for s in left]
    assert len(gone) == 5 - len(left)


def test_a_step_made_again_replaces_what_could_not_be_used(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 3)
    (checkpoint / file_name(0)).unlink()
    save(tmp_path, 3)
    assert problems(checkpoint) == [] and [p.name for p in tmp_path.iterdir()] == [checkpoint.name]


@pytest.mark.parametrize("at", ["write_manifest", "sync_folder", "os.replace"])
def test_dying_before_the_rename_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    save(tmp_path, 3)

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"clear_dist.engine.checkpoint_files.{at}", die)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 6)
    assert [p.name for p in published(tmp_path)] == ["step_00000003"] and problems(published(tmp_path)[0]) == []
    save(tmp_path, 6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000003", "step_00000006"]
