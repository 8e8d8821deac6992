"""Ops: one public function each, with interchangeable implementations (``impl=``)."""

from .hidden_distance import control_noise, control_vector, hidden_distance
from .token_stats import (
    HIDDEN_STATISTICS,
    NEEDS_REFERENCE,
    STATISTICS,
    TARGET_STATISTICS,
    npo_vocab_beta,
    token_stats,
)

__all__ = [
    "HIDDEN_STATISTICS",
    "NEEDS_REFERENCE",
    "STATISTICS",
    "TARGET_STATISTICS",
    "control_noise",
    "control_vector",
    "hidden_distance",
    "npo_vocab_beta",
    "token_stats",
]
