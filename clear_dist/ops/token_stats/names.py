"""The statistics by name: which there are, and what each is computed from."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

# From the student's logits and the target.
TARGET_STATISTICS: frozenset[str] = frozenset({"logp", "log1mp", "top1"})
# From the hidden states alone: no head, no logits.
HIDDEN_STATISTICS: frozenset[str] = frozenset({"cosine", "l2"})
NEEDS_REFERENCE: frozenset[str] = frozenset(
    {
        "logp_ref",
        "log1mp_ref",
        "entropy_ref",
        "log_ratio",
        "cross_rest",
        "kl_forward",
        "kl_reverse",
        "js",
        "cosine",
        "l2",
    }
)
# Of the reference, or of both, and of the target.
TARGET_OF_REFERENCE: frozenset[str] = frozenset({"logp_ref", "log1mp_ref", "log_ratio", "cross_rest"})
# All with a plain name; ``npo_vocab(BETA)`` is a family of its own.
STATISTICS: frozenset[str] = TARGET_STATISTICS | NEEDS_REFERENCE | {"entropy"}

_NPO_VOCAB = re.compile(r"npo_vocab\(([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\)")


def npo_vocab_beta(name: str) -> float | None:
    """``npo_vocab(0.1)`` -> 0.1; None for any other statistic.

    Raises:
        ValueError: a name that starts like it and is not a positive finite number in round brackets.
    """
    if not name.startswith("npo_vocab"):
        return None
    match = _NPO_VOCAB.fullmatch(name)
    beta = float(match[1]) if match else math.nan
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"{name!r}: expected npo_vocab(BETA) with a number > 0, e.g. npo_vocab(0.1)")
    return beta


def compares(name: str) -> bool:
    """Whether a statistic compares the student with the reference model, or is the reference's own."""
    return name in NEEDS_REFERENCE or npo_vocab_beta(name) is not None


def check(want: Collection[str], *, head: bool, target: bool, reference: bool, logp_ref: bool) -> None:
    """Raise ValueError for an unknown statistic, or one whose inputs were not given."""
    unknown = sorted(name for name in want if name not in STATISTICS and npo_vocab_beta(name) is None)
    if unknown:
        raise ValueError(f"unknown statistics {unknown}; known: {[*sorted(STATISTICS), 'npo_vocab(BETA)']}")
    given = {"logp_ref"} if logp_ref else set()  # computed elsewhere, so it needs nothing more
    known = {"logp_ref", "log_ratio"} if logp_ref else set()
    for there, argument, needing in (
        (reference, "h_ref", {n for n in want if compares(n)} - known),
        (target, "y", {n for n in want if n in TARGET_STATISTICS | TARGET_OF_REFERENCE} - given),
        (head, "weight", set(want) - HIDDEN_STATISTICS - given),
    ):
        if needing and not there:
            raise ValueError(f"{sorted(needing)} need {argument}")
