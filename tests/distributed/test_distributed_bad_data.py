"""Two hosts with a copy of the data each: the same decision on all ranks, and none waits for one that has stopped."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .ranks import ROOT, run_ranks

sys.path.insert(0, str(ROOT / "tests" / "data"))
from data_fakes import VISUAL, changed  # pyright: ignore[reportMissingImports]

WORKER = Path(__file__).with_name("worker_bad_data.py")


def jpeg() -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "JPEG")
    return out.getvalue()


def copy(folder: Path, data: bytes) -> Path:
    def change(tables: dict[str, dict[str, list[Any]]]) -> None:
        tables["retain90"]["image"][3] = {"bytes": data, "path": None}

    return Path(changed(folder, change, keep=VISUAL))


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, list[dict[str, Any]]]:
    """Case -> what each rank came to. One host's copy, or both, has half a picture, which looks whole by its header."""
    folder = tmp_path_factory.mktemp("bad_data")
    for name, data in {"one": jpeg(), "both": jpeg()[:-2000]}.items():
        (folder / name).mkdir()
        shutil.move(copy(folder / f"{name} whole", data), folder / name / "0")
        shutil.move(copy(folder / f"{name} half", jpeg()[:-2000]), folder / name / "1")
    jobs = {"fail": ("one", "fail"), "skip": ("one", "skip"), "both": ("both", "skip")}
    for case in jobs:
        (folder / f"out {case}").mkdir()
    file = folder / "jobs.json"
    file.write_text(
        json.dumps([[str(folder / c), mode, str(folder / f"out {case}")] for case, (c, mode) in jobs.items()])
    )
    run_ranks(2, WORKER, [str(file)], cache)
    return {
        case: [json.loads((folder / f"out {case}" / f"{rank}.json").read_text()) for rank in (0, 1)] for case in jobs
    }


@pytest.mark.distributed
def test_a_picture_that_only_one_host_cannot_read_stops_all(said: dict[str, list[dict[str, Any]]]) -> None:
    for rank in said["fail"]:
        assert "rank 1, not rank 0: retain90[3].image: not a picture" in rank["refused"]


@pytest.mark.distributed
def test_hosts_that_would_leave_out_different_rows_stop(said: dict[str, list[dict[str, Any]]]) -> None:
    for rank in said["skip"]:
        assert "rank 1 reads other data than rank 0 (rank 1: retain90[3].image: not a picture" in rank["refused"]
        assert "Make the copies on all hosts the same" in rank["refused"]


@pytest.mark.distributed
def test_what_is_bad_everywhere_is_left_out_everywhere(said: dict[str, list[dict[str, Any]]]) -> None:
    first, second = said["both"]
    assert first == second and first["skipped"][0].startswith("retain90[3].image: not a picture")
