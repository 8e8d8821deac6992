"""A model cut into shards over two ranks says what the whole one says, whatever each rank has to ask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .ranks import run_ranks
from .worker_predict import shares

pytestmark = pytest.mark.distributed
WORKER = Path(__file__).with_name("worker_predict.py")


def test_sharded_equals_whole_with_unequal_work(cache: Path, tmp_path: Path) -> None:
    run_ranks(2, WORKER, [str(tmp_path)], cache)
    asked = 0
    lengths = set()
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert set(found["sizes"]) == {0}, "every parameter must be cut, none kept whole"
        for case in shares([]):
            whole, sharded, scored = (found[case][k] for k in ("whole", "sharded", "scored"))
            assert len(whole) == len(sharded) == len(scored)
            for a, b, c in zip(whole, sharded, scored, strict=True):
                asked += 1
                lengths.add(len(a["text"].split()))
                assert b["text"] == a["text"] and c["text"] is None
                assert b["top1"] == c["top1"] == a["top1"]
                for x, y, z in zip(a["logp"], b["logp"], c["logp"], strict=True):
                    assert y == pytest.approx(x, abs=1e-5) and z == pytest.approx(x, abs=1e-5)
    assert asked == 14 + 15 + 14 and len(lengths) > 3, "answers of different lengths, or nothing is proved"
