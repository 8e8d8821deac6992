"""Tasks, objects and sidecars: what a farm's files are, and that none that was changed is believed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from clear_dist.errors import UserError
from clear_dist.shadow.objects import Damaged, Ref, encode, get, intact, object_path, put, sweep_parts
from clear_dist.shadow.sidecars import Done, finite, read_sidecar, read_sidecars, sidecar_path, write_sidecar
from clear_dist.shadow.task import RunnerRef, make_runner, make_task

KEY = "ab" * 32


def test_key_is_what_decides_the_result() -> None:
    task = make_task("shadow", "shadow/0", {"b": 1, "a": [1, 2.5]}, (KEY,))
    assert task.key == make_task("shadow", "other/1", {"a": (1, 2.5), "b": 1}, (KEY,), keep_weights=True).key
    others = [
        make_task("gold", "shadow/0", {"b": 1, "a": [1, 2.5]}, (KEY,)),
        make_task("shadow", "shadow/0", {"b": 2, "a": [1, 2.5]}, (KEY,)),
        make_task("shadow", "shadow/0", {"b": 1, "a": [1, 2.5]}),
        make_task("shadow", "shadow/0", {"b": True, "a": [1, 2.5]}, (KEY,)),
    ]
    assert len({task.key, *(other.key for other in others)}) == 5
    assert task.spec == {"a": [1, 2.5], "b": 1}, "as it will be read back from JSON"


@pytest.mark.parametrize(
    ("name", "spec", "parents", "said"),
    [
        ("../x/", {}, (), "made of letters"),
        ("a b", {}, (), "made of letters"),
        ("a", {"lr": float("nan")}, (), "task a: its specification cannot be written as JSON"),
        ("a", {"path": Path("x")}, (), "cannot be written as JSON"),
        ("a", {1: 2}, (), "must be texts"),
        ("a", {}, ("shadow/0",), "is no key"),
    ],
)
def test_a_task_that_cannot_be_is_refused(name: str, spec: dict[Any, Any], parents: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_task("shadow", name, spec, parents)


@pytest.mark.parametrize(
    "factory",
    [
        "os:system",
        "clear_dist.shadow.worker:os",  # a module that it imported
        "clear_dist.shadow.worker:make_runner",  # defined elsewhere
        "clear_dist.shadow.worker:_tidy",
        "clear_dist.shadow.worker",
        "clear_dist.shadow.nothing:make",
        "clear_dist.shadow.worker:IDLE",
        "clear_dist:__import__",
        "clear_dist.shadow.task:make_runner; import os",
    ],
)
def test_only_functions_of_this_package_are_runners(factory: str) -> None:
    with pytest.raises(UserError, match="runner"):
        make_runner(RunnerRef(factory, {}))


def test_a_runner_is_made_with_its_arguments(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(root)
    run = make_runner(RunnerRef("tests.shadow.farm_fakes:make_fake", {"log": str(tmp_path / "log")}))
    assert set(run(make_task("shadow", "shadow/0", {}), {}).tensors) == {"logit", "predicted"}


def test_objects_are_named_by_their_content(tmp_path: Path) -> None:
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(2, dtype=torch.int32)
    ref = put(tmp_path, {"a": a, "b": b})
    laid_out_otherwise = a.t().contiguous().t()
    assert put(tmp_path, {"b": b, "a": laid_out_otherwise}) == ref
    assert [p.name for p in (tmp_path / "objects").iterdir()] == [f"{ref.sha256}.safetensors"]
    shared = put(tmp_path, {"a": a, "tied": a[0]})  # tensors that share memory are each written
    assert torch.equal(get(tmp_path, shared.sha256)["tied"], a[0])
    found = get(tmp_path, ref.sha256)
    assert torch.equal(found["a"], a) and torch.equal(found["b"], b) and found["b"].dtype == torch.int32


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "swap"])
def test_a_damaged_object_is_never_read(tmp_path: Path, harm: str) -> None:
    ref = put(tmp_path, {"a": torch.zeros(100)})
    path = object_path(tmp_path, ref.sha256)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    changed = {
        "flip": bytes(data),
        "cut": bytes(data[:-8]),
        "swap": encode({"a": torch.ones(100)}),
        "remove": None,
    }[harm]
    path.unlink() if changed is None else path.write_bytes(changed)
    with pytest.raises(Damaged):
        get(tmp_path, ref.sha256)
    assert not intact(tmp_path, ref)
    assert intact(tmp_path, ref, deep=False) == (harm in ("flip", "swap"))
    assert put(tmp_path, {"a": torch.zeros(100)}) == ref, "written again, in place of the damaged one"
    assert torch.equal(get(tmp_path, ref.sha256)["a"], torch.zeros(100))


def test_a_name_is_not_a_path(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    for name in ("../x", "/etc/passwd", "", KEY.upper()):
        with pytest.raises(Damaged):
            get(tmp_path, name)
    assert not intact(tmp_path, Ref("../x", 0))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=rf"{tmp_path}/objects: [\d,]+ bytes could not be written \(No space left"):
        put(tmp_path, {"a": torch.zeros(4)})
    assert list((tmp_path / "objects").iterdir()) == []


def test_half_written_files_are_swept(tmp_path: Path) -> None:
    ref = put(tmp_path, {"a": torch.zeros(4)})
    (tmp_path / "objects" / "x.safetensors.12.part").write_bytes(b"half")
    sweep_parts(tmp_path)
    assert [p.stem for p in (tmp_path / "objects").iterdir()] == [ref.sha256]


def _done() -> Done:
    return Done(
        KEY, "shadow", "shadow/0", Ref(KEY, 3), None, finite({"loss": 0.5, "worst": float("inf")}), 1.5, 9.0, "w0"
    )


def test_a_sidecar_says_what_is_done(tmp_path: Path) -> None:
    write_sidecar(tmp_path, _done())
    assert read_sidecar(tmp_path, KEY) == _done()
    assert read_sidecars(tmp_path) == {KEY: _done()}
    assert _done().metrics == {"loss": 0.5, "worst": None}
    assert read_sidecar(tmp_path, "cd" * 32) is None


def test_a_changed_sidecar_is_none(tmp_path: Path) -> None:
    write_sidecar(tmp_path, _done())
    path = sidecar_path(tmp_path, KEY)
    text = path.read_text()
    for changed in (
        text[: len(text) // 2],
        "",
        "[]",
        "null",
        '{"digest": 1}',
        text.replace('"seconds": 1.5', '"seconds": 2.5'),
    ):
        path.write_text(changed)
        assert read_sidecar(tmp_path, KEY) is None
    other = "cd" * 32
    sidecar_path(tmp_path, other).write_text(text)
    assert read_sidecar(tmp_path, other) is None, "copied from another task"
    (path.parent / "notes.json").write_text("{}")
    assert read_sidecars(tmp_path) == {}
