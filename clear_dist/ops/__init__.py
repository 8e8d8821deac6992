"""Ops: one public function each, with interchangeable implementations (``impl=``)."""

from .token_stats import NEEDS_REFERENCE, STATISTICS, token_stats

__all__ = ["NEEDS_REFERENCE", "STATISTICS", "token_stats"]
