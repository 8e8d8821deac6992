"""Per-token statistics of a language-model head in plain PyTorch: the definition every other implementation meets.

T scored tokens, D hidden size, V vocabulary; p the student's distribution, q the reference's.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from .names import HIDDEN_STATISTICS, compares, npo_vocab_beta


def token_stats_reference(
    h_TD: Tensor,
    weight_VD: Tensor | None,
    y_T: Tensor | None,
    h_ref_TD: Tensor | None,
    weight_ref_VD: Tensor | None,
    logp_ref_T: Tensor | None,
    want: Collection[str],
) -> dict[str, Tensor]:
    """See :func:`clear_dist.ops.token_stats`. Logits and all reductions in at least fp32."""
    out: dict[str, Tensor] = {}
    if HIDDEN_STATISTICS & set(want):
        assert h_ref_TD is not None
        out |= _of_hidden(h_TD, h_ref_TD.detach(), want)
    left = set(want) - HIDDEN_STATISTICS
    if logp_ref_T is not None and "logp_ref" in left:
        out["logp_ref"] = _at_least_fp32(logp_ref_T.detach())
        left.discard("logp_ref")
    if not left:
        return out

    assert weight_VD is not None
    logq_TV: Tensor | None = None
    if any(map(compares, left)):
        assert h_ref_TD is not None
        with torch.no_grad():
            logq_TV = _log_softmax(h_ref_TD, weight_VD if weight_ref_VD is None else weight_ref_VD)
            if "logp_ref" in left:
                assert y_T is not None
                out["logp_ref"] = logq_TV.gather(1, y_T[:, None])[:, 0]
            if "log1mp_ref" in left:
                assert y_T is not None
                out["log1mp_ref"] = _log1m(logq_TV, y_T)
            if "entropy_ref" in left:
                out["entropy_ref"] = -(logq_TV.exp() * logq_TV).sum(-1)
        left -= {"logp_ref", "log1mp_ref", "entropy_ref"}
        if not left:  # the student's logits are not looked at
            return out

    logp_TV = _log_softmax(h_TD, weight_VD)
    if y_T is not None:
        out |= _of_target(logp_TV, y_T, left)
    if "entropy" in left:
        out["entropy"] = -(logp_TV.exp() * logp_TV).sum(-1)
    if logq_TV is not None:
        out |= _of_both(logp_TV, logq_TV, left)
        if "cross_rest" in left:
            assert y_T is not None
            rest_TV = logq_TV.scatter(1, y_T[:, None], -math.inf).softmax(-1)
            out["cross_rest"] = -(rest_TV * logp_TV).sum(-1)
    return out


def _of_hidden(h_TD: Tensor, h_ref_TD: Tensor, want: Collection[str]) -> dict[str, Tensor]:
    h_TD, h_ref_TD = _at_least_fp32(h_TD), _at_least_fp32(h_ref_TD)
    out: dict[str, Tensor] = {}
    if "cosine" in want:
        out["cosine"] = F.cosine_similarity(h_TD, h_ref_TD, dim=-1, eps=1e-8)
    if "l2" in want:
        out["l2"] = (h_TD - h_ref_TD).square().sum(-1)
    return out


def _of_target(logp_TV: Tensor, y_T: Tensor, want: Collection[str]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    logp_T = logp_TV.gather(1, y_T[:, None])[:, 0]
    if "logp" in want:
        out["logp"] = logp_T
    if "log1mp" in want:
        out["log1mp"] = _log1m(logp_TV, y_T)
    if "top1" in want:
        out["top1"] = (logp_TV.detach().argmax(-1) == y_T).to(logp_TV.dtype)
    return out


def _log1m(logp_TV: Tensor, y_T: Tensor) -> Tensor:
    """[T] log(1 - p(y)) = log sum_{v != y} e^z_v - log sum_v e^z_v = log sigmoid(log sum_{v != y} p_v - log p_y): exact
    at both ends, where 1 - p rounds to 0 and where it rounds to 1."""
    others_T = logp_TV.scatter(1, y_T[:, None], -math.inf).logsumexp(-1)
    return F.logsigmoid(others_T - logp_TV.gather(1, y_T[:, None])[:, 0])


def _of_both(logp_TV: Tensor, logq_TV: Tensor, want: Collection[str]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
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


def _log_softmax(h_TD: Tensor, weight_VD: Tensor) -> Tensor:
    """[T, V]; the product in the head's precision, as the model itself would form it, all else in at least fp32."""
    return _at_least_fp32(h_TD.to(weight_VD.dtype) @ weight_VD.t()).log_softmax(-1)


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
