"""Two ranks under ZeRO-3 train models that cut pictures by their size as one process does on whole weights, with
pictures of different sizes on both ranks, or on one of them and text alone on the other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
from sized_models import WRITERS  # type: ignore[import-not-found]
from sized_training import after_training  # type: ignore[import-not-found]

from clear_dist.engine.world import World

from .ranks import run_ranks

pytestmark = pytest.mark.distributed
WORKER = Path(__file__).with_name("worker_sized.py")


@pytest.fixture
def ranks(cache: Path, tmp_path: Path) -> Path:
    """What two ranks left; they ran before this process made a group of its own."""
    for family, write in WRITERS.items():
        write(tmp_path / family)
    run_ranks(2, WORKER, [str(tmp_path), *WRITERS], cache)
    return tmp_path


def test_two_ranks_train_as_one(ranks: Path, world: World) -> None:
    for family in WRITERS:
        first, second = (json.loads((ranks / f"{family}.{rank}.json").read_text()) for rank in (0, 1))
        assert any(a != b for a, b in zip(first, second, strict=True)), "a picture on one rank, text on the other"
        assert any(a and b for a, b in zip(first, second, strict=True))
        expected = after_training(ranks / family, world, ranks / f"{family}.one", {"stage": 0})
        found = torch.load(ranks / f"{family}.pt")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0, msg=f"{family}: {name}")
