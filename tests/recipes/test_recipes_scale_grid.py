"""The grid of a scale study: what is refused, in which words, and what its models come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from clear_dist.config.scale import Grid, InlineModel, Stage
from clear_dist.engine.ds_shipped import SHIPPED
from clear_dist.models.meta import meta_model
from clear_dist.recipes.scale_grid import label_of, placed, read_grid
from clear_dist.types import UserError


def written(folder: Path, **values: Any) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({"models": ["tiny"], **values}))
    return path


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"models": []}, r"grid\.yaml: models: is empty; expected at least one"),
        ({"gpus": []}, r"gpus: is empty"),
        ({"gpus": [8, 0]}, r"gpus\.1: expected a number >= 1, got 0"),
        ({"gpus": ["eight"]}, r"gpus\.0: expected a whole number, got 'eight'"),
        ({"gpus": 8}, r"gpus: expected a list, got 8"),
        ({"gpus": [12]}, r"gpus: 12 are no whole number of nodes of gpus_per_node 8"),
        ({"gpus": [2, 2]}, r"gpus: 2 is there twice"),
        ({"stages": ["z0", "z33"]}, r"stages\.1: expected one of z0, .*got 'z33' \(did you mean z3\?\)"),
        ({"methods": ["gd", "npoo"]}, r"methods\.1: unknown method npoo \(did you mean npo\?\)"),
        ({"set": {"npo": {"beta": 1}}, "methods": ["gd"]}, r"set: npo is none of methods \(gd\)"),
        ({"gpu": "h100-90g"}, r"gpu h100-90g: is not known \(did you mean h100-80g\?\)"),
        ({"modles": []}, r"modles: no such field \(did you mean models\?\)"),
        ({"mixes": {"a": {"tokns": 3}}}, r"mixes\.a\.tokns: no such field \(did you mean tokens\?\)"),
        ({"mixes": {"a": {"tokens": 64, "scored": 63}}}, r"mixes\.a: scored 63 leaves no question in 64 tokens"),
        ({"mixes": {"a": {"pictures": 1.5}}}, r"mixes\.a\.pictures: expected a number <= 1, got 1\.5"),
        ({"mixes": {}}, r"mixes: is empty"),
        ({"models": [{"arch": "llavva", "params": "30m"}]}, r"models\.0\.arch: expected one of llava, llama.*llava\?"),
        ({"models": [{"arch": "llava", "hidden": 64}]}, r"models\.0: give params \(e\.g\. 30m\), or hidden and layers"),
        ({"models": ["tiny", "tiny"]}, r"models: tiny is there twice; give one of them a name"),
        ({"full": True, "reference": "adapter"}, r"reference: adapter needs LoRA"),
        ({"gpus": [2**i for i in range(13)], "gpus_per_node": 1, "methods": ["gd", "npo", "kl", "idk", "dpo", "ga"],
          "stages": list(get_args(Stage)), "mixes": {str(i): {} for i in range(9)}},
         r"the grid has 9,828 points, more than 5,000"),
    ],
)  # fmt: skip
def test_mistakes_are_named_by_their_field(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_grid(written(tmp_path, **values))


def test_every_mistake_of_a_grid_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        read_grid(written(tmp_path, gpus=[], stages=["z9"], steps="x"))
    assert str(told.value).count("grid.yaml: ") == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [("models: [", "not valid YAML"), ("- a", "expected a mapping of fields, got list"), ("", "models is required")],
)
def test_what_is_no_grid(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_grid(path)
    with pytest.raises(UserError, match=r"--grid .*nowhere\.yaml: no such file"):
        read_grid(tmp_path / "nowhere.yaml")


def test_models_that_are_nowhere_are_refused(tmp_path: Path) -> None:
    for model, words in (
        ("llava-1.5-8b", r"models\.0: llava-1\.5-8b: is neither a directory nor a known name \(did you mean llava-1\."),
        ({"params": "thirty"}, r"models\.0: params: 'thirty' is not a size"),
        ({"hidden": 100, "layers": 2}, r"models\.0: hidden: 100 is not a multiple of 32"),
    ):
        path = written(tmp_path, models=[model])
        with pytest.raises(UserError, match=words):
            placed(read_grid(path), path, tmp_path / "models")


def test_json_reads_like_yaml(tmp_path: Path) -> None:
    path = tmp_path / "grid.json"
    path.write_text(json.dumps({"models": ["tiny"], "gpus": [1, 2]}))
    assert read_grid(path) == read_grid(written(tmp_path, gpus=[1, 2]))


def test_sizes_become_models_of_that_size(tmp_path: Path) -> None:
    models = [{"arch": "llava", "params": "30m"}, {"name": "ours", "arch": "llama", "hidden": 256, "layers": 3}]
    path = written(tmp_path, models=models)
    study = placed(read_grid(path), path, tmp_path / "models")
    assert list(study.models) == ["llava-30m", "ours"]
    big, *_ = meta_model(study.models["llava-30m"], lora_r=None, full=False)
    assert sum(p.numel() for p in big.parameters()) == pytest.approx(30e6, rel=0.1)
    _, config, family = meta_model(study.models["ours"], lora_r=None, full=False)
    text: Any = family.text_config(config)
    assert (text.hidden_size, text.num_hidden_layers, family.image_id(config)) == (256, 3, None)


def test_names_of_models() -> None:
    assert label_of("some/where/mine") == "mine" and label_of("tiny") == "tiny"
    assert label_of(InlineModel.model_validate({"params": "30m"})) == "llava-30m"
    assert label_of(InlineModel.model_validate({"arch": "llama", "hidden": 64, "layers": 2})) == "llama-2x64"


def test_stages_are_the_shipped_files(root: Path) -> None:
    assert set(get_args(Stage)) == set(SHIPPED)
    for name in ("cpu", "llava"):
        assert isinstance(read_grid(root / "benchmarks" / "grids" / f"{name}.yaml"), Grid)
