"""The L1 norm of many tensors in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def l1_norm_reference(tensors: Sequence[Tensor]) -> Tensor:
    """See :func:`clear_dist.ops.l1_norm`. Sums in at least fp32."""
    wide = [w.to(torch.promote_types(w.dtype, torch.float32)) for w in tensors]
    return torch.stack([w.abs().sum() for w in wide]).sum()


def l1_add_grad_reference(tensors: Sequence[Tensor], grads: Sequence[Tensor], scale: Tensor) -> None:
    """See :func:`clear_dist.ops.l1_add_grad_`."""
    for w, g in zip(tensors, grads, strict=True):
        g.add_((w.sign().to(scale.dtype) * scale).to(g.dtype))
