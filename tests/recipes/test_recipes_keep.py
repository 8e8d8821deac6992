"""The rule that chooses weights, by hand; what is kept is what the model was at that step, through a resume too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from clear_dist.engine.step import StepModule
from clear_dist.engine.world import World
from clear_dist.recipes.keep import KeepBest, score
from clear_dist.types import UserError

SOLO = World(0, 1, 0, torch.device("cpu"))


class Module(nn.Module):
    """A student of two weights, one of them frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.ParameterDict({"moves": nn.Parameter(torch.zeros(2)), "stays": nn.Parameter(torch.ones(3))})
        self.student["stays"].requires_grad_(False)

    def at(self, step: int) -> None:
        with torch.no_grad():
            self.student["moves"].fill_(float(step))


def figures(forget: float, retain: float) -> dict[str, float]:
    return {"exact/forget": forget, "exact/retain": retain, "probability/forget": 0.5}


def follow(keep: KeepBest, module: Module, course: dict[int, tuple[float, float]]) -> None:
    for step, (forget, retain) in course.items():
        module.at(step)
        keep.on_eval(step, figures(forget, retain))


def keeping(folder: Path, module: Module) -> KeepBest:
    return KeepBest(folder, cast("StepModule", cast("Any", module)), SOLO)


@pytest.mark.parametrize(
    ("start", "now", "value"),
    [
        ((0.8, 0.5), (0.2, 0.45), 0.75),  # 1 - .2/.8 = .75 < .45/.5 = .9
        ((0.8, 0.5), (0.0, 0.25), 0.5),  # all forgotten, half retained
        ((0.8, 0.5), (1.0, 0.5), -0.25),  # more is known than before
        ((0.0, 0.5), (0.0, 0.4), 0.8),  # nothing was known of forget: retention alone
        ((0.8, 0.0), (0.4, 0.0), 0.5),
        ((0.0, 0.0), (0.0, 0.0), 0.0),
    ],
)
def test_the_score_is_the_smaller_side(start: tuple[float, float], now: tuple[float, float], value: float) -> None:
    assert score(figures(*start), figures(*now)) == pytest.approx(value)


def test_the_best_step_is_kept_the_earliest_of_equals(tmp_path: Path) -> None:
    module = Module()
    keep = keeping(tmp_path, module)
    assert keep.step is None and keep.tensors() is None
    course = {0: (0.8, 1.0), 10: (0.4, 1.0), 20: (0.08, 0.9), 30: (0.0, 0.9), 40: (0.08, 0.95), 50: (0.0, 0.3)}
    follow(keep, module, course)  # scores .5, .9, .9, .9, .3
    assert keep.step == 20
    kept = keep.tensors()
    assert kept is not None and kept.keys() == {"moves"}, "frozen weights are not kept"
    assert kept["moves"].tolist() == [20.0, 20.0]
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["best.json", "step_00000020.safetensors"]
    assert json.loads((tmp_path / "best" / "best.json").read_text())["start"] == {
        "exact/forget": 0.8,
        "exact/retain": 1.0,
    }


def test_step_0_is_the_yardstick_and_never_the_choice(tmp_path: Path) -> None:
    module = Module()
    keep = keeping(tmp_path, module)
    follow(keep, module, {0: (0.5, 0.5), 1: (0.9, 0.4), 2: (1.0, 0.4)})  # everything after it is worse
    assert keep.step == 1


def test_a_resumed_run_goes_on_with_its_choice_and_a_new_one_begins_anew(tmp_path: Path) -> None:
    module = Module()
    follow(keeping(tmp_path, module), module, {0: (1.0, 1.0), 10: (0.2, 0.9), 20: (0.5, 0.9)})
    again = keeping(tmp_path, module)
    assert again.step == 10
    follow(again, module, {20: (0.5, 0.9), 30: (0.1, 0.85)})  # steps since the checkpoint come again
    assert again.step == 30
    follow(again, module, {40: (0.1, 0.85)})
    kept = keeping(tmp_path, module).tensors()
    assert kept is not None and kept["moves"].tolist() == [30.0, 30.0]
    anew = keeping(tmp_path, module)
    follow(anew, module, {0: (1.0, 1.0), 10: (0.9, 1.0)})
    assert anew.step == 10


def test_dying_between_weights_and_note_leaves_the_former_choice(tmp_path: Path) -> None:
    module = Module()
    follow(keeping(tmp_path, module), module, {0: (1.0, 1.0), 10: (0.5, 1.0)})
    note = (tmp_path / "best" / "best.json").read_text()
    (tmp_path / "best" / "step_00000020.safetensors").write_bytes(b"half a fi")
    again = keeping(tmp_path, module)
    assert again.step == 10 and again.tensors() is not None
    follow(again, module, {20: (0.1, 1.0)})
    assert again.step == 20 and (tmp_path / "best" / "best.json").read_text() != note
    (tmp_path / "best" / "step_00000020.safetensors").unlink()
    with pytest.raises(UserError, match=r"best.json: missing or damaged, so that step 30"):
        follow(keeping(tmp_path, module), module, {30: (0.1, 1.0)})


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--keep best: exact/retain cannot be measured"):
        keeping(tmp_path, Module()).on_eval(0, {"exact/forget": 0.5})
