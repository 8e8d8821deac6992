"""Manifests of checkpoints, sidecars of farms and certificates that somebody else wrote: good, or named as damaged."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from clear_dist.engine.checkpoint_files import (
    MANIFEST,
    Damaged,
    File,
    Manifest,
    file_name,
    fresh_staging,
    hashed_file,
    problems,
    publish,
    read_manifest,
)
from clear_dist.errors import UserError
from clear_dist.shadow.objects import Ref
from clear_dist.shadow.sidecars import Done, read_sidecar, sidecar_path, write_sidecar
from clear_dist.shadow.task import canonical as task_text
from tests.faults.fuzz import counted
from tests.faults.fuzz_inputs import altered, files

COUNTS = [pytest.param(1_000, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]
STEP = 120
KEY = "a" * 64


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    staging = fresh_staging(tmp_path)
    written = []
    for rank in range(2):
        with hashed_file(staging / file_name(rank)) as file:
            file.write(b"x" * (10 + rank))
        written.append(File(file_name(rank), file.bytes, file.sha256))
    return publish(tmp_path, Manifest(STEP, 2, 3, 0, tuple(written)))


def _with_digest(value: Any) -> bytes:
    """A manifest in the spelling that is written, its digest made to match whatever it says."""
    if not isinstance(value, dict):
        return json.dumps(value).encode()
    body = {name: part for name, part in value.items() if name != "digest"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "digest": digest}, indent=1) + "\n").encode()


@pytest.mark.parametrize("count", COUNTS)
def test_a_manifest_is_good_or_damaged_and_never_reaches_another_file(checkpoint: Path, count: int) -> None:
    path = checkpoint / MANIFEST
    good = path.read_bytes()
    first = json.loads(good)
    same_name, outside, linked, huge = (copy.deepcopy(first) for _ in range(4))
    same_name["files"][1]["name"] = same_name["files"][0]["name"]
    outside["files"][0]["name"] = "../rank_00000.safetensors"
    linked["files"][0]["name"] = "/etc/passwd"
    huge["files"][0]["bytes"] = 10**300
    hostile = st.one_of(
        files([good], [first]),
        altered([first, same_name, outside, linked, huge], most=2).map(_with_digest),
        st.sampled_from([b"[" * 40_000, b'{"v":1,' * 3_000, good, good, good.replace(b'"v": 1', b'"v": 1, "v": 1')]),
    )

    def manifest(data: bytes) -> None:
        path.write_bytes(data)
        found = problems(checkpoint)
        try:
            read = read_manifest(checkpoint)
        except Damaged as error:
            assert found == [str(error)]
            raise UserError(str(error)) from None
        assert read.step == STEP and [file.name for file in read.files] == [
            file_name(i) for i in range(read.world_size)
        ]
        if found:
            raise UserError(found[0])
        assert {f.name: f.sha256 for f in read.files} == {f["name"]: f["sha256"] for f in first["files"]}

    names = [str(path), *(str(checkpoint / file_name(rank)) for rank in range(20))]
    counted(count, hostile, manifest, names=names, accepted_at_least=count // 50, rejected_at_least=count // 2)


def test_a_link_in_place_of_a_manifest_or_file_is_not_followed(checkpoint: Path, tmp_path: Path) -> None:
    for name in (MANIFEST, file_name(0)):
        elsewhere = tmp_path / f"elsewhere_{name}"
        (checkpoint / name).rename(elsewhere)
        (checkpoint / name).symlink_to(elsewhere)
        assert name in problems(checkpoint)[0]
        (checkpoint / name).unlink()
        elsewhere.rename(checkpoint / name)
    assert problems(checkpoint) == []


def _sidecar_with_digest(value: Any) -> bytes:
    if not isinstance(value, dict):
        return json.dumps(value).encode()
    body = {name: part for name, part in value.items() if name != "digest"}
    try:
        digest = hashlib.sha256(task_text(body).encode()).hexdigest()
    except ValueError:  # a number or text that no farm writes
        digest = "0" * 64
    return json.dumps({**body, "digest": digest}).encode()


@pytest.mark.parametrize("count", COUNTS)
def test_a_sidecar_is_a_finished_task_or_nothing(tmp_path: Path, count: int) -> None:
    done = Done(KEY, "train", "a task", Ref("b" * 64, 10), Ref("c" * 64, 5), {"loss": 0.5, "bad": None}, 1.5, 9.0, "w")
    write_sidecar(tmp_path, done)
    path = sidecar_path(tmp_path, KEY)
    good = path.read_bytes()
    value = json.loads(good)
    hostile = st.one_of(
        files([good], [value]),
        altered([value], most=2).map(_sidecar_with_digest),
        st.sampled_from([b"[" * 40_000, good, good]),
    )

    def sidecar(data: bytes) -> None:
        path.write_bytes(data)
        read = read_sidecar(tmp_path, KEY)
        if read is None:
            raise UserError(f"{path}: is no sidecar")
        fields = {f.name: getattr(read, f.name) for f in dataclasses.fields(Done)}
        for name in ("kind", "name", "worker"):
            assert isinstance(fields[name], str), f"{name} is {fields[name]!r}"
        for name in ("seconds", "finished_at"):
            assert isinstance(fields[name], int | float), f"{name} is {fields[name]!r}"
        for ref in (read.result, *([read.weights] if read.weights is not None else [])):
            assert isinstance(ref, Ref) and isinstance(ref.sha256, str) and isinstance(ref.size, int)
        assert isinstance(read.metrics, dict)

    counted(count, hostile, sidecar, names=[str(path)], accepted_at_least=count // 50, rejected_at_least=count // 2)
