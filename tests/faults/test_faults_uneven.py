"""One rank has a picture, the other has none, while the projector trains: no rank waits for another, and the result is
that of one rank. (Stock engines abort or hang there.) Unequal and empty work in evaluation: test_distributed_predict.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .test_faults_kill import Attempts, lines

# One example a rank and step: with a picture or without.
RUN = {"method": "ga", "set": {}, "full": True, "global_batch": 2, "lr": 1e-4, "max_steps": 8, "checkpoint_every": 100}


@pytest.fixture
def attempts(model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attempts]:
    yield Attempts(model, cache, tmp_path_factory.mktemp("attempts"))


@pytest.mark.distributed
def test_a_rank_without_a_picture_keeps_step(attempts: Attempts, tmp_path: Path) -> None:
    going = [{**attempts.attempt(tmp_path / "alone", 0, False, None, **RUN), "ranks": 1}]
    going += [{**attempts.attempt(tmp_path / f"z{s}", s, False, None, **RUN), "watched": True} for s in (0, 1, 2, 3)]
    attempts.run(going)
    wanted = load_file(tmp_path / "alone" / "model" / "model.safetensors")
    for stage in (0, 1, 2, 3):
        run = tmp_path / f"z{stage}"
        seen = [(tmp_path / f"z{stage}.pictures{rank}").read_text().split() for rank in (0, 1)]
        assert len(seen[0]) == len(seen[1]) == RUN["max_steps"]
        uneven = [(a, b) for a, b in zip(*seen, strict=True) if (a == "0") != (b == "0")]
        assert uneven, "no step of this run shows anything: draw another"
        found = load_file(run / "model" / "model.safetensors")
        assert max(float((found[n] - wanted[n]).abs().max()) for n in wanted) < 1e-5, stage
        pairs = zip(lines(run), lines(tmp_path / "alone"), strict=True)
        assert all(abs(a["loss"] - b["loss"]) < 1e-5 for a, b in pairs)
