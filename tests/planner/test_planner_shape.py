"""Shapes against released parameter counts and against real models."""

from __future__ import annotations

from pathlib import Path

import pytest
from measure import Case, config_of, student_of
from planner_jobs import shape

from clear_dist.errors import UserError
from clear_dist.models import meta_model, named_shapes
from clear_dist.models.meta import picture_load
from clear_dist.planner.shape import shape_of

# Of the released models, as others have counted and published them.
RELEASED = {
    "llava-1.5-7b": 7_063_427_072,
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen2.5-vl-32b": 33_452_718_336,
    "llama-3.1-8b": 8_030_261_248,
}


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_are_those_of_the_released_model(name: str) -> None:
    found = shape(name)
    assert found.count() - found.count(trainable=True) == RELEASED[name]


def test_next_adds_one_vector() -> None:
    """LLaVA-NeXT on the same language model: what ends every row of a picture."""
    plain, anyres = shape("llava-1.5-7b"), shape("llava-next-vicuna-7b")
    assert anyres.count() == plain.count() + plain.hidden


def test_lora_counts() -> None:
    """r (inputs + outputs) for each of the seven projections of each block."""
    d, wide, r = 4096, 11008, 8
    assert shape("llava-1.5-7b").count(trainable=True) == 32 * r * (4 * 2 * d + 3 * (d + wide))
    assert shape("llava-1.5-7b").lora_r == r


def test_full_trains_all_but_the_tower() -> None:
    found = shape("llava-1.5-7b", full=True)
    assert found.count("vision", trainable=True) == 0
    assert found.count(trainable=True) == found.count() - found.count("vision")
    assert found.count("vision") == 303_507_456  # CLIP ViT-L/14 at 336 px


def test_tied_head_counts_once() -> None:
    found = shape("qwen2.5-vl-3b")
    assert found.tied and found.part("head") == () and found.count("embedding") == 151_936 * 2048


@pytest.mark.parametrize("full", [False, True])
def test_meta_shape_is_the_real_models(full: bool) -> None:
    case = Case("x", full=full)
    real = student_of(case)
    found = shape_of(real, config_of("tiny"), "tiny")
    assert found.count() == sum(p.numel() for p in real.parameters())
    assert found.count(trainable=True) == sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert {t.block for t in found.part("blocks")} == {0, 1, 2}
    assert sum(t.lora > 0 for t in found.tensors) == (0 if full else 3 * 7 * 2)


def test_pictures_of_each_family() -> None:
    assert shape("llava-1.5-7b").image_tokens == 576
    # Five pieces of 336 px; the 2 x 2 grid's 48 rows end with one more token each.
    assert shape("llava-next-vicuna-7b").image_tokens == 48 * 49 + 576
    _, config, _ = meta_model("qwen2.5-vl-7b", lora_r=None, full=False)
    load = picture_load(config)
    assert (load.tokens, load.tower_tokens) == (18 * 18, 36 * 36)  # 512 px becomes 504, 14 px a patch
    assert load.tower_span < load.tower_tokens  # most blocks look at windows
    assert shape("llama-3.1-8b").image_tokens == 0


def test_directory_gives_its_own_shape(tmp_path: Path) -> None:
    config_of("tiny").save_pretrained(tmp_path)
    module, config, family = meta_model(str(tmp_path), lora_r=4, full=False)
    assert family.name == "llava" and all(p.is_meta for p in module.parameters())
    assert shape_of(module, config, "mine").lora_r == 4


def test_unknown_model_lists_near_matches(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"llava-1\.5-8b.*did you mean llava-1\.5-7b"):
        meta_model("llava-1.5-8b", lora_r=8, full=False)
    with pytest.raises(UserError, match=r"no config\.json"):
        meta_model(str(tmp_path), lora_r=8, full=False)
    assert "qwen2.5-vl-72b" in named_shapes() and "tiny" in named_shapes()
