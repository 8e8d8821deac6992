"""A few steps on a few rows: the loss is the documented one and falls, and only the adapter moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from robustness_runs import SETS, write_models

from clear_dist.data.encode import encode_all
from clear_dist.data.packing import PixelCache, pack
from clear_dist.engine.predict import ModelPredictor
from clear_dist.evaluation.predict import evaluate
from clear_dist.models import Model, load_model
from clear_dist.recipes.relearn import mean_nll, relearn
from clear_dist.types import Batch, Example, UserError, View


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | Path]:
    return write_models(tmp_path_factory.mktemp("models"))


def packed(model: Model, rows: list[Example]) -> Batch:
    return pack(
        {View.RETAIN: encode_all(rows, model.processor, 512)},
        model.processor,
        row_length=512,
        pixels=PixelCache(model.processor),
    )


def test_relearning_lowers_the_loss_and_moves_the_adapter_alone(folders: dict[str, str | Path]) -> None:
    model = load_model(folders["unlearned"], attention="sdpa", device="cpu")
    before = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    rows = [SETS["forget"][0], SETS["forget"][3]]
    losses: list[float] = []
    batch = packed(model, rows)
    losses.append(mean_nll(model, batch).item())
    steps = []
    for step in relearn(model, rows, (2, 8), 1e-2, 0, max_length=512):
        steps.append(step)
        losses.append(mean_nll(model, batch).item())
    assert steps == [2, 8] and losses[0] > losses[1] > losses[2]
    plain = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): p
        for name, p in model.module.named_parameters()
        if ".lora_" not in name
    }
    assert plain.keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in plain.items())


def test_the_loss_is_the_mean_over_rows_of_means_over_tokens(folders: dict[str, str | Path]) -> None:
    model = load_model(folders["gold"], attention="sdpa", device="cpu")
    rows = [SETS["forget"][2], SETS["forget"][3]]  # two tokens and EOS, and more
    batch = packed(model, rows)
    with torch.no_grad():
        loss = mean_nll(model, batch).item()
    records = evaluate(ModelPredictor(model), {"forget": rows}, model="gold", max_new_tokens=1)
    means = [sum(r.logp.answer or ()) / len(r.logp.answer or ()) for r in records]
    assert len({len(r.logp.answer or ()) for r in records}) == 2
    assert loss == pytest.approx(-sum(means) / 2, abs=1e-4)


def test_a_learning_rate_that_explodes_is_refused(folders: dict[str, str | Path]) -> None:
    model = load_model(folders["gold"], attention="sdpa", device="cpu")
    with pytest.raises(UserError, match=r"--relearn-lr 1e\+30: the loss is not finite at step 2"):
        list(relearn(model, SETS["forget"][:1], (5,), 1e30, 0, max_length=512))
