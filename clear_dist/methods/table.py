"""METHODS: every method is its equation. One screen, top to bottom.

Sources: CLEAR, arXiv 2410.18057, appendix A, unless a line says otherwise. ``FORGET`` prompts with "I don't know"
answers are the view ``IDK``. Hyperparameters are keyword arguments, overridable with ``--set name=value``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from .objective import Objective, Until
from .terms import FORGET, IDK, RETAIN, kl, nll, npo

Method = Callable[..., Objective]


def retain_ft() -> Objective:
    """Fine-tune on the retain set and hope that the rest fades."""
    return nll(RETAIN)


def ga() -> Objective:
    """Gradient ascent on the forget set."""
    return -nll(FORGET)


def gd(retain_weight: float = 1.0) -> Objective:
    """Gradient difference (eq. 1)."""
    return retain_weight * nll(RETAIN) - nll(FORGET)


def kl_min(retain_weight: float = 1.0) -> Objective:
    """Ascent on forget, KL to the original on retain (the printed formula indexes the forget set; text and code
    say retain, which is right)."""
    return retain_weight * kl(RETAIN) - nll(FORGET)


def idk(retain_weight: float = 1.0) -> Objective:
    """Teach "I don't know" on the forget prompts."""
    return retain_weight * nll(RETAIN) + nll(IDK)


def npo_(beta: float = 1.0, retain_weight: float = 0.0, kl_weight: float = 0.0) -> Objective:
    """Negative preference optimisation; retain terms off as in CLEAR, on as most users want them."""
    objective = npo(FORGET, beta=beta)
    if retain_weight:
        objective = objective + retain_weight * nll(RETAIN)
    if kl_weight:
        objective = objective + kl_weight * kl(RETAIN, direction="forward")
    return objective


def scrub(alpha: float = 1.0, gamma: float = 1.0, forget_until: float = 1.0) -> Objective:
    """Stay with the teacher on retain, move away from it on forget.

    ``forget_until`` < 1 stops the moving away after that fraction of training (the alternation of the original
    method, arXiv 2302.09880, ends with repair steps only)."""
    away = kl(FORGET, direction="forward")
    if forget_until < 1:
        away = away * Until(forget_until)
    return alpha * kl(RETAIN, direction="forward") - away + gamma * nll(RETAIN)


METHODS: dict[str, Method] = {
    "retain_ft": retain_ft,
    "ga": ga,
    "gd": gd,
    "kl": kl_min,
    "idk": idk,
    "npo": npo_,
    "scrub": scrub,
}


def build(name: str, settings: Mapping[str, float] | None = None) -> Objective:
    """The objective of a method, with hyperparameters overridden.

    Raises:
        KeyError: unknown method; TypeError: unknown hyperparameter. The recipes turn both into messages that
        name the nearest valid one.
    """
    return METHODS[name](**dict(settings or {}))


def hyperparameters(name: str) -> dict[str, float]:
    """Hyperparameter -> default of a method."""
    return {k: p.default for k, p in inspect.signature(METHODS[name]).parameters.items()}
