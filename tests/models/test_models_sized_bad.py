"""Directories of LLaVA-NeXT and Qwen2.5-VL with something wrong: each is refused before a weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sized_models import NEXT_TEMPLATE, QWEN_TEMPLATE, WRITERS, sized_picture, write_next, write_qwen

from clear_dist.data.encode import encode_prompt
from clear_dist.models import inspect_model
from clear_dist.types import UserError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}


@pytest.fixture
def spoiled(written: dict[str, Path], copy_of: Callable[[Path], Path]) -> Callable[..., Path]:
    """A directory whose JSON file ``name`` went through ``change``."""

    def spoil(family: str, name: str, change: Callable[[Any], object]) -> Path:
        out = copy_of(written[family])
        value = json.loads((out / name).read_text())
        change(value)
        (out / name).write_text(json.dumps(value))
        return out

    return spoil


def refused(directory: Path, match: str) -> None:
    with pytest.raises(UserError, match=match):
        inspect_model(directory)


def test_whole_directories_are_taken(written: dict[str, Path]) -> None:
    for name, directory in written.items():
        assert inspect_model(directory).family.name == name


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["vision_config"].update(model_type="siglip2_vision_model"), "supported towers: clip_vision_model"),
        (lambda c: c.update(vision_feature_select_strategy="full"), "set it to 'default' for a tower with a CLS"),
        (lambda c: c.update(image_grid_pinpoints=[[24, 50]]), r"\[24, 50\], no multiple of the tower's image_size 24"),
        (lambda c: c.update(image_grid_pinpoints=[[24, 48]]), "image_grid_pinpoints .* are not those of config.json"),
        (lambda c: c.update(image_token_index=64), "lies outside the vocabulary of 64"),
        (lambda c: c.update(image_token_index=4), "the tokenizer gives '<image>' the id 3"),
        (
            lambda c: c.update(model_type="llava_onevision"),
            "model_type 'llava_onevision' is not supported; use a vision",
        ),
    ],
)
def test_next_configuration(spoiled: Callable[..., Path], change: Callable[[Any], object], match: str) -> None:
    refused(spoiled("llava_next", "config.json", change), match)


def test_next_pictures_of_another_size(spoiled: Callable[..., Path]) -> None:
    def change(c: Any) -> None:
        c["image_processor"]["crop_size"] = {"height": 12, "width": 12}

    refused(spoiled("llava_next", "processor_config.json", change), "pictures come out at 12 x 12")


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        (
            "config.json",
            lambda c: c["vision_config"].update(spatial_merge_size=1),
            "merge_size is 2, .* 1; make the two",
        ),
        ("preprocessor_config.json", lambda c: c.update(patch_size=8), "patch_size is 8, .*vision_config.patch_size 4"),
        ("preprocessor_config.json", lambda c: c.update(size={"height": 8, "width": 8}), "the fewest and most pixels"),
        ("config.json", lambda c: c.update(image_token_id=96), "image_token_id 96 lies outside the vocabulary of 96"),
        ("config.json", lambda c: c.update(image_token_id=5), "does not put one"),
    ],
)
def test_qwen_files(spoiled: Callable[..., Path], name: str, change: Callable[[Any], object], match: str) -> None:
    refused(spoiled("qwen2_5_vl", name, change), match)


@pytest.mark.parametrize("family", list(WRITERS))
def test_files_that_are_missing(written: dict[str, Path], copy_of: Callable[[Path], Path], family: str) -> None:
    out = copy_of(written[family])
    for file in out.glob("*processor_config.json"):
        file.unlink()
    refused(out, "no preprocessor_config.json or processor_config.json")
    (out / "tokenizer.json").unlink()
    refused(out, "no tokenizer")


def test_qwen_needs_a_template(tmp_path: Path) -> None:
    refused(write_qwen(tmp_path, template=None), "no chat template")


def test_an_older_directory_keeps_its_template_apart(tmp_path: Path) -> None:
    out = write_qwen(tmp_path, template=None)
    (out / "chat_template.json").write_text(json.dumps({"chat_template": QWEN_TEMPLATE}))
    processor = inspect_model(out).processor
    assert processor.tokenizer.chat_template == QWEN_TEMPLATE, "it is saved with the tokenizer from now on"
    (out / "chat_template.json").write_text("{}")
    refused(out, "chat_template.json: has no chat_template")


def test_templates_that_put_a_picture_nowhere_or_twice(tmp_path: Path) -> None:
    for number, picture in enumerate(("", "<image><image>")):
        out = write_next(tmp_path / str(number), NEXT_TEMPLATE.replace("<image>", picture))
        refused(out, "does not put one <image> and then the question")
    refused(write_next(tmp_path / "broken", "{{ raise_exception('no') }}"), "cannot take one user turn")


def test_next_without_a_template_is_prompted_as_llava_is(tmp_path: Path) -> None:
    processor = inspect_model(write_next(tmp_path, None)).processor
    for with_picture, text in ((True, "USER: <image>\nWho? ASSISTANT:"), (False, "USER: Who? ASSISTANT:")):
        prefix, rest = processor.encode_prompt("Who?", with_picture)
        assert [*prefix, *rest] == processor.tokenizer(text)["input_ids"]


def test_a_picture_too_narrow_is_named(written: dict[str, Path]) -> None:
    processor = inspect_model(written["qwen2_5_vl"]).processor
    with pytest.raises(UserError, match=r"picture 1 x 201: .* is too narrow for this model .* crop it"):
        encode_prompt(processor, "Who?", sized_picture(1, 201))


def test_what_a_template_says_by_itself_stands_before_the_picture(tmp_path: Path) -> None:
    """A system turn, as Qwen's own template writes one; with a picture and without."""
    said = "<|im_start|>assistant\nnobody's here<|im_end|>\n"
    processor = inspect_model(write_qwen(tmp_path, said + QWEN_TEMPLATE)).processor
    tokenizer: Any = processor.tokenizer
    for shown in ("<|vision_start|><|image_pad|><|vision_end|>", ""):
        prefix, rest = processor.encode_prompt("Who?", bool(shown))
        text = f"{said}<|im_start|>user\n{shown}Who?<|im_end|>\n<|im_start|>assistant\n"
        assert [*prefix, *rest] == tokenizer(text)["input_ids"]
        assert prefix[-1:] == ([processor.image_id] if shown else [])
