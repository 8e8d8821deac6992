"""The shipped base is what its recipe makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clear_dist.config import ModelBaseConfig
from clear_dist.models import inspect_model, weights_digest
from clear_dist.recipes import model_base

SHIPPED = Path(model_base.__file__).resolve().parents[1] / "assets" / "mini_base"
MAX_BYTES = 5_000_000


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((SHIPPED / "base.json").read_text(encoding="utf-8"))


def test_shipped_weights_are_those_its_recipe_recorded(facts: dict) -> None:
    """Changing a number of the recipe, a word or a drawing without training the base again fails here."""
    assert facts["recipe"] == json.loads(json.dumps(model_base.RECIPE)), (
        "run: clear-dist model base --out DIR, then ship it"
    )
    assert facts["weights"] == weights_digest(SHIPPED)
    assert facts["seed"] == 0
    assert facts["parameters"] == inspect_model("tiny").parameters < 1_000_000


def test_small_enough_to_ship() -> None:
    assert sum(f.stat().st_size for f in SHIPPED.iterdir()) < MAX_BYTES
    assert not [f for f in SHIPPED.iterdir() if f.suffix in (".bin", ".pt", ".pkl")]


def test_a_shortened_recipe_is_deterministic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same seed, same bits; another seed, other bits."""
    for name, value in (("STRANGERS", 450), ("PER_REAL", 2), ("VISION_STEPS", 4), ("STEPS", 4)):
        monkeypatch.setattr(model_base, name, value)
    digests = []
    for run, seed in enumerate((0, 0, 1)):
        model_base.run(ModelBaseConfig(out=tmp_path / str(run), seed=seed))
        digests.append(weights_digest(tmp_path / str(run)))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.slow
def test_the_whole_recipe_makes_the_shipped_weights(tmp_path: Path, facts: dict) -> None:
    """About a quarter of an hour on one core. Bits may differ on another kind of processor; quality may not."""
    model_base.run(ModelBaseConfig(out=tmp_path / "base"))
    made = json.loads((tmp_path / "base" / "base.json").read_text(encoding="utf-8"))
    assert made["recipe"] == facts["recipe"]
    assert made["attribute_accuracy"] == pytest.approx(facts["attribute_accuracy"], abs=0.01)
    assert made["final_loss"] == pytest.approx(facts["final_loss"], abs=0.02)
