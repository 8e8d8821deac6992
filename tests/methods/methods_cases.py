"""Every term with its equation: what the tests of values and of gradients go through."""

from __future__ import annotations

from collections.abc import Callable

import methods_calculator as by_hand
from methods_support import World, control, redrawn

from clear_dist.methods import (
    AUGMENTED,
    FORGET,
    GUIDE,
    IDK,
    PRIVATE,
    RETAIN,
    SAFE,
    Objective,
    bounded_nll,
    ce_u,
    cosine,
    dpo,
    entropy,
    kl,
    l2,
    match,
    misdirect,
    nll,
    npo,
    satimp,
    similarity,
    simnpo,
    undial,
    vocabulary_npo,
    wga,
)

Case = tuple[Objective, Callable[[World], float]]


def noise(world: World, scale: float) -> Callable[[int, int], list[float]]:
    """(example, token) -> row of the redrawn noise, drawn for all tokens of the view at once."""
    starts = [sum(len(s.image) for s in world[FORGET][:n]) for n in range(len(world[FORGET]))]
    rows = (scale * redrawn(sum(len(s.image) for s in world[FORGET]))).tolist()
    return lambda n, t: rows[starts[n] + t]


CASES: dict[str, Case] = {
    "nll": (nll(FORGET), lambda w: by_hand.nll(w[FORGET])),
    "nll token": (nll(RETAIN, reduction="token"), lambda w: by_hand.nll_tokens(w[RETAIN])),
    "bounded_nll": (bounded_nll(PRIVATE, ceiling=1.5), lambda w: by_hand.bounded_nll(w[PRIVATE], 1.5)),
    "entropy": (entropy(FORGET), lambda w: by_hand.entropy(w[FORGET])),
    "entropy token": (
        entropy(FORGET, reduction="token"),
        lambda w: by_hand.over_tokens(w[FORGET], by_hand.uncertainty),
    ),
    "kl": (kl(RETAIN), lambda w: by_hand.kl_reverse(w[RETAIN])),
    "kl forward": (kl(GUIDE, direction="forward"), lambda w: by_hand.kl_forward(w[GUIDE])),
    "kl token": (kl(RETAIN, reduction="token"), lambda w: by_hand.over_tokens(w[RETAIN], by_hand.reverse)),
    "kl forward token": (
        kl(RETAIN, direction="forward", reduction="token"),
        lambda w: by_hand.over_tokens(w[RETAIN], by_hand.forward),
    ),
    "kl sequence": (kl(RETAIN, tokens="sequence"), lambda w: by_hand.kl_everywhere(w[RETAIN], "reverse")),
    "kl forward sequence": (
        kl(FORGET, direction="forward", tokens="sequence"),
        lambda w: by_hand.kl_everywhere(w[FORGET], "forward"),
    ),
    "kl forward sequence token": (
        kl(RETAIN, direction="forward", reduction="token", tokens="sequence"),
        lambda w: by_hand.kl_everywhere_tokens(w[RETAIN], "forward"),
    ),
    "npo": (npo(FORGET), lambda w: by_hand.npo(w[FORGET], 1.0)),
    "npo 0.1": (npo(FORGET, beta=0.1), lambda w: by_hand.npo(w[FORGET], 0.1)),
    "dpo": (dpo(IDK, FORGET), lambda w: by_hand.dpo(w[IDK], w[FORGET], 0.1)),
    "dpo safe": (dpo(SAFE, PRIVATE, beta=2.0), lambda w: by_hand.dpo(w[SAFE], w[PRIVATE], 2.0)),
    "simnpo": (simnpo(FORGET), lambda w: by_hand.simnpo(w[FORGET], 2.5, 0.0)),
    "simnpo gamma": (simnpo(FORGET, beta=4.5, gamma=0.7), lambda w: by_hand.simnpo(w[FORGET], 4.5, 0.7)),
    "undial": (undial(FORGET), lambda w: by_hand.undial(w[FORGET], 10.0)),
    "undial 0.5": (undial(FORGET, strength=0.5), lambda w: by_hand.undial(w[FORGET], 0.5)),
    "wga": (wga(FORGET), lambda w: by_hand.wga(w[FORGET], 1.0)),
    "wga 0.3": (wga(FORGET, alpha=0.3), lambda w: by_hand.wga(w[FORGET], 0.3)),
    "satimp": (satimp(FORGET), lambda w: by_hand.satimp(w[FORGET], 5.0, 1.0)),
    "satimp 0 2": (satimp(FORGET, beta1=0.0, beta2=2.0), lambda w: by_hand.satimp(w[FORGET], 0.0, 2.0)),
    "ce_u": (ce_u(FORGET), lambda w: by_hand.ce_u(w[FORGET], 1)),
    "ce_u all": (ce_u(FORGET, skip=0), lambda w: by_hand.ce_u(w[FORGET], 0)),
    "ce_u none": (ce_u(FORGET, skip=4), lambda w: 0.0),
    "misdirect": (
        misdirect(FORGET),
        lambda w: by_hand.misdirect(w[FORGET], 7, lambda n, t: control(scale=6.5), images=False, average=False),
    ),
    "misdirect images average": (
        misdirect(FORGET, layer=1, scale=2.0, average=True, images=True, seed=3),
        lambda w: by_hand.misdirect(w[FORGET], 1, lambda n, t: control(3, 2.0), images=True, average=True),
    ),
    "misdirect redrawn": (
        misdirect(FORGET, control="redrawn", images=True),
        lambda w: by_hand.misdirect(w[FORGET], 7, noise(w, 6.5), images=True, average=False),
    ),
    "match": (match(RETAIN), lambda w: by_hand.match(w[RETAIN], 7, images=False, average=False)),
    "match images average": (
        match(RETAIN, layer=1, images=True, average=True),
        lambda w: by_hand.match(w[RETAIN], 1, images=True, average=True),
    ),
    "l2": (l2(AUGMENTED), lambda w: by_hand.l2(w[AUGMENTED])),
    "cosine": (cosine(RETAIN), lambda w: by_hand.cosine(w[RETAIN])),
    "similarity": (similarity(FORGET), lambda w: by_hand.similarity(w[FORGET])),
    "vocabulary_npo": (vocabulary_npo(FORGET), lambda w: by_hand.vocabulary_npo(w[FORGET], 0.1)),
    "vocabulary_npo 2": (vocabulary_npo(FORGET, beta=2), lambda w: by_hand.vocabulary_npo(w[FORGET], 2.0)),
}
