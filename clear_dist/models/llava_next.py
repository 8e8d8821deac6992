"""LLaVA-NeXT: pictures seen whole and in patches at their own resolution (``LlavaNextForConditionalGeneration``).

A picture of any size is fitted into the best of a few resolutions, cut into patches as large as the tower's input, and
read patch by patch beside a small copy of the whole. Features of the patches are laid out as the picture, what was
padding is cut off, and every row ends with one learned vector. The number of tokens follows from the picture's size.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.image_processing_utils import select_best_resolution

from clear_dist.models.family import Family, put_features, unwrap
from clear_dist.models.llava import LLAVA
from clear_dist.types import Batch, ImageLayout, UserError


class LlavaNext(Family):
    name: ClassVar[str] = "llava_next"
    lora_targets: ClassVar[str] = LLAVA.lora_targets

    def image_tokens(self, config: PreTrainedConfig) -> int:
        """1: it stands for as many as ``next_layout`` says."""
        return 1

    def image_id(self, config: PreTrainedConfig) -> int | None:
        c: Any = config
        return c.image_token_index

    def embed(self, module: nn.Module, batch: Batch) -> Tensor:
        """As LLaVA's: text-only micro-batches run the tower on a dummy."""
        model: Any = unwrap(module)
        assert batch.pixel_values is not None, "a vision-language batch carries pixels, a zero dummy if it has none"
        embeds: Tensor = model.get_input_embeddings()(batch.input_ids)
        found = model.model.get_image_features(
            pixel_values=batch.pixel_values.to(model.model.vision_tower.dtype),
            image_sizes=batch.image_inputs["image_sizes"],
            return_dict=True,
        )
        return put_features(embeds, torch.cat(list(found.pooler_output), dim=0), batch.image_slots)

    def decoder(self, module: nn.Module) -> PreTrainedModel:
        model: Any = unwrap(module)
        return model.model.language_model

    def tower(self, module: nn.Module) -> nn.Module:
        model: Any = unwrap(module)
        return model.model.vision_tower


LLAVA_NEXT = LlavaNext()


def next_layout(config: PreTrainedConfig, height: int, width: int) -> ImageLayout:
    """What a picture takes: (rows + 1 per row) of its patches' tokens without padding, and the tokens of the whole.

    The padding that is cut off is that of ``unpad_image`` in transformers, with its rounding.
    """
    c: Any = config
    side = c.vision_config.image_size
    across = side // c.vision_config.patch_size  # tokens along one side of a patch
    best: Any = select_best_resolution((height, width), c.image_grid_pinpoints)
    down, right = best[0] // side, best[1] // side
    rows, columns = down * across, right * across
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(round(height * (columns / width), 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(width * (rows / height), 7))) // 2)
    return ImageLayout(
        tokens=rows * (columns + 1) + across**2, patches=1 + down * right, inputs={"image_sizes": (height, width)}
    )


def check_next(config: PreTrainedConfig) -> None:
    """Raises UserError: a tower or settings whose number of tokens a picture is not known."""
    c: Any = config
    side, patch = c.vision_config.image_size, c.vision_config.patch_size
    if LLAVA.image_tokens(config) != (side // patch) ** 2:
        raise UserError(
            f"config.json: vision_feature_select_strategy {c.vision_feature_select_strategy!r} leaves another number "
            f"of tokens than the {(side // patch) ** 2} patches of the tower, so they cannot be laid out as a picture; "
            "set it to 'default' for a tower with a CLS token (CLIP), to 'full' for one without"
        )
    if bad := [p for p in c.image_grid_pinpoints if p[0] % side or p[1] % side]:
        raise UserError(
            f"config.json: image_grid_pinpoints has {list(bad[0])}, no multiple of the tower's image_size {side}"
        )
