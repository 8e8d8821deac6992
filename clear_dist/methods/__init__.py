"""Unlearning methods as equations over per-token statistics; pure PyTorch on [T] tensors."""

from .hidden import cosine, l2, match, misdirect, similarity
from .method import COMMON, VARIANTS, Method, Setting, Variant
from .objective import Needs, Objective, Penalty, Term, Want, Weighted, needs_reference
from .parser import parse_objective
from .preference import dpo, npo, simnpo
from .rules import Conflict, Orthogonal, Sum, UpdateRule
from .schedules import After, Alternate, Until
from .table import METHODS
from .terms import (
    AUGMENTED,
    FORGET,
    GUIDE,
    IDK,
    PRIVATE,
    RANDOM,
    RETAIN,
    SAFE,
    bounded_nll,
    ce_u,
    entropy,
    kl,
    l1,
    nll,
    satimp,
    undial,
    vocabulary_npo,
    wga,
)


def build(name: str, settings: dict[str, Setting] | None = None, variant: Variant = "paper") -> Objective:
    """The objective of a method of the table; see ``Method.build``."""
    return METHODS[name].build(settings, variant)


def hyperparameters(name: str, variant: Variant = "paper") -> dict[str, Setting]:
    """Hyperparameter -> default of a method of the table."""
    return METHODS[name].hyperparameters(variant)


__all__ = [
    "AUGMENTED",
    "COMMON",
    "FORGET",
    "GUIDE",
    "IDK",
    "METHODS",
    "PRIVATE",
    "RANDOM",
    "RETAIN",
    "SAFE",
    "VARIANTS",
    "After",
    "Alternate",
    "Conflict",
    "Method",
    "Needs",
    "Objective",
    "Orthogonal",
    "Penalty",
    "Setting",
    "Sum",
    "Term",
    "Until",
    "UpdateRule",
    "Variant",
    "Want",
    "Weighted",
    "bounded_nll",
    "build",
    "ce_u",
    "cosine",
    "dpo",
    "entropy",
    "hyperparameters",
    "kl",
    "l1",
    "l2",
    "match",
    "misdirect",
    "needs_reference",
    "nll",
    "npo",
    "parse_objective",
    "satimp",
    "similarity",
    "simnpo",
    "undial",
    "vocabulary_npo",
    "wga",
]
