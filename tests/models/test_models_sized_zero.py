"""Families that cut pictures by their size under ZeRO-3: whole models trained, text-only micro-batches among others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sized_models import MIXED, WRITERS
from sized_training import ZERO_3, after_training

from clear_dist.engine.predict import ModelPredictor
from clear_dist.engine.shard import shard_model
from clear_dist.engine.world import World
from clear_dist.models import load_model
from clear_dist.types import Request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*(all_gather_into_tensor|reduce_scatter_tensor):FutureWarning"),
]


@pytest.fixture(scope="module", params=list(WRITERS))
def sized_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp(request.param))


def test_training_is_what_it_is_on_whole_weights(sized_dir: Path, world: World, tmp_path: Path) -> None:
    whole = after_training(sized_dir, world, tmp_path / "0", {"stage": 0})
    cut = after_training(sized_dir, world, tmp_path / "3", ZERO_3)
    before = load_model(sized_dir, dtype="fp32", device="cpu").module.state_dict()
    moved = [n for n, t in whole.items() if (t - before[n]).abs().max() > 1e-4]
    assert any("language_model" in n for n in moved) and any("vision_tower" in n or "visual" in n for n in moved)
    if "model.image_newline" in whole:
        assert "model.image_newline" in moved
    assert whole.keys() == cut.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, atol=1e-5, rtol=0, msg=name)


def test_predictions_are_those_of_whole_weights(sized_dir: Path, world: World) -> None:
    requests = [Request(e.question, e.picture, (e.answer, "Anna.")) for e in MIXED]
    expected = ModelPredictor(load_model(sized_dir, dtype="fp32", device="cpu")).predict(requests, 6)
    model = load_model(sized_dir, dtype="fp32", device="cpu")
    inside = shard_model(model, world, {"zero_optimization": ZERO_3})
    found = ModelPredictor(model, inside=inside, world=world, token_budget=150).predict(requests, 6)
    assert not any(p.numel() for p in model.module.parameters()), "nothing is cut: the test proves nothing"
    for mine, other in zip(found, expected, strict=True):
        assert mine.text == other.text
        for a, b in zip(mine.scored, other.scored, strict=True):
            assert a.logp == pytest.approx(b.logp, abs=1e-5)
