"""Pictures of a given face as a prompt says, by any diffusers pipeline that can be given one.

Three ways to give it, by what the call of the pipeline takes. PhotoMaker (arXiv 2312.04461) puts the face into the
prompt's trigger word; it is not in diffusers, so its pipeline is made by its own package and handed over as an object.
An IP-Adapter shows the face beside the prompt. Image-to-image begins with the face and draws over it.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import torch

from clear_dist.models.photo_adapter import add_adapter, has_adapter
from clear_dist.models.photo_files import inspect_pipeline, parts_digest
from clear_dist.models.photo_load import device_named, load_pipeline
from clear_dist.models.photo_quiet import diffusers_module, quiet_diffusers
from clear_dist.models.photo_sample import sample
from clear_dist.models.picture_bytes import decoded, square
from clear_dist.types import UserError

Way = Literal["photomaker", "ip_adapter", "image_to_image"]
TRIGGER: Final = "img"
LATEST_MERGE: Final = 30  # PhotoMaker puts the face in by this step, however many there are
STEERED: Final = ("prompt", "negative_prompt", "guidance_scale", "num_inference_steps", "generator", "output_type")
# Pictures that a pipeline wants besides the one of the face.
OTHER_PICTURES: Final = {"control_image", "mask_image", "original_image"}


class PhotoPipeline:
    """A pipeline with a way to give it a face.

    pipeline: a diffusers pipeline, in evaluation mode, where it is to run. digest: SHA-256 of its weights and
    configurations; taken of what is in memory where none is given. limit: tokens of a prompt that are read, its ends
    included. Raises UserError on a pipeline that cannot be given a face.
    """

    def __init__(self, pipeline: Any, digest: str | None = None) -> None:
        self.pipeline = pipeline
        self.way: Way = way_of(pipeline)
        self._digest = digest
        tokenizers = (getattr(pipeline, name, None) for name in ("tokenizer", "tokenizer_2"))
        self.tokenizer: Any = next((one for one in tokenizers if one is not None), None)
        if self.tokenizer is None:
            raise UserError(f"{type(pipeline).__name__}: has no tokenizer, so prompts cannot be measured.")
        encoder = getattr(pipeline, "text_encoder", None)
        read = getattr(getattr(encoder, "config", None), "max_position_embeddings", math.inf)
        self.limit: int = int(min(self.tokenizer.model_max_length, read))

    @classmethod
    def open(
        cls, directory: str | Path, device: torch.device | str = "auto", adapter: str | Path | None = None
    ) -> PhotoPipeline:
        """A pipeline from a directory or by its Hub name; bf16 on a GPU, fp32 on a CPU.

        A text-to-image pipeline gets the IP-Adapter of the directory ``adapter``; without one it becomes the
        image-to-image pipeline of its family. Raises UserError: see ``inspect_pipeline``, ``add_adapter``; a pipeline
        that cannot be given a face.
        """
        files = inspect_pipeline(directory)
        where = device_named(device)
        dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
        digest = files.digest()
        pipeline = load_pipeline(files, dtype)
        if adapter is not None:
            pipeline = _converted(pipeline, "AutoPipelineForText2Image")
            digest = hashlib.sha256((digest + add_adapter(pipeline, adapter, dtype)).encode()).hexdigest()
        elif not has_adapter(pipeline):
            pipeline = _converted(pipeline, "AutoPipelineForImage2Image")
        return cls(pipeline.to(where), digest)

    @cached_property
    def digest(self) -> str:
        return parts_digest(self.pipeline) if self._digest is None else self._digest

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt as the pipeline reads it, its ends included; those beyond ``limit`` are not read."""
        return len(self.tokenizer(self._prompt(prompt), truncation=False, verbose=False)["input_ids"])

    def make(
        self,
        face_png: bytes,
        prompt: str,
        negative: str,
        seeds: Sequence[int],
        *,
        style: float = 0.5,
        guidance: float = 7.5,
        steps: int = 50,
        size: int | None = None,
    ) -> list[bytes]:
        """Pictures (PNG), one for each seed in order; the same for the same seed, whatever is made beside it.

        Args:
            face_png: encoded picture of the face; any format that PIL knows.
            prompt: with the word ``img`` behind whom the face belongs to; other ways than PhotoMaker leave it out.
            style: 0 (all face) to 1 (all prompt). PhotoMaker merges the face from this share of the steps on, at the
                30th at the latest; an adapter has the weight 1 - style; image-to-image redraws this share.
            guidance: of the prompt over no prompt. steps: of denoising. size: edge in pixels; None: the pipeline's own.

        An entry is empty where the pipeline's safety checker blanked the picture. Raises UserError on arguments out of
        range, a face that is no picture, a prompt without its ``img``, and a pipeline that fails.
        """
        _check(style, guidance, steps)
        arguments: dict[str, Any] = self._given(decoded(face_png, "face"), style, steps, size)
        arguments |= {"prompt": self._prompt(prompt), "negative_prompt": negative}
        arguments |= {"guidance_scale": guidance, "num_inference_steps": steps}
        return [sample(self.pipeline, seed, **arguments) for seed in seeds]

    def _given(self, face: Any, style: float, steps: int, size: int | None) -> dict[str, Any]:
        """What the call is told of the face and the size."""
        multiple = _scale(self.pipeline)
        if size is not None and (size < multiple or size % multiple):
            raise UserError(f"size: expected pixels, a multiple of {multiple}; got {size}.")
        edges = {} if size is None else {"height": size, "width": size}
        if self.way == "photomaker":
            return {"input_id_images": [face], "start_merge_step": min(int(style * steps), LATEST_MERGE), **edges}
        if self.way == "ip_adapter":
            self.pipeline.set_ip_adapter_scale(1 - style)
            return {"ip_adapter_image": face, **edges}
        if int(style * steps) < 1:
            raise UserError(
                f"style: image-to-image redraws style x steps = {style * steps:g} of the steps; at least 1 is needed."
            )
        out = {"image": square(face, size or _own_size(self.pipeline)), "strength": style}
        return out | {edge: value for edge, value in edges.items() if edge in _takes(self.pipeline)}

    def _prompt(self, prompt: str) -> str:
        """As the pipeline wants it: with its trigger word once, or without any."""
        found = re.findall(rf"\b{TRIGGER}\b", prompt)
        if self.way == "photomaker":
            if len(found) != 1:
                raise UserError(
                    f"prompt: expected the word {TRIGGER!r} once; found it {len(found)} times in {prompt!r}."
                )
            return prompt
        return re.sub(rf"\s*\b{TRIGGER}\b", "", prompt).strip()


def way_of(pipeline: Any) -> Way:
    """How a pipeline is given a face. Raises UserError, saying what it takes, where it cannot be."""
    takes = _takes(pipeline)
    name = type(pipeline).__name__
    if missing := [argument for argument in STEERED if argument not in takes]:
        raise UserError(f"{name}: its call takes no {missing[0]}; expected a pipeline that draws what a prompt says.")
    if {"input_id_images", "start_merge_step"} <= takes:
        return "photomaker"
    if "image" not in takes and "ip_adapter_image" in takes and has_adapter(pipeline):
        return "ip_adapter"
    if {"image", "strength"} <= takes and not takes & OTHER_PICTURES and not has_adapter(pipeline):
        return "image_to_image"
    raise UserError(
        f"{name}: cannot be given a face: its call takes neither input_id_images and start_merge_step (PhotoMaker) nor "
        "image and strength alone (image-to-image), and no IP-Adapter is loaded into a text-to-image pipeline. It "
        f"takes {', '.join(sorted(takes))}."
    )


def _takes(pipeline: Any) -> set[str]:
    return set(inspect.signature(type(pipeline).__call__).parameters) - {"self", "kwargs"}


def _converted(pipeline: Any, task: str) -> Any:
    """The same parts as the pipeline of another task; as it is where its family has none, or it has that task."""
    if "input_id_images" in _takes(pipeline):
        return pipeline
    try:
        with quiet_diffusers():
            return getattr(diffusers_module(), task).from_pipe(pipeline)
    except ValueError:  # no such family; ``way_of`` then says what was found
        return pipeline


def _own_size(pipeline: Any) -> int:
    """Edge in pixels of the pictures a pipeline was trained on."""
    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    side = getattr(pipeline, "default_sample_size", None) or getattr(
        network.config if network else None, "sample_size", 0
    )
    if not isinstance(side, int) or side < 1:
        raise UserError(f"size: a {type(pipeline).__name__} does not say how large its pictures are; give a size.")
    return side * _scale(pipeline)


def _scale(pipeline: Any) -> int:
    """Pixels of a picture's edge for each that the network sees."""
    return getattr(pipeline, "vae_scale_factor", 1)


def _check(style: float, guidance: float, steps: int) -> None:
    if not 0 <= style <= 1:
        raise UserError(f"style: expected a number from 0 to 1; got {style}.")
    if not (math.isfinite(guidance) and guidance >= 0):
        raise UserError(f"guidance: expected a number of at least 0; got {guidance}.")
    if steps < 1:
        raise UserError(f"steps: expected a whole number of at least 1; got {steps}.")
