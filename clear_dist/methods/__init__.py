"""Unlearning methods as equations over per-token statistics; pure PyTorch on [T] tensors."""

from .objective import Needs, Objective, Penalty, Sum, Term, Until, Weighted
from .parser import parse_objective
from .table import METHODS, build, hyperparameters
from .terms import FORGET, IDK, RETAIN, entropy, kl, l1, nll, npo

__all__ = [
    "FORGET",
    "IDK",
    "METHODS",
    "RETAIN",
    "Needs",
    "Objective",
    "Penalty",
    "Sum",
    "Term",
    "Until",
    "Weighted",
    "build",
    "entropy",
    "hyperparameters",
    "kl",
    "l1",
    "nll",
    "npo",
    "parse_objective",
]
