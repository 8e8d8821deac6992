"""What other code runs under the same names (``--preset clear_code``, ``--preset tofu``), so that both can be compared.

CLEAR's public code differs from CLEAR's equations in ways that changed published tables; none of it is recommended.
"""

from __future__ import annotations

from .hidden import match, misdirect
from .objective import Objective
from .preference import npo
from .terms import FORGET, IDK, RETAIN, kl, nll, vocabulary_npo, weighted


def idk_clear_code() -> Objective:
    """The public CLEAR code formats its IDK items with the true answers."""
    return nll(RETAIN) + nll(FORGET)


def dpo_clear_code() -> Objective:
    """The public CLEAR code overwrites its DPO with a plain IDK loss."""
    return nll(RETAIN) + nll(IDK)


def npo_clear_code(beta: float = 0.1) -> Objective:
    """The public CLEAR code averages over the vocabulary and over all positions instead of scoring the answer."""
    return vocabulary_npo(FORGET, beta=beta)


def kl_clear_code(alpha: float = 1.0) -> Objective:
    """The public CLEAR code's KL runs over prompt and image tokens too."""
    return alpha * kl(RETAIN, tokens="sequence") - nll(FORGET)


def scrub_clear_code(alpha: float = 1.0, gamma: float = 1.0) -> Objective:
    """The public CLEAR code's KLs run over prompt and image tokens too."""
    stay = alpha * kl(RETAIN, direction="forward", tokens="sequence") + gamma * nll(RETAIN)
    return stay - kl(FORGET, direction="forward", tokens="sequence")


def llmu_clear_code(idk_weight: float = 1.0, kl_retain: float = 1.0) -> Objective:
    """The public CLEAR code's KL runs over prompt and image tokens too."""
    return idk_weight * nll(IDK) - nll(FORGET) + kl_retain * kl(RETAIN, tokens="sequence")


def rmu_clear_code(layer: int = 7, c: float = 6.5, alpha: float = 1.0, layers: int = 3) -> Objective:
    """The public CLEAR code draws the control vector anew and normalises it over the whole batch."""
    push = misdirect(FORGET, layer=layer, scale=c, average=True, images=True, control="redrawn")
    stay = match(RETAIN, layer=layer, average=True, images=True)
    trained = tuple(range(max(0, int(layer) - int(layers) + 1), int(layer) + 1))
    return (push + alpha * stay).training(trained)


def gd_tofu(retain_weight: float = 1.0) -> Objective:
    """TOFU (arXiv 2401.06121): one mean over all answer tokens."""
    return retain_weight * nll(RETAIN, reduction="token") - nll(FORGET, reduction="token")


def kl_tofu(alpha: float = 1.0) -> Objective:
    """TOFU (arXiv 2401.06121): forward KL, one mean over all tokens, the prompt's included."""
    stay = kl(RETAIN, direction="forward", reduction="token", tokens="sequence")
    return alpha * stay - nll(FORGET, reduction="token")


def npo_tofu(beta: float = 0.1, retain_weight: float = 1.0) -> Objective:
    """NPO as published on TOFU (arXiv 2404.05868): beta 0.1, with a retain term."""
    return npo(FORGET, beta=beta) + weighted(retain_weight, nll(RETAIN, reduction="token"))
