"""Headers of weights, a farm's plan, database and objects: read, or refused with the file's name."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from clear_dist.errors import UserError
from clear_dist.models.files import read_header, weight_totals
from clear_dist.shadow.folder import FARM_FILE, create_farm, opened, read_farm_file
from clear_dist.shadow.manifest import DATABASE
from clear_dist.shadow.objects import Damaged, Ref, get_bytes, intact, object_path, put_bytes
from clear_dist.shadow.status import read_status
from clear_dist.shadow.task import RunnerRef, make_task
from tests.faults.fuzz import counted
from tests.faults.fuzz_inputs import damaged, files, hostile

COUNTS = [pytest.param(500, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]
FEWER = [pytest.param(20, id="fast"), pytest.param(2_000, marks=pytest.mark.slow, id="2000")]
ENTRIES = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}
COLUMNS = ("kind", "name", "spec", "parents", "keep", "attempts", "worker", "error", "result", "result_size", "weights")
COLUMNS = (*COLUMNS, "weights_size", "metrics", "seconds", "finished_at", "position", "lease_until", "token")


def _weights(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(32)


@pytest.mark.parametrize("count", COUNTS)
def test_a_header_of_weights_is_one_or_refused(tmp_path: Path, count: int) -> None:
    file = tmp_path / "model.safetensors"
    good = json.dumps(ENTRIES).encode()
    whole = st.one_of(
        files([good], [ENTRIES]).map(_weights),
        damaged([_weights(good)]),
        st.just(_weights(b"[" * 50_000)),
        st.just(_weights(good)),
    )

    def header(data: bytes) -> None:
        file.write_bytes(data)
        read_header(file)
        weight_totals([file])

    counted(count, whole, header, names=[str(file)], accepted_at_least=count // 50, rejected_at_least=count // 3)


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    folder = tmp_path / "farm"
    first = make_task("train", "shadow/0", {"seed": 0}, keep_weights=True)
    second = make_task("unlearn", "npo/0", {"seed": 1}, [first.key])
    create_farm(folder, {"size": 1}, RunnerRef("tests.shadow.farm_fakes:runner", {}), [first, second])
    with opened(folder) as manifest:
        lease = manifest.claim("w")
        assert lease is not None
        manifest.commit(lease, put_bytes(folder, b"result"), put_bytes(folder, b"weights"), {"loss": 0.5}, 1.0)
    return folder


@pytest.mark.parametrize("count", COUNTS)
def test_a_plan_of_a_farm_is_one_or_refused(farm: Path, count: int) -> None:
    path = farm / FARM_FILE
    good = path.read_bytes()

    def plan(data: bytes) -> None:
        path.write_bytes(data)
        read = read_farm_file(farm)
        assert isinstance(read.head, dict) and all(isinstance(task.spec, dict) for task in read.tasks)

    contents = st.one_of(files([good], [json.loads(good)]), st.just(b"[" * 50_000), st.just(good))
    counted(count, contents, plan, names=[str(path)], accepted_at_least=count // 50, rejected_at_least=count // 2)


@pytest.mark.parametrize("count", FEWER)
def test_a_database_with_any_record_changed_is_used_or_made_again(farm: Path, count: int) -> None:
    good = (farm / DATABASE).read_bytes()
    texts = st.one_of(
        st.binary(max_size=8), hostile().map(lambda v: v if isinstance(v, float | str) else json.dumps(v))
    )

    def database(change: tuple[str, Any]) -> None:
        column, value = change
        for file in farm.glob(f"{DATABASE}*"):
            file.unlink()
        (farm / DATABASE).write_bytes(good)
        db = sqlite3.connect(farm / DATABASE, isolation_level=None)
        with contextlib.suppress(sqlite3.Error, UnicodeEncodeError):  # the schema refuses it
            db.execute(f"UPDATE tasks SET {column} = ?", (value,))
        db.close()
        assert read_status(farm).total == 2
        with opened(farm) as manifest:
            assert len(manifest.rows()) == 2

    changes = st.tuples(st.sampled_from(COLUMNS), texts)
    counted(count, changes, database, names=[str(farm)], accepted_at_least=count, rejected_at_least=0)


@pytest.mark.parametrize("count", COUNTS)
def test_an_object_is_what_its_name_says_or_damaged(tmp_path: Path, count: int) -> None:
    good = b"0123456789" * 5
    ref: Ref = put_bytes(tmp_path, good)
    path = object_path(tmp_path, ref.sha256)

    def stored(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read = get_bytes(tmp_path, ref.sha256)
        except Damaged as error:
            assert not intact(tmp_path, ref)
            raise UserError(str(error)) from None
        assert read == good and intact(tmp_path, ref)

    contents = st.one_of(damaged([good]), st.just(good))
    counted(count, contents, stored, names=[str(path)], accepted_at_least=count // 50, rejected_at_least=count // 3)
    for name in ("../farm", "", "A" * 64, f"{ref.sha256}\n"):
        with pytest.raises(Damaged):
            get_bytes(tmp_path, name)
