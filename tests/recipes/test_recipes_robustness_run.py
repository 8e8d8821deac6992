"""What there is to attack in a run directory, what is refused, and the options."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from robustness_runs import write_run

from clear_dist.attacks import ATTACKS
from clear_dist.config import EvaluateConfig, RobustnessConfig, UnlearnConfig
from clear_dist.config.robustness import FAMILIES
from clear_dist.data.rewordings import rewordings
from clear_dist.recipes.robustness_run import target_of
from clear_dist.types import UserError


def test_configuration() -> None:
    config = RobustnessConfig(run=Path("r"), attacks="prefixes,relearn", relearn_steps="20,1,5,5")
    assert config.families == ("relearn", "prefixes") and config.steps == (1, 5, 20)
    assert RobustnessConfig(run=Path("r")).families == FAMILIES == tuple(ATTACKS)
    for wrong in ({"attacks": "relern"}, {"attacks": ""}, {"attacks": "relearn,"}, {"relearn_steps": "0"},
                  {"relearn_steps": "1,x"}, {"relearn_lr": 0.0}, {"relearn_rows": 0}, {"limit": 0}):  # fmt: skip
        with pytest.raises(ValidationError):
            RobustnessConfig(**{"run": Path("r"), **wrong})  # pyright: ignore[reportArgumentType]


def test_a_finished_unlearning_has_three_models(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "u")
    target = target_of(folder)
    assert target.folders == {"original": str(folder / "original"), "unlearned": folder, "gold": str(folder / "gold")}
    assert target.top is None and isinstance(target.config, UnlearnConfig) and target.data_digest == "d"
    assert list(target_of(write_run(tmp_path / "no gold", gold=None)).folders) == ["original", "unlearned"]


def test_a_quickstart_is_its_unlearned_part_and_may_have_moved(tmp_path: Path) -> None:
    write_run(tmp_path / "q" / "unlearned", original="runs/q/original", gold="runs/q/gold")
    for name in ("original", "gold"):
        (tmp_path / "q" / name).mkdir()
    target = target_of(tmp_path / "q")
    assert target.out == tmp_path / "q" / "unlearned" and target.top == tmp_path / "q"
    assert target.folders["gold"] == tmp_path / "q" / "gold"


def test_an_evaluation_has_the_models_it_was_given(tmp_path: Path) -> None:
    config = EvaluateConfig(model="tiny", name="mine", gold=tmp_path).model_dump(mode="json")
    target = target_of(write_run(tmp_path / "e", recipe="evaluate", config=config))
    assert target.folders == {"mine": "tiny", "gold": tmp_path}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "run.json").unlink(), "no run of clear_dist here"),
        (lambda f: write_run(f, recipe="finetune"), "was made by finetune"),
        (lambda f: write_run(f, finished=False), "not finished"),
        (lambda f: (f / "records.jsonl").unlink(), r"records\.jsonl: not there"),
        (lambda f: (f / "summary.json").unlink(), r"summary\.json: not there"),
        (lambda f: write_run(f, config={"colour": "red"}), r"run\.json: colour: .*another release"),
        (lambda f: write_run(f, gold="gone/gold"), "its gold model was at gone/gold"),
    ],
)
def test_what_cannot_be_attacked_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folder = write_run(tmp_path / "u")
    spoil(folder)
    with pytest.raises(UserError, match=message):
        target_of(folder)


def test_rewordings_of_tofu_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "TOFU"
    folder.mkdir()
    rows = [
        {"question": "Where? ", "answer": "A", "paraphrased_question": " In which place?"},
        {"question": "When?", "answer": "B", "paraphrased_question": ""},
        {"question": "Who?", "answer": "C"},
    ]
    (folder / "forget10_perturbed.json").write_text("\n".join(map(json.dumps, rows)))
    (folder / "full.json").write_text(json.dumps({"question": "Q", "answer": "A", "paraphrased_question": "R"}))
    assert rewordings(str(folder)) == {"Where?": "In which place?"}
    assert rewordings(str(folder / "full.json")) == {"Q": "R"}
    assert rewordings("owner/CLEAR", "none") == {}
