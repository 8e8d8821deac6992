"""Statistics of given logits in plain PyTorch: the same definitions as ``token_stats``'s, by the same code."""

from __future__ import annotations

from torch import Tensor

from ..token_stats.reference import logits_stats_reference


def logits_logp_reference(z_TV: Tensor, y_T: Tensor) -> Tensor:
    """See :func:`clear_dist.ops.logits_logp`."""
    return logits_stats_reference(z_TV, None, y_T, {"logp"})["logp"]


def logits_kl_reference(z_TV: Tensor, z_ref_TV: Tensor, statistic: str) -> Tensor:
    """See :func:`clear_dist.ops.logits_kl`; ``statistic`` is ``kl_forward``, ``kl_reverse`` or ``js``."""
    return logits_stats_reference(z_TV, z_ref_TV, None, {statistic})[statistic]


def vocab_npo_reference(z_TV: Tensor, z_ref_TV: Tensor, beta: float) -> Tensor:
    """See :func:`clear_dist.ops.vocab_npo`."""
    name = f"npo_vocab({beta!r})"
    return logits_stats_reference(z_TV, z_ref_TV, None, {name})[name]
