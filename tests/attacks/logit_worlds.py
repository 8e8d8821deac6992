"""Made-up logits of an attack: per example a normal distribution, d standard deviations apart between the sides."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from clear_dist.attacks.logits import Logits, cut


def world(
    d: float,
    *,
    models: int = 32,
    examples: int = 40,
    shared: float = 0.0,
    folds: int = 5,
    seed: int = 0,
) -> Logits:
    """``models`` a side, blocks of one model each. shared: the part of the variance that all examples of a model have
    in common: what makes one model more or less sure than another."""
    rng = np.random.default_rng(seed)
    centre = 2 * rng.normal(size=examples)

    def side(shift: float) -> NDArray[np.float64]:
        own, common = rng.normal(size=(models, examples)), rng.normal(size=(models, 1))
        return centre + shift + math.sqrt(1 - shared) * own + math.sqrt(shared) * common

    return cut(side(d), side(0.0), np.arange(models), models + np.arange(models), folds=folds, seed=seed)


def halves(pairs: int = 12, examples: int = 6, seed: int = 0, folds: int = 4, shift: float = 1.0) -> Logits:
    """As random_half has it: every model learned a random half of the examples, its partner the other half. NaN where a
    model is not on that side for an example; each block has two models on both sides."""
    rng = np.random.default_rng(seed)
    first = np.argsort(rng.random((pairs, examples)), axis=1) < examples // 2
    learned = np.stack([first, ~first], axis=1).reshape(2 * pairs, examples)
    values = rng.normal(size=learned.shape) + 3 * rng.normal(size=examples)
    block = np.arange(2 * pairs) // 2
    return cut(
        np.where(learned, values + shift, np.nan),
        np.where(learned, np.nan, values),
        block,
        block,
        folds=folds,
        seed=seed,
    )
