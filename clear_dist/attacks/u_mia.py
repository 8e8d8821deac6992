"""U-MIA: one classifier for all examples, told by the logit alone whether a model forgot or never saw one.

    score = a + b l,  (a, b) = argmin 1/2 mean_f log(1 + e^-score) + 1/2 mean_n log(1 + e^score) + RIDGE/2 b'^2

a logistic regression over the shadow logits of all examples together, either side weighing the same; b' is the slope
per standard deviation of the logits. A target counts as one that forgot where the score is above 0. CLEAR, section 5.2
(arXiv 2410.18057), after Kurmanji et al. 2023 (arXiv 2302.09880). The ridge is there because separable data have no
steepest slope; on any other it does not show. Fitted by Newton's method in float64, for every fold anew.

Deviation: of more than SUPPORT different logits, the fit sees each in one of SUPPORT equally full bins, at the mean of
its bin. That moves a threshold by less than a bin's width, and makes a thousand refits cheap. Targets are scored as
they are.

Legend: F, U models of either side, E examples, B points of support, K folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clear_dist.attacks.logits import Draw, Floats, Ints, Logits
from clear_dist.attacks.u_lira import Scores

RIDGE = 1e-6
SUPPORT = 4096
_STEPS, _HALVINGS, _TOLERANCE, _ROUNDING = 100, 30, 1e-10, 1e-14


@dataclass(frozen=True)
class Pooled:
    """Where logits lie, and how often a model has one there.

    support: [B] standardised logits, centre and scale: how they were; forgotten, never: [F, B], [U, B] counts.
    start: [K, 2] where the fit of a fold begins; it decides how long that takes, not where it ends.
    """

    support: Floats
    centre: float
    scale: float
    forgotten: NDArray[np.float32]
    never: NDArray[np.float32]
    start: Floats


def pool(logits: Logits) -> Pooled:
    """Count the logits of every model; done once for all draws of a bootstrap."""
    both = np.concatenate([logits.forgotten.ravel(), logits.never.ravel()])
    values = np.sort(both[~np.isnan(both)])
    points = np.unique(values)
    if points.size > SUPPORT:  # the upper edges of equally full bins
        points = np.unique(values[np.linspace(0, values.size - 1, SUPPORT + 1).round().astype(np.int64)[1:]])
    place = np.searchsorted(points, values)
    support = np.bincount(place, weights=values, minlength=points.size) / np.bincount(place, minlength=points.size)
    centre, scale = float(values.mean()), max(float(values.std()), 1e-9)
    f, n = _count(logits.forgotten, points), _count(logits.never, points)
    unfitted = Pooled((support - centre) / scale, centre, scale, f, n, np.zeros((logits.folds, 2)))
    start = [np.zeros(2) if c is None else c for c in _fits(unfitted, logits, _everyone(logits))]
    return Pooled(unfitted.support, centre, scale, f, n, np.array(start))


def _count(values: Floats, points: Floats) -> NDArray[np.float32]:
    """[M, E] -> [M, B]: how many of a model's logits lie at a point or between it and the one before."""
    out = np.zeros((len(values), points.size), dtype=np.float32)  # whole numbers, exact
    for row, mine in enumerate(values):
        out[row] = np.bincount(np.searchsorted(points, mine[~np.isnan(mine)]), minlength=points.size)
    return out


def scores(logits: Logits, pooled: Pooled | None = None, draw: Draw | None = None) -> Scores:
    """The score of every target, by a classifier of the other folds' shadows.

    Args:
        pooled: ``pool`` of the logits, or, with a ``draw``, of those it was taken from; made here if absent.
        draw: which of the pooled models ``logits`` holds.

    NaN where a logit is, and (in a bootstrap draw) where a side has no shadows left.
    """
    assert pooled is not None or draw is None
    known, models = pool(logits) if pooled is None else pooled, _everyone(logits) if draw is None else draw
    out = Scores(np.full_like(logits.forgotten, np.nan), np.full_like(logits.never, np.nan))
    for k, found in enumerate(_fits(known, logits, models)):
        if found is None:
            continue
        slope = found[1] / known.scale
        offset = found[0] - slope * known.centre
        for target, fold, values in (
            (out.forgotten, logits.fold_f, logits.forgotten),
            (out.never, logits.fold_n, logits.never),
        ):
            target[fold == k] = offset + slope * values[fold == k]
    return out


def _everyone(logits: Logits) -> Draw:
    return Draw(np.arange(len(logits.forgotten)), np.arange(len(logits.never)))


def _fits(pooled: Pooled, logits: Logits, models: Draw) -> list[Floats | None]:
    """(a, b') of every fold from the shadows of the others; None where a side has none."""
    f = _by_fold(pooled.forgotten, models.rows_f, logits.fold_f, logits.folds)
    n = _by_fold(pooled.never, models.rows_n, logits.fold_n, logits.folds)
    all_f, all_n = f.sum(axis=0), n.sum(axis=0)
    return [_fit(pooled.support, all_f - f[k], all_n - n[k], pooled.start[k]) for k in range(logits.folds)]


def _by_fold(counts: NDArray[np.float32], rows: Ints, fold: Ints, folds: int) -> Floats:
    """Counts [M, B] of the models in ``rows`` [R], added up by their ``fold`` [R]: [K, B]."""
    times = np.zeros((folds, len(counts)), dtype=np.float32)
    np.add.at(times, (fold, rows), 1)
    return (times @ counts).astype(np.float64)


def _fit(x: Floats, forgotten: Floats, never: Floats, start: Floats) -> Floats | None:
    """Newton's method with halved steps: a full step may overshoot where the data are nearly separable."""
    if not forgotten.any() or not never.any():
        return None
    f, n = forgotten / (2 * forgotten.sum()), never / (2 * never.sum())
    both, found = f + n, start
    loss, p = _loss(x, f, n, found)
    for _ in range(_STEPS):
        residual, curvature = both * p - f, both * p * (1 - p)
        slope_x = residual @ x + RIDGE * found[1]
        gradient = np.array([residual.sum(), slope_x])
        if np.abs(gradient).max() < _TOLERANCE:
            break
        h0, h1 = curvature.sum(), curvature @ x
        hessian = np.array([[h0 + RIDGE * RIDGE, h1], [h1, curvature @ (x * x) + RIDGE]])
        step = np.linalg.solve(hessian, gradient)
        for _ in range(_HALVINGS):
            tried_loss, tried_p = _loss(x, f, n, found - step)
            if tried_loss <= loss + _ROUNDING:
                break
            step = step / 2
        else:
            break  # no step gets lower: this is the end as far as float64 goes
        found, loss, p = found - step, tried_loss, tried_p
    return found


def _loss(x: Floats, f: Floats, n: Floats, at: Floats) -> tuple[float, Floats]:
    """Loss, and the probability of "forgot" at every point."""
    z = at[0] + at[1] * x
    small = np.exp(-np.abs(z))
    rest = np.log1p(small)
    p = np.where(z >= 0, 1.0, small) / (1 + small)
    loss = f @ (np.maximum(-z, 0) + rest) + n @ (np.maximum(z, 0) + rest) + RIDGE / 2 * at[1] ** 2
    return float(loss), p
