"""Per-token statistics of a language-model head in plain PyTorch: the definition every other implementation meets.

T scored tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor


def token_stats_reference(
    h_TD: Tensor,
    weight_VD: Tensor,
    y_T: Tensor,
    h_ref_TD: Tensor | None,
    weight_ref_VD: Tensor | None,
    want: Collection[str],
) -> dict[str, Tensor]:
    """See :func:`clear_dist.ops.token_stats`. Logits and all reductions in fp32."""
    logp_TV = (h_TD @ weight_VD.t()).float().log_softmax(-1)
    out: dict[str, Tensor] = {}
    if "logp" in want:
        out["logp"] = logp_TV.gather(1, y_T[:, None])[:, 0]
    if "entropy" in want:
        out["entropy"] = -(logp_TV.exp() * logp_TV).sum(-1)
    if h_ref_TD is None:
        return out

    with torch.no_grad():
        head_ref = weight_VD if weight_ref_VD is None else weight_ref_VD
        logp_ref_TV = (h_ref_TD @ head_ref.t()).float().log_softmax(-1)
    if "logp_ref" in want:
        out["logp_ref"] = logp_ref_TV.gather(1, y_T[:, None])[:, 0]
    if "kl_forward" in want:
        out["kl_forward"] = (logp_ref_TV.exp() * (logp_ref_TV - logp_TV)).sum(-1)
    if "kl_reverse" in want:
        out["kl_reverse"] = (logp_TV.exp() * (logp_TV - logp_ref_TV)).sum(-1)
    if "js" in want:
        mean_TV = torch.logaddexp(logp_TV, logp_ref_TV) - math.log(2.0)
        student = (logp_TV.exp() * (logp_TV - mean_TV)).sum(-1)
        reference = (logp_ref_TV.exp() * (logp_ref_TV - mean_TV)).sum(-1)
        out["js"] = (student + reference) / 2
    return out
