"""Ops: one public function each, with interchangeable implementations (``impl=``).

All return per-token (or per-row) fp32 numbers and are differentiable; a loss is then a few lines of plain PyTorch.
"""

from .dispatch import Impl, SlowPath, available
from .hidden_distance import control_noise, control_vector, hidden_distance
from .l1_norm import l1_add_grad_, l1_norm
from .linear import linear_kl, linear_log_ratio, linear_logp
from .logits import logits_kl, logits_logp, vocab_npo
from .token_stats import (
    HIDDEN_STATISTICS,
    NEEDS_REFERENCE,
    STATISTICS,
    TARGET_STATISTICS,
    HeadAdapter,
    npo_vocab_beta,
    token_stats,
)

__all__ = [
    "HIDDEN_STATISTICS",
    "NEEDS_REFERENCE",
    "STATISTICS",
    "TARGET_STATISTICS",
    "HeadAdapter",
    "Impl",
    "SlowPath",
    "available",
    "control_noise",
    "control_vector",
    "hidden_distance",
    "l1_add_grad_",
    "l1_norm",
    "linear_kl",
    "linear_log_ratio",
    "linear_logp",
    "logits_kl",
    "logits_logp",
    "npo_vocab_beta",
    "token_stats",
    "vocab_npo",
]
