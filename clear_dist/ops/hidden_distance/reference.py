"""Squared distance of hidden states to a target in plain PyTorch: the definition every other implementation meets.

M rows, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hidden_distance_reference(h_MD: Tensor, target: Tensor) -> Tensor:
    """See :func:`clear_dist.ops.hidden_distance`. Difference and sum in at least fp32."""
    wide = torch.promote_types(h_MD.dtype, torch.float32)
    return (h_MD.to(wide) - target.detach().to(wide)).square().sum(-1)
