"""The processor of a vision-language model from its files, checked against the configuration."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, LlavaNextProcessor, LlavaProcessor, PreTrainedConfig

from clear_dist.models.family import Family
from clear_dist.models.llava import LLAVA, TOWER_EXTRA_TOKENS
from clear_dist.models.llava_next import LLAVA_NEXT, check_next, next_layout
from clear_dist.models.processor import TokenProcessor
from clear_dist.models.qwen_vl import QWEN_VL, patch_shape, qwen_layout
from clear_dist.types import UserError


def vision_processor(
    path: Path, tokenizer: Any, config: PreTrainedConfig, family: Family, image_id: int
) -> TokenProcessor:
    """Tokenizer and image processor of a directory. Raises UserError naming the file that is missing or contradicts."""
    if family is QWEN_VL:
        return _qwen_processor(path, tokenizer, config, image_id)
    c: Any = config
    vision, cut = c.vision_config, family is LLAVA_NEXT
    expected = LLAVA.image_tokens(config)  # of one pass through the tower
    if cut:
        check_next(config)
    elif c.image_seq_length != expected:
        raise UserError(
            f"{path / 'config.json'}: image_seq_length is {c.image_seq_length}, but the tower gives {expected} tokens "
            f"a picture (image_size {vision.image_size}, patch_size {vision.patch_size}, "
            f"strategy {c.vision_feature_select_strategy!r}); set image_seq_length to {expected}"
        )
    _check_inside(path, c, image_id, "image_token_index")
    layout = read_json(path / "processor_config.json") if (path / "processor_config.json").is_file() else {}
    token = layout.get("image_token", "<image>")
    found = tokenizer.convert_tokens_to_ids(token)
    if found != image_id:
        raise UserError(
            f"{path}: the tokenizer gives {token!r} the id {found}, config.json says image_token_index {image_id}; "
            "tokenizer and model do not belong together"
        )
    file, images = image_processor(path)
    _check_picture_size(file, images, vision.image_size)
    if cut:
        _check_pinpoints(file, images, c)
    _check_layout(path / "processor_config.json", layout, c, expected)
    return TokenProcessor(
        tokenizer,
        images,
        image_id=image_id,
        image_tokens=family.image_tokens(config),
        image_shape=(3, vision.image_size, vision.image_size),
        layout_of=partial(next_layout, config) if cut else None,
        template=chat_template(path, tokenizer) if cut else None,
        patch_size=vision.patch_size,
        extra_tokens=TOWER_EXTRA_TOKENS[vision.model_type],
        strategy=c.vision_feature_select_strategy,
        wrapper=LlavaNextProcessor if cut else LlavaProcessor,
    )


def _qwen_processor(path: Path, tokenizer: Any, config: PreTrainedConfig, image_id: int) -> TokenProcessor:
    c: Any = config
    _check_inside(path, c, image_id, "image_token_id")
    file, images = image_processor(path)
    for name, theirs in (("patch_size",) * 2, ("temporal_patch_size",) * 2, ("merge_size", "spatial_merge_size")):
        given, taken = getattr(images, name, None), getattr(c.vision_config, theirs)
        if given != taken:
            raise UserError(
                f"{file}: {name} is {given}, config.json says vision_config.{theirs} {taken}; make the two agree"
            )
    limits = [images.size.get(edge) for edge in ("shortest_edge", "longest_edge")]
    if None in limits:
        raise UserError(
            f"{file}: size has no shortest_edge and longest_edge (or min_pixels and max_pixels), the fewest and most "
            "pixels a picture is scaled to; copy the file from the model"
        )
    template = chat_template(path, tokenizer)
    if template is None:
        raise UserError(
            f"{path}: no chat template (chat_template.jinja, chat_template.json or in tokenizer_config.json), so it is "
            "not known how a picture stands in a prompt; copy it from the model"
        )
    tokenizer.chat_template = template  # it is saved with the tokenizer
    return TokenProcessor(
        tokenizer,
        images,
        image_id=image_id,
        image_tokens=QWEN_VL.image_tokens(config),
        image_shape=patch_shape(config),
        layout_of=partial(qwen_layout, images),
        template=template,
        wrapper=None,
    )


def image_processor(path: Path) -> tuple[Path, Any]:
    """(file, image processor) of a directory."""
    files = [f for f in ("preprocessor_config.json", "processor_config.json") if (path / f).is_file()]
    if not files:
        raise UserError(f"{path}: no preprocessor_config.json or processor_config.json, so pictures cannot be prepared")
    try:
        return path / files[0], AutoImageProcessor.from_pretrained(
            path, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise UserError(f"{path / files[0]}: the image processor cannot be read: {first_line(error)}") from error


def chat_template(path: Path, tokenizer: Any) -> str | None:
    """The template of a directory: the tokenizer's, or what older directories keep for the processor alone."""
    own = path / "chat_template.json"
    if tokenizer.chat_template or not own.is_file():
        return tokenizer.chat_template
    template = read_json(own).get("chat_template")
    if not isinstance(template, str):
        raise UserError(f"{own}: has no chat_template; copy the file of the model again")
    return template


def _check_inside(path: Path, c: Any, image_id: int, key: str) -> None:
    if image_id >= c.get_text_config().vocab_size:
        raise UserError(
            f"{path / 'config.json'}: {key} {image_id} lies outside the vocabulary "
            f"of {c.get_text_config().vocab_size}; resize the embeddings or correct the index"
        )


def _check_pinpoints(file: Path, images: Any, c: Any) -> None:
    """Pictures must be cut as the model puts them together."""
    given, taken = ([list(p) for p in x.image_grid_pinpoints] for x in (images, c))
    if given != taken:
        raise UserError(
            f"{file}: image_grid_pinpoints {given} are not those of config.json, {taken}; make the two agree"
        )


def _check_layout(file: Path, layout: dict[str, Any], c: Any, expected: int) -> None:
    """The processor's own arithmetic must give the number of tokens the model takes."""
    patch = layout.get("patch_size")
    if patch is None:  # older directories leave it to the model
        return
    strategy = layout.get("vision_feature_select_strategy", c.vision_feature_select_strategy)
    count = (c.vision_config.image_size // patch) ** 2 + layout.get("num_additional_image_tokens", 0)
    count -= strategy == "default"
    if count != expected:
        raise UserError(
            f"{file}: patch_size {patch}, num_additional_image_tokens {layout.get('num_additional_image_tokens', 0)} "
            f"and strategy {strategy!r} make {count} tokens a picture, the model takes {expected}; "
            "make the processor agree with config.json"
        )


def _check_picture_size(file: Path, images: Any, side: int) -> None:
    size = images.crop_size if getattr(images, "do_center_crop", False) else images.size
    given = (size.get("height"), size.get("width")) if "height" in size else (size.get("shortest_edge"),) * 2
    if given != (side, side):
        raise UserError(
            f"{file}: pictures come out at {given[0]} x {given[1]}, the vision tower takes {side} x {side}; "
            "set crop_size (or size) to the tower's image_size"
        )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, or a UserError naming the file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: is not readable JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: expected a JSON object")
    return value


def first_line(error: Exception) -> str:
    """Of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
