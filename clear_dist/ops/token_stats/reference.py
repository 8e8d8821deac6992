"""Per-token statistics in plain PyTorch: the definition every other implementation meets.

T scored tokens, D hidden size, V vocabulary; p the student's distribution, q the reference's.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rows.names import IGNORE
from .names import HIDDEN_STATISTICS, compares, npo_vocab_beta


def token_stats_reference(
    h_TD: Tensor,
    weight_VD: Tensor | None,
    y_T: Tensor | None,
    h_ref_TD: Tensor | None,
    weight_ref_VD: Tensor | None,
    want: Collection[str],
    *,
    u_TR: Tensor | None = None,
    b_VR: Tensor | None = None,
    product: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """See :func:`clear_dist.ops.token_stats`: logits of all tokens at once, everything in at least fp32.

    product: the precision logits are formed in; the head's own gives what plain code gives, rounding included.
    """
    out: dict[str, Tensor] = {}
    if HIDDEN_STATISTICS & set(want):
        assert h_ref_TD is not None
        out |= _of_hidden(h_TD, h_ref_TD.detach(), want)
    left = set(want) - HIDDEN_STATISTICS
    if not left:
        return out
    assert weight_VD is not None
    z_TV = _logits(h_TD, weight_VD, product)
    if u_TR is not None and b_VR is not None:
        z_TV = z_TV + _logits(u_TR, b_VR, product)
    z_ref_TV: Tensor | None = None
    if any(map(compares, left)):
        assert h_ref_TD is not None
        with torch.no_grad():
            z_ref_TV = _logits(h_ref_TD, weight_VD if weight_ref_VD is None else weight_ref_VD, product)
    return out | logits_stats_reference(z_TV, z_ref_TV, y_T, left)


def logits_stats_reference(
    z_TV: Tensor, z_ref_TV: Tensor | None, y_T: Tensor | None, want: Collection[str]
) -> dict[str, Tensor]:
    """The same statistics from logits. Rows whose target is IGNORE give 0, and no gradient."""
    scored_T: Tensor | None = None
    if y_T is not None:
        scored_T = y_T != IGNORE
        y_T = y_T.where(scored_T, 0)
        # Before, not only after: what is not scored may hold anything, and 0 times NaN is NaN.
        z_TV = z_TV.where(scored_T[:, None], 0.0)
        z_ref_TV = None if z_ref_TV is None else z_ref_TV.where(scored_T[:, None], 0.0)
    out: dict[str, Tensor] = {}
    logq_TV: Tensor | None = None
    left = set(want)
    if z_ref_TV is not None and any(map(compares, left)):
        with torch.no_grad():
            logq_TV = _at_least_fp32(z_ref_TV).log_softmax(-1)
            out |= _of_reference(logq_TV, y_T, left)
        left -= out.keys()
    if left:  # else the student's logits are not looked at
        logp_TV = _at_least_fp32(z_TV).log_softmax(-1)
        if y_T is not None:
            out |= _of_target(logp_TV, y_T, left)
        if "entropy" in left:
            out["entropy"] = -(logp_TV.exp() * logp_TV).sum(-1)
        if logq_TV is not None:
            out |= _of_both(logp_TV, logq_TV, y_T, left)
    if scored_T is None:
        return out
    return {name: x.where(scored_T, 0.0) for name, x in out.items()}


def _of_hidden(h_TD: Tensor, h_ref_TD: Tensor, want: Collection[str]) -> dict[str, Tensor]:
    h_TD, h_ref_TD = _at_least_fp32(h_TD), _at_least_fp32(h_ref_TD)
    out: dict[str, Tensor] = {}
    if "cosine" in want:
        out["cosine"] = F.cosine_similarity(h_TD, h_ref_TD, dim=-1, eps=1e-8)
    if "l2" in want:
        out["l2"] = (h_TD - h_ref_TD).square().sum(-1)
    return out


def _of_reference(logq_TV: Tensor, y_T: Tensor | None, want: Collection[str]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    if y_T is not None and "logp_ref" in want:
        out["logp_ref"] = logq_TV.gather(1, y_T[:, None])[:, 0]
    if y_T is not None and "log1mp_ref" in want:
        out["log1mp_ref"] = _log1m(logq_TV, y_T)
    if "entropy_ref" in want:
        out["entropy_ref"] = -(logq_TV.exp() * logq_TV).sum(-1)
    return out


def _of_target(logp_TV: Tensor, y_T: Tensor, want: Collection[str]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    logp_T = logp_TV.gather(1, y_T[:, None])[:, 0]
    if "logp" in want:
        out["logp"] = logp_T
    if "log1mp" in want:
        out["log1mp"] = _log1m(logp_TV, y_T)
    if "top1" in want:
        out["top1"] = (logp_TV.detach().amax(-1) <= logp_T.detach()).to(logp_TV.dtype)
    return out


def _log1m(logp_TV: Tensor, y_T: Tensor) -> Tensor:
    """[T] log(1 - p(y)) = log sum_{v != y} e^z_v - log sum_v e^z_v = log sigmoid(log sum_{v != y} p_v - log p_y): exact
    at both ends, where 1 - p rounds to 0 and where it rounds to 1."""
    others_T = logp_TV.scatter(1, y_T[:, None], -math.inf).logsumexp(-1)
    return F.logsigmoid(others_T - logp_TV.gather(1, y_T[:, None])[:, 0])


def _of_both(logp_TV: Tensor, logq_TV: Tensor, y_T: Tensor | None, want: Collection[str]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    if y_T is not None and "log_ratio" in want:
        out["log_ratio"] = (logp_TV - logq_TV).gather(1, y_T[:, None])[:, 0]
    if y_T is not None and "cross_rest" in want:
        rest_TV = logq_TV.scatter(1, y_T[:, None], -math.inf).softmax(-1)
        out["cross_rest"] = -(rest_TV * logp_TV).sum(-1)
    if "kl_forward" in want:
        out["kl_forward"] = (logq_TV.exp() * (logq_TV - logp_TV)).sum(-1)
    if "kl_reverse" in want:
        out["kl_reverse"] = (logp_TV.exp() * (logp_TV - logq_TV)).sum(-1)
    if "js" in want:
        mean_TV = torch.logaddexp(logp_TV, logq_TV) - math.log(2.0)
        student_T = (logp_TV.exp() * (logp_TV - mean_TV)).sum(-1)
        reference_T = (logq_TV.exp() * (logq_TV - mean_TV)).sum(-1)
        out["js"] = (student_T + reference_T) / 2
    for name in want:
        beta = npo_vocab_beta(name)
        if beta is not None:
            out[name] = (2.0 / beta) * F.softplus(beta * (logp_TV - logq_TV)).mean(-1)
    return out


def _logits(h_TD: Tensor, weight_VD: Tensor, product: torch.dtype | None) -> Tensor:
    """[T, V]. In at least fp32: a KL divergence of 16-bit logits has a wrong gradient where it is small."""
    kind = torch.promote_types(torch.promote_types(h_TD.dtype, weight_VD.dtype), torch.float32)
    return h_TD.to(product or kind) @ weight_VD.t().to(product or kind)


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
