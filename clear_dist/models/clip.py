"""CLIP, for how well a text fits a picture (``evaluation.clip``): two towers, one space, a cosine.

A standard directory or a Hub name of a CLIP model (``model_type`` "clip", weights in safetensors), such as
``openai/clip-vit-base-patch32``. It is scored with only, so it is loaded in fp32 and never trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from clear_dist.models.files import fetch_weights, is_snapshot, resolve, weight_files, weight_totals
from clear_dist.models.info import TOKENIZER_FILES, load_config
from clear_dist.models.quiet import quiet
from clear_dist.types import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")


class ClipScorer:
    """Cosines of pictures and texts. Satisfies ``evaluation.clip.ImageTextScorer``."""

    def __init__(self, model: Any, tokenizer: Any, images: Any, device: torch.device | str = "cpu") -> None:
        self.model, self.tokenizer, self.images = model, tokenizer, images
        self.device = torch.device(device)
        self.max_length: int = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def similarity(self, pictures: Sequence[Image], texts: Sequence[str]) -> list[float]:
        """Cosine of the i-th picture (RGB) with the i-th text.

        A text longer than the model reads (77 tokens) is cut off; its end token stays.
        """
        assert len(pictures) == len(texts)
        if not texts:
            return []
        pixels = self.images(images=list(pictures), return_tensors="pt")["pixel_values"]
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        seen = self.model.get_image_features(pixel_values=pixels.to(self.device, torch.float32)).pooler_output
        read = self.model.get_text_features(
            input_ids=tokens["input_ids"].to(self.device), attention_mask=tokens["attention_mask"].to(self.device)
        ).pooler_output
        return torch.nn.functional.cosine_similarity(seen.double(), read.double()).tolist()


def inspect_clip(name_or_dir: str | Path) -> Path:
    """The directory of a CLIP model, looked at without loading a weight. Raises UserError on what is none."""
    path = resolve(str(name_or_dir))
    kind = load_config(path).model_type
    if kind != "clip":
        raise UserError(
            f"{path / 'config.json'}: model_type is {kind!r}, expected 'clip'; give a CLIP model with both towers, "
            "such as openai/clip-vit-base-patch32"
        )
    if not any((path / f).is_file() for f in TOKENIZER_FILES):
        raise UserError(f"{path}: no tokenizer (expected one of {', '.join(TOKENIZER_FILES)}); copy the whole model")
    if not any((path / f).is_file() for f in _IMAGE_FILES):
        raise UserError(f"{path}: no {' or '.join(_IMAGE_FILES)}, so no picture can be prepared; copy the model")
    weight_totals(weight_files(path, complete=not is_snapshot(path)))
    return path


def load_clip(name_or_dir: str | Path, device: torch.device | str = "cpu") -> ClipScorer:
    """A CLIP model from a directory or by its Hub name.

    Raises UserError: see ``inspect_clip``; weights that do not fit the configuration; files that cannot be read.
    """
    path = inspect_clip(name_or_dir)
    fetch_weights(str(name_or_dir), path)
    weight_totals(weight_files(path))
    clip: Any = CLIPModel
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            images = CLIPImageProcessorPil.from_pretrained(path, local_files_only=True)
            model, report = clip.from_pretrained(
                path, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:  # transformers raises many kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be loaded as a CLIP model: {first}") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{path}: the weights lack {len(missing)} tensors config.json asks for (first: {missing[0]}); "
            "configuration and weights do not belong together"
        )
    if tokenizer.pad_token_id is None:
        raise UserError(f"{path}: the tokenizer has no padding token; set pad_token in tokenizer_config.json")
    return ClipScorer(model.to(device).eval(), tokenizer, images, device)
