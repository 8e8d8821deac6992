"""Qwen2.5-VL: pictures as grids of any shape, rotary positions in three dimensions
(``Qwen2_5_VLForConditionalGeneration``).

A picture is scaled to a multiple of the merged patch, within limits of its number of pixels, and becomes a grid of
patches; 2 x 2 of them are one token. The tower attends within windows but for a few blocks. The language model's
rotary positions are (time, height, width): a picture's tokens stand at its rows and columns, text goes on behind the
largest of them (arXiv 2409.12191, 2502.13923).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from clear_dist.models.family import Family, put_features, unwrap
from clear_dist.models.llava import LLAVA
from clear_dist.types import Batch, ImageLayout, UserError


class QwenVL(Family):
    name: ClassVar[str] = "qwen2_5_vl"
    # The tower's blocks have projections of the same names.
    lora_targets: ClassVar[str] = LLAVA.lora_targets

    def image_tokens(self, config: PreTrainedConfig) -> int:
        """1: it stands for as many as ``qwen_layout`` says."""
        return 1

    def image_id(self, config: PreTrainedConfig) -> int | None:
        c: Any = config
        return c.image_token_id

    def embed(self, module: nn.Module, batch: Batch) -> Tensor:
        """As LLaVA's: text-only micro-batches run the tower on a dummy."""
        model: Any = unwrap(module)
        assert batch.pixel_values is not None, "a vision-language batch carries pixels, a zero dummy if it has none"
        embeds: Tensor = model.get_input_embeddings()(batch.input_ids)
        grid = batch.image_inputs["image_grid_thw"].to(embeds.device)
        found = model.model.get_image_features(batch.pixel_values, image_grid_thw=grid, return_dict=True)
        return put_features(embeds, torch.cat(list(found.pooler_output), dim=0), batch.image_slots)

    def rotary(self, position_ids: Tensor, rotary_ids: Tensor | None) -> Tensor:
        """[4, R, L]: places in sequences, by which flash-attention tells them apart, and positions in time, height and
        width, which are all the place where there is no picture."""
        three = position_ids.expand(3, *position_ids.shape) if rotary_ids is None else rotary_ids
        return torch.cat([position_ids[None], three])

    def generation_inputs(self, ids: Tensor, image_id: int | None) -> dict[str, Tensor]:
        return {"mm_token_type_ids": (ids == image_id).int()}

    def decoder(self, module: nn.Module) -> PreTrainedModel:
        model: Any = unwrap(module)
        return model.model.language_model

    def tower(self, module: nn.Module) -> nn.Module:
        model: Any = unwrap(module)
        return model.model.visual

    def projector(self, module: nn.Module) -> nn.Module:
        model: Any = unwrap(module)
        return model.model.visual.merger


QWEN_VL = QwenVL()


def qwen_layout(images: Any, height: int, width: int) -> ImageLayout:
    """What a picture takes, by the image processor's own settings.

    Raises UserError: a picture more than 200 times as long as it is wide, which the library refuses.
    """
    patch, merge = images.patch_size, images.merge_size
    try:
        tall, wide = smart_resize(
            height,
            width,
            factor=patch * merge,
            min_pixels=images.size["shortest_edge"],
            max_pixels=images.size["longest_edge"],
        )
    except ValueError as error:
        raise UserError(
            f"a picture of {height} x {width} pixels is too narrow for this model ({error}); crop it or leave it out"
        ) from error
    rows, columns = tall // patch, wide // patch
    return ImageLayout(
        tokens=rows * columns // merge**2,
        patches=rows * columns,
        inputs={"image_grid_thw": (1, rows, columns)},
        grid=(rows // merge, columns // merge),
    )


def patch_shape(config: PreTrainedConfig) -> tuple[int]:
    """The width of a row of ``pixel_values``: channels x frames x height x width of a patch."""
    v: Any = config.vision_config  # type: ignore[attr-defined]
    return (v.in_channels * v.temporal_patch_size * v.patch_size**2,)
