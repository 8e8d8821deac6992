"""The smallest files of a farm that nobody writes: a plan is refused, an object damaged, a database made again."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clear_dist.errors import UserError
from clear_dist.shadow.folder import FARM_FILE, create_farm, opened, read_farm_file
from clear_dist.shadow.manifest import DATABASE
from clear_dist.shadow.objects import Damaged, Ref, get_bytes, intact, object_path, put_bytes
from clear_dist.shadow.sidecars import sidecar_path
from clear_dist.shadow.status import read_status
from clear_dist.shadow.task import RunnerRef, make_task

FIRST = make_task("train", "shadow/0", {"seed": 0}, keep_weights=True)
DEEP = "[" * 100_000


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    """One task that is done, one that starts from its weights."""
    folder = tmp_path / "farm"
    second = make_task("unlearn", "npo/0", {"seed": 1}, [FIRST.key])
    create_farm(folder, {"size": 1}, RunnerRef("tests.shadow.farm_fakes:runner", {}), [FIRST, second])
    with opened(folder) as manifest:
        lease = manifest.claim("w")
        assert lease is not None
        manifest.commit(lease, put_bytes(folder, b"result"), put_bytes(folder, b"weights"), {"loss": 0.5}, 1.0)
    return folder


# ---------------------------------------------------------------------------------------------- the plan


def _of_a_task(**change: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda plan: {**plan, "tasks": [{**plan["tasks"][0], **change}, *plan["tasks"][1:]]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plan: [], "list indices must be integers"),
        (lambda plan: {**plan, "head": []}, "head or runner is of another kind"),
        (lambda plan: {**plan, "runner": {"factory": 1}}, "head or runner is of another kind"),
        (lambda plan: {**plan, "runner": {"command": "rm"}}, "unexpected keyword argument"),
        (lambda plan: {**plan, "runner": None}, "must be a mapping"),
        (lambda plan: {**plan, "runner": {**plan["runner"], "arguments": []}}, "head or runner is of another kind"),
        (lambda plan: {**plan, "head": {"threads": "2"}}, "head.threads is '2', expected 1 to 1,024"),
        (lambda plan: {**plan, "head": {"threads": True}}, "head.threads is True"),
        (lambda plan: {**plan, "head": {"threads": 0}}, "head.threads is 0"),
        (_of_a_task(keep_weights="no"), "task 'shadow/0' has a field of another kind"),
        (lambda plan: {"head": {}, "runner": plan["runner"]}, "'tasks'"),
        (lambda plan: {**plan, "tasks": [1]}, "not a mapping"),
        (_of_a_task(kind=1), "task 'shadow/0' has a field of another kind"),
        (_of_a_task(name=1), "task 1 has a field of another kind"),
        (_of_a_task(key=None), "task 'shadow/0' has a field of another kind"),
        (_of_a_task(parents=[1]), "task 'shadow/0' has a field of another kind"),
        (_of_a_task(spec=[["seed", 0]]), "task 'shadow/0' has a field of another kind"),
        (_of_a_task(parents=["../farm"]), "'../farm' is no key"),
        (_of_a_task(name="../farm "), "a name is made of letters"),
        (_of_a_task(spec={"seed": 1}), "task shadow/0 was changed by hand"),
        (_of_a_task(seed=1), "unexpected keyword argument 'seed'"),
    ],
)
def test_a_plan_of_another_form_is_refused(farm: Path, change: Callable[[Any], Any], said: str) -> None:
    path = farm / FARM_FILE
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError) as caught:
        read_farm_file(farm)
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("NaN", "NaN is no finite number"),
        ("1e999", "1e999 is no finite number"),
        ("9" * 5_000, "a whole number of 5,000 digits"),
        (DEEP, "nested more than 100 deep"),
        ('"\\ud800"', "half of a character"),
        ("", "Expecting value"),
        ("\xff", "can't decode byte"),
    ],
)
def test_a_plan_that_is_no_good_json_is_refused(farm: Path, size: str, said: str) -> None:
    path = farm / FARM_FILE
    path.write_bytes(path.read_bytes().replace(b'"size": 1', b'"size": ' + size.encode("latin-1")))
    with pytest.raises(UserError) as caught:
        read_farm_file(farm)
    assert str(caught.value).startswith(f"{path}: cannot be read") and said in str(caught.value)


def test_a_plan_that_is_no_file_is_refused(farm: Path) -> None:
    (farm / FARM_FILE).unlink()
    with pytest.raises(UserError, match=r"no farm of shadow models there \(farm\.json is missing\)"):
        read_farm_file(farm)
    (farm / FARM_FILE).mkdir()
    with pytest.raises(UserError, match=r"farm\.json: cannot be read"):
        read_farm_file(farm)


# ---------------------------------------------------------------------------------------------- an object


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b"resulT"), "its content has changed"),
        (lambda path: path.write_bytes(b"result\0"), "its content has changed"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    ],
    ids=["none", "another bit", "longer", "a folder"],
)
def test_an_object_that_is_another_is_damaged(tmp_path: Path, harm: Callable[[Path], object], said: str) -> None:
    ref = put_bytes(tmp_path, b"result")
    assert intact(tmp_path, ref) and get_bytes(tmp_path, ref.sha256) == b"result"
    harm(object_path(tmp_path, ref.sha256))
    assert not intact(tmp_path, ref)
    with pytest.raises(Damaged, match=said):
        get_bytes(tmp_path, ref.sha256)


def test_an_object_of_another_length_is_not_intact(tmp_path: Path) -> None:
    ref = put_bytes(tmp_path, b"result")
    for deep in (True, False):
        assert intact(tmp_path, ref, deep) and not intact(tmp_path, Ref(ref.sha256, 5), deep)


@pytest.mark.parametrize("name", ["", "../farm", "A" * 64, "a" * 63, "a" * 64 + "\n", "\u0661" * 64])
def test_an_object_s_name_is_64_digits(tmp_path: Path, name: str) -> None:
    with pytest.raises(Damaged, match="is no SHA-256"):
        object_path(tmp_path, name)
    assert not intact(tmp_path, Ref(name, 0))


# ---------------------------------------------------------------------------------------------- the database

DONE = f"WHERE key = '{FIRST.key}'"
CHANGES = {
    "spec: no JSON": (f"spec = '{{' {DONE}", None),
    "spec: deep": (f"spec = ? {DONE}", DEEP),
    "spec: a list": (f"spec = '[]' {DONE}", None),
    "parents: an object": (f"parents = '{{}}' {DONE}", None),
    "parents: numbers": (f"parents = '[1]' {DONE}", None),
    "attempts: a text": (f"attempts = 'x' {DONE}", None),
    "name: bytes": (f"name = x'00' {DONE}", None),
    "worker: bytes": (f"worker = x'ff' {DONE}", None),
    "error: bytes": (f"error = x'ff' {DONE}", None),
    "error: no UTF-8": (f"error = CAST(x'ff' AS TEXT) {DONE}", None),
    "result: a path": (f"result = '../../farm' {DONE}", None),
    "result: none": (f"result = NULL {DONE}", None),
    "result_size: none": (f"result_size = NULL {DONE}", None),
    "weights: a path": (f"weights = '../../farm' {DONE}", None),
    "weights_size: a text": (f"weights_size = 'x' {DONE}", None),
    "metrics: none": (f"metrics = NULL {DONE}", None),
    "metrics: a list": (f"metrics = '[]' {DONE}", None),
    "metrics: texts": ('metrics = \'{"loss": "0.5"}\' ' + DONE, None),
    "metrics: deep": (f"metrics = ? {DONE}", DEEP),
    "metrics: digits": (f"metrics = ? {DONE}", '{"loss": ' + "9" * 5_000 + "}"),
    "name of one that waits: bytes": ("name = x'00' WHERE state = 'pending'", None),
    "worker of one that waits: bytes": ("worker = x'ff' WHERE state = 'pending'", None),
    "seconds: a text": (f"seconds = 'x' {DONE}", None),
    "finished_at: none": (f"finished_at = NULL {DONE}", None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_database_with_a_record_nobody_writes_is_made_again(farm: Path, name: str) -> None:
    change, value = CHANGES[name]
    with contextlib.closing(sqlite3.connect(farm / DATABASE)) as db, db:
        db.execute(f"UPDATE tasks SET {change}", () if value is None else (value,))
    status = read_status(farm)
    assert (status.total, status.done) == (2, 1), "counted from the sidecars"
    with opened(farm) as manifest:
        assert [row.state for row in manifest.rows()] == ["done", "pending"]
        assert len(list(farm.glob(f"{DATABASE}.damaged-1"))) == 1, "moved aside"
    (note,) = read_status(farm).notes
    assert note.startswith("farm.db was damaged (") and note.endswith("made again from the sidecars")


@pytest.mark.parametrize("content", [b"", b"x", b"SQLite format 3\0" + bytes(84), bytes(8192)], ids=range(4))
def test_a_database_that_is_none_is_made_again(farm: Path, content: bytes) -> None:
    for file in farm.glob(f"{DATABASE}*"):
        file.unlink()
    (farm / DATABASE).write_bytes(content)
    assert read_status(farm).done == 1
    with opened(farm) as manifest:
        assert [row.state for row in manifest.rows()] == ["done", "pending"]


def test_a_database_damaged_where_no_task_lies_is_made_again(farm: Path) -> None:
    """Every record of a task can be read, and still SQLite finds a page that is none."""
    with contextlib.closing(sqlite3.connect(farm / DATABASE)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'notes'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    data = bytearray((farm / DATABASE).read_bytes())
    data[(page - 1) * size : page * size] = b"\xff" * size
    (farm / DATABASE).write_bytes(data)
    with opened(farm) as manifest:
        assert [row.state for row in manifest.rows()] == ["done", "pending"]
    assert len(list(farm.glob(f"{DATABASE}.damaged-1"))) == 1 and read_status(farm).done == 1


def test_what_is_done_without_a_sidecar_is_done_again_where_the_database_is_lost(farm: Path) -> None:
    """Nothing is believed that neither the database nor a sidecar says."""
    sidecar_path(farm, FIRST.key).write_text(DEEP)
    (farm / DATABASE).write_bytes(b"x")
    assert read_status(farm).done == 0
    with opened(farm) as manifest:
        assert [row.state for row in manifest.rows()] == ["pending", "pending"]
