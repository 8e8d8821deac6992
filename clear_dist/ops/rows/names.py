"""Statistics of a row of logits: their order, which is that of a kernel's bits, and what they need.

One table for Python, Triton and ``csrc/rows.h``; a test holds the three together.
"""

from __future__ import annotations

from collections.abc import Collection

SINGLE, PAIR, DIFFERENCE = 0, 1, 2  # what the two matrices of logits are: see ``rows.row_stats``
IGNORE = -100  # a target that says: this row is not scored
STATE = 8  # numbers a row's gradient needs of it: see ``rows.row_stats``

LOGP, LOG1MP, TOP1, ENTROPY, LOGP_REF, LOG1MP_REF, ENTROPY_REF = 0, 1, 2, 3, 4, 5, 6
LOG_RATIO, CROSS_REST, KL_FORWARD, KL_REVERSE, JS, NPO_VOCAB = 7, 8, 9, 10, 11, 12
NAMES: tuple[str, ...] = (
    "logp",
    "log1mp",
    "top1",
    "entropy",
    "logp_ref",
    "log1mp_ref",
    "entropy_ref",
    "log_ratio",
    "cross_rest",
    "kl_forward",
    "kl_reverse",
    "js",
    "npo_vocab",
)
# The gradient of these is zero or asked of nobody.
CONSTANT: frozenset[str] = frozenset({"top1", "logp_ref", "log1mp_ref", "entropy_ref"})
OF_ONE: frozenset[str] = frozenset({"logp", "log1mp", "top1", "entropy"})  # all others compare two distributions


def bits(want: Collection[str]) -> int:
    """The kernel's mask of statistics."""
    return sum(1 << NAMES.index(name) for name in want)
