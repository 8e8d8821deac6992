"""When a training keeps the vision tower's output: where it can, where it is less work, and where memory takes it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, cast

import pytest
import torch
from engine.engine_support import FORGET, MAX_LENGTH, RETAIN, write_model

from clear_dist.config import FinetuneConfig, UnlearnConfig
from clear_dist.engine import tower_cache
from clear_dist.engine.monitor import Monitor
from clear_dist.engine.step import StepModule
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.engine.world import World
from clear_dist.methods import FORGET as F
from clear_dist.methods import RETAIN as R
from clear_dist.methods import Objective, kl, nll
from clear_dist.models import Model, ModelInfo, add_lora, load_model
from clear_dist.recipes.finetune import derived
from clear_dist.recipes.tower import check_tower, keep_tower, keeps_tower
from clear_dist.types import UserError

ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    made = load_model(write_model(tmp_path_factory.mktemp("base"), 5), dtype="fp32", device="cpu")
    made.module = add_lora(made.module, 4, 8.0, made.family, seed=1)
    return made


def stream_of(model: Model, objective: Objective) -> Stream:
    pools = {F: FORGET, R: RETAIN}
    settings = StreamSettings({F: 3, R: 4}, 0, 2, MAX_LENGTH, 96, 1)
    return Stream({v: pools[v] for v in objective.needs.views}, model.processor, settings, 0, 1, needs=objective.needs)


def kept(model: Model, stream: Stream, steps: int, how: str, monitor: Monitor | None = None) -> dict[str, float]:
    module = StepModule(model.module, model.family)
    config = UnlearnConfig.model_validate({"tower_cache": how})
    assert keeps_tower(config, module) == (how != "off")
    with ExitStack() as inside:
        return dict(keep_tower(config, module, module, stream, monitor, range(steps), ALONE, inside))


def test_auto_keeps_what_is_looked_at_again(model: Model) -> None:
    once = stream_of(model, nll(F))
    assert kept(model, once, 1, "auto") == {} and once.features is None, "every picture is read once"
    assert kept(model, once, 1, "on")["tower_seconds"] > 0 and once.features is not None
    again = stream_of(model, nll(F))
    assert kept(model, again, 4, "auto")["tower_seconds"] > 0 and again.features is not None
    compared = stream_of(model, kl(F))
    assert kept(model, compared, 1, "auto") and compared.features is not None, "the reference reads it too"


def test_the_monitor_reads_what_is_kept(model: Model) -> None:
    stream = stream_of(model, nll(F))
    monitor = Monitor({"retain": RETAIN}, model.processor, 96, MAX_LENGTH, ALONE)
    kept(model, stream, 4, "auto", monitor)
    assert monitor.features is stream.features and len(cast("Any", stream.features)) == 6


def test_no_picture_nothing_to_keep(model: Model) -> None:
    settings = StreamSettings({F: 2}, 0, 2, MAX_LENGTH, 96, 1)
    stream = Stream({F: [e for e in FORGET if e.picture is None]}, model.processor, settings, 0, 1)
    assert kept(model, stream, 5, "on") == {} and stream.features is None


def test_memory_is_short(model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tower_cache.psutil, "virtual_memory", lambda: type("M", (), {"available": 1000}))
    stream = stream_of(model, nll(F))
    assert kept(model, stream, 4, "auto") == {} and stream.features is None
    assert "more than 25% of the free memory" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--tower-cache on: what it makes of 2 pictures takes more than 90%"):
        kept(model, stream, 4, "on")


def test_refusals(model: Model) -> None:
    trained = StepModule(model.module, model.family)
    tower = model.family.tower(model.module)
    assert tower is not None
    parameter = next(tower.parameters())
    parameter.requires_grad_(True)
    try:
        assert not keeps_tower(UnlearnConfig(), trained)
        with pytest.raises(UserError, match="--tower-cache on: the vision tower is trained"):
            keeps_tower(UnlearnConfig(tower_cache="on"), trained)
    finally:
        parameter.requires_grad_(False)

    class Info:
        name, image_tokens = "llama", 0

        class family:
            cached_tower = False

    info = cast("ModelInfo", Info)
    check_tower(UnlearnConfig(), info)
    with pytest.raises(UserError, match="--tower-cache on: llama has no vision tower"):
        check_tower(UnlearnConfig(tower_cache="on"), info)
    Info.image_tokens = 1
    with pytest.raises(UserError, match="output differs in size"):
        check_tower(UnlearnConfig(tower_cache="on"), info)


def test_speed_is_no_part_of_a_run_and_holds_for_its_original_too() -> None:
    """What changes no number, that is: compiled blocks round differently."""
    fast = {"tower_cache": "off", "prefetch": 0}
    for config in (UnlearnConfig, FinetuneConfig):
        assert config().digest() == config.model_validate(fast).digest()
        assert config().digest() != config.model_validate({"compile": True}).digest()
    made = derived(UnlearnConfig.model_validate({**fast, "compile": True}), "all")
    assert (made.tower_cache, made.prefetch, made.compile) == ("off", 0, True)
