"""Sizes that losses are normalised by: those of the whole global batch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Totals:
    """One view in the whole global batch (all ranks, all accumulation steps): examples, scored tokens, and tokens of
    whole sequences."""

    examples: int
    tokens: int
    sequence: int = 0
