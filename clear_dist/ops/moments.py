"""Mean and spread of a model's log-probabilities under its own distribution, token by token.

    mean_t = sum_z p_t(z) log p_t(z)        std_t = sqrt(sum_z p_t(z) (log p_t(z) - mean_t)^2)

Min-K%++ (arXiv 2404.02936) calibrates a token's log-probability by them. Only true answers are asked, once an
evaluation, so there is one implementation, in plain torch, in chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 512  # tokens whose [CHUNK, V] fp32 logits are held at once


@torch.no_grad()
def logp_moments(h_TD: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [T], std [T]), fp32, natural logarithms; no gradient.

    Args:
        h_TD: hidden states below the head, any floating dtype.
        weight_VD: the head's matrix; logits are formed in its dtype's products, fp32 sums.

    Raises ValueError where the shapes do not fit.
    """
    if h_TD.ndim != 2 or weight_VD.ndim != 2 or h_TD.shape[1] != weight_VD.shape[1]:
        raise ValueError(f"h_TD {tuple(h_TD.shape)} and weight_VD {tuple(weight_VD.shape)}: expected [T, D] and [V, D]")
    means, stds = [], []
    for part in h_TD.split(CHUNK):
        logp = (part @ weight_VD.T).float().log_softmax(-1)
        p = logp.exp()
        # A ruled-out token has p = 0 and log p = -inf; their product is 0, not NaN.
        mean = torch.where(p > 0, p * logp, 0.0).sum(-1, keepdim=True)
        spread = torch.where(p > 0, p * (logp - mean).square(), 0.0).sum(-1)
        means.append(mean[:, 0])
        stds.append(spread.sqrt())
    empty = h_TD.new_zeros(0, dtype=torch.float32)
    return torch.cat([*means, empty]), torch.cat([*stds, empty])
