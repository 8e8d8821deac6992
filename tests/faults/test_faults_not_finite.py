"""A loss that is NaN on one rank of two: both stop with the same message, and no weight moves, at every stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from distributed.ranks import run_ranks

WORKER = Path(__file__).with_name("worker_nonfinite.py")


@pytest.mark.distributed
def test_nan_on_one_rank_is_left_out_and_then_stops_all_unmoved(tmp_path: Path, model: Path, cache: Path) -> None:
    outputs = run_ranks(2, WORKER, [str(model), str(tmp_path)], cache)
    for rank, output in enumerate(outputs):
        for stage in (0, 1, 2, 3):
            assert f"stage {stage}: rank {rank} stopped unmoved" in output
    for stage in (0, 1, 2, 3):
        lines = [json.loads(line) for line in (tmp_path / f"stage{stage}" / "metrics.jsonl").read_text().splitlines()]
        assert [line.get("skipped_so_far") for line in lines] == [None, None, 1]
