"""Plain causal language models (``AutoModelForCausalLM``) with a decoder and a linear head."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from clear_dist.models.family import Family, unwrap
from clear_dist.types import Batch


class CausalLM(Family):
    name: ClassVar[str] = "causal_lm"
    # Llama's projections, and the names Phi gives to the same ones.
    lora_targets: ClassVar[str] = (
        r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|qkv_proj|gate_up_proj|dense|fc1|fc2)"
    )

    def image_tokens(self, config: PreTrainedConfig) -> int:
        return 0

    def image_id(self, config: PreTrainedConfig) -> int | None:
        return None

    def embed(self, module: nn.Module, batch: Batch) -> Tensor:
        assert batch.image_slots.numel() == 0, "a text-only model cannot take pictures"
        return unwrap(module).get_input_embeddings()(batch.input_ids)

    def decoder(self, module: nn.Module) -> PreTrainedModel:
        return unwrap(module).get_decoder()


CAUSAL_LM = CausalLM()
