"""LLaVA: a vision tower, a projector and a language model (``LlavaForConditionalGeneration``)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from clear_dist.models.family import Family, put_features, unwrap
from clear_dist.types import Batch, UserError

# Tokens the tower adds before the patches (CLS).
TOWER_EXTRA_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


class Llava(Family):
    name: ClassVar[str] = "llava"
    # Plain ["q_proj", ...] would hit the vision tower too, "all-linear" the projector.
    lora_targets: ClassVar[str] = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    cached_tower: ClassVar[bool] = True

    def image_tokens(self, config: PreTrainedConfig) -> int:
        """Patches, plus CLS where the tower has one, minus the first where the strategy drops it.

        Raises UserError for a tower whose extra tokens are not known.
        """
        c: Any = config
        tower = c.vision_config
        if tower.model_type not in TOWER_EXTRA_TOKENS:
            known = ", ".join(sorted(TOWER_EXTRA_TOKENS))
            raise UserError(f"config.json: vision_config.model_type is {tower.model_type!r}; supported towers: {known}")
        extra = TOWER_EXTRA_TOKENS[tower.model_type]
        return (tower.image_size // tower.patch_size) ** 2 + extra - (c.vision_feature_select_strategy == "default")

    def image_id(self, config: PreTrainedConfig) -> int | None:
        c: Any = config
        return c.image_token_index

    def embed(self, module: nn.Module, batch: Batch) -> Tensor:
        """Every micro-batch runs the tower and the projector, text-only ones on a dummy whose features are
        multiplied by zero: all ranks then run the very same modules, which ZeRO-3 needs. With the tower's features
        given it is the projector alone."""
        model: Any = unwrap(module)
        embeds: Tensor = model.get_input_embeddings()(batch.input_ids)
        if batch.tower_features is not None:
            features = model.model.multi_modal_projector(batch.tower_features).flatten(0, 1)
        else:
            assert batch.pixel_values is not None, "a vision-language batch carries pixels, a zero dummy if it has none"
            features = self.features(module, batch.pixel_values)
        return put_features(embeds, features, batch.image_slots)

    def features(self, module: nn.Module, pixel_values: Tensor) -> Tensor:
        """[P, 3, H, W] -> [P * image_tokens, D], projected to the language model's width."""
        model: Any = unwrap(module).model
        out = model.get_image_features(pixel_values=pixel_values.to(model.vision_tower.dtype), return_dict=True)
        return torch.cat(list(out.pooler_output), dim=0)

    def tower_features(self, module: nn.Module, pixel_values: Tensor) -> Tensor:
        """[P, 3, H, W] -> [P, image_tokens, D_tower]: the selected layers and tokens, as the projector takes them."""
        model: Any = unwrap(module).model
        given: list[Tensor] = []
        handle = model.multi_modal_projector.register_forward_pre_hook(lambda _, args: given.append(args[0]))
        try:
            self.features(module, pixel_values)
        finally:
            handle.remove()
        return given[0]

    def decoder(self, module: nn.Module) -> PreTrainedModel:
        model: Any = unwrap(module)
        return model.model.language_model

    def tower(self, module: nn.Module) -> nn.Module:
        model: Any = unwrap(module)
        return model.model.vision_tower


LLAVA = Llava()
