"""A loaded model together with all that is needed to use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from clear_dist.models.family import FLASH, Family
from clear_dist.models.info import ModelInfo
from clear_dist.models.lora_joint import Pairs
from clear_dist.models.processor import TokenProcessor


@dataclass
class Model:
    """module: the transformers model, plain or (later) wrapped by PEFT. info: what its files said. beneath: the
    adapter it was loaded with, whether merged or not.
    """

    module: nn.Module
    processor: TokenProcessor
    family: Family
    info: ModelInfo
    beneath: Pairs = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def shares_prefixes(self) -> bool:
        """Whether questions packed behind one picture may share it: not with flash-attention, which needs the
        ``varlen`` layout."""
        config: Any = self.family.decoder(self.module).config
        return config._attn_implementation != FLASH
