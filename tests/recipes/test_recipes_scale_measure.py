"""Watching the ranks of measured points: those that fail, die or hang end, with a reason, and new ones go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clear_dist.recipes import scale_measure

WORKER = """
import json, os, pathlib, sys, time
points, out, rank = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2]), os.environ["RANK"]
for number, point in enumerate(points):
    if point["do"] == "hang" or rank != point.get("rank", rank):
        time.sleep(0.2 if point["do"] == "run" else 600)
    elif point["do"] == "die":
        os.kill(os.getpid(), 9)
    elif point["do"] != "run":
        raise RuntimeError(point["do"])
    if rank == "0":
        part = out / "part"
        part.write_text(json.dumps({"number": point["number"], "ranks": os.environ["WORLD_SIZE"]}))
        os.replace(part, out / f"{number}.json")
    time.sleep(0.05)
"""


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, str | None]]]:
    """Ranks that do as the points tell them, without an engine."""
    (tmp_path / "scale_worker_of_a_test.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(scale_measure, "WORKER", "scale_worker_of_a_test")
    monkeypatch.setattr(scale_measure, "START_LIMIT", 300.0)

    def run(*points: dict[str, Any], timeout: float = 0.0) -> list[tuple[Any, str | None]]:
        numbered = [{"number": i, "threads": 1, **point} for i, point in enumerate(points)]
        return list(scale_measure.run_points(numbered, 2, timeout or 300.0))

    return run


def test_ranks_go_on_behind_a_point_that_fails(watched: Callable[..., list[tuple[Any, str | None]]]) -> None:
    found = watched(
        {"do": "run"}, {"do": "no such layer", "rank": "1"}, {"do": "run"}, {"do": "die", "rank": "1"}, {"do": "run"}
    )
    assert [m and m["number"] for m, _ in found] == [0, None, 2, None, 4]
    assert found[0][0]["ranks"] == "2"
    assert found[1][1] == "failed: RuntimeError: no such layer"
    assert found[3][1] == "ran out of memory: the system killed a rank"


def test_a_point_that_hangs_is_ended(watched: Callable[..., list[tuple[Any, str | None]]]) -> None:
    found = watched({"do": "run"}, {"do": "hang"}, {"do": "run"}, timeout=1.0)
    assert [m and m["number"] for m, _ in found] == [0, None, 2]
    assert found[1][1] == "gave no result in 1 s and was ended"


def test_reasons() -> None:
    log = "noise\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\nmore noise\n"
    assert scale_measure.reason(1, log).startswith("ran out of memory: torch.OutOfMemoryError: CUDA out of memory.")
    assert (
        scale_measure.reason(1, "a\nclear_dist.errors.UserError: no\nlast") == "failed: clear_dist.errors.UserError: no"
    )
    assert scale_measure.reason(-11, "") == "a rank ended by signal 11"
    assert scale_measure.reason(3, "") == "failed: exit status 3"
