"""U-MIA against a general optimiser on the logits as they are, and where nothing, or everything, is to be told."""

from __future__ import annotations

import math

import numpy as np
import pytest
from logit_worlds import halves, world
from scipy.optimize import minimize

from clear_dist.attacks import u_mia
from clear_dist.attacks.logits import Logits, cut, draws
from clear_dist.attacks.membership_curve import accuracy, figures


def _by_scipy(logits: Logits, fold: int) -> tuple[float, float]:
    """(a, b) of a fold, from the definition."""
    f, n = logits.forgotten[logits.fold_f != fold].ravel(), logits.never[logits.fold_n != fold].ravel()
    f, n = f[~np.isnan(f)], n[~np.isnan(n)]
    every = np.concatenate([logits.forgotten.ravel(), logits.never.ravel()])
    scale = np.nanstd(every)

    def loss(at: np.ndarray) -> float:
        member, other = at[0] + at[1] * f, at[0] + at[1] * n
        wrong = np.logaddexp(0, -member).mean() + np.logaddexp(0, other).mean()
        return float(wrong / 2 + u_mia.RIDGE / 2 * (at[1] * scale) ** 2)

    found = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-9}).x
    return float(found[0]), float(found[1])


def _line(logits: Logits, fold: int, found: np.ndarray) -> tuple[float, float]:
    """(a, b) back from the scores of a fold's targets."""
    x, y = logits.forgotten[logits.fold_f == fold].ravel(), found[logits.fold_f == fold].ravel()
    slope, offset = np.polyfit(x[~np.isnan(x)], y[~np.isnan(y)], 1)
    return float(offset), float(slope)


@pytest.mark.parametrize("logits", [world(1.0, models=10, examples=6), halves()], ids=["fixed", "half of the models"])
def test_equals_a_general_optimiser(logits: Logits) -> None:
    found = u_mia.scores(logits)
    for fold in range(logits.folds):
        assert _line(logits, fold, found.forgotten) == pytest.approx(_by_scipy(logits, fold), rel=1e-4, abs=1e-5)


def test_many_logits_in_bins_give_the_same_classifier() -> None:
    logits = world(0.8, models=60, examples=60)
    assert logits.forgotten.size * 2 > u_mia.SUPPORT
    found = u_mia.scores(logits)
    assert _line(logits, 0, found.forgotten) == pytest.approx(_by_scipy(logits, 0), abs=1e-3)


def test_a_draw_from_counts_is_a_draw_of_logits() -> None:
    """Counting once and drawing models gives what counting the drawn logits gives."""
    logits = halves()
    pooled = u_mia.pool(logits)
    for draw in draws(logits, 3, 0):
        taken = logits.take(draw)
        # Counted anew: on the drawn logits' own points, so that only the classifier is the same.
        quick, slow = u_mia.scores(taken, pooled, draw), u_mia.scores(taken)
        np.testing.assert_allclose(quick.forgotten, slow.forgotten, rtol=1e-3, atol=1e-4)


def test_sides_weigh_the_same_however_many_models_they_have() -> None:
    rng = np.random.default_rng(0)
    logits = cut(1 + rng.normal(size=(80, 40)), rng.normal(size=(8, 40)), np.arange(80), 80 + np.arange(8))
    offset, slope = _line(logits, 0, u_mia.scores(logits).forgotten)
    assert -offset / slope == pytest.approx(0.5, abs=0.1)  # half way, not where the few never seen ones vanish


def test_separable_logits_are_told_apart_without_diverging() -> None:
    rng = np.random.default_rng(0)
    for gap in (0.5, 100.0):
        forgotten, never = gap + 0.01 * rng.random((10, 4)), 0.01 * rng.random((10, 4))
        found = u_mia.scores(cut(forgotten, never, np.arange(10), 10 + np.arange(10)))
        assert accuracy(found) == 1.0 and np.isfinite(found.forgotten).all() and np.isfinite(found.never).all()


def test_one_value_everywhere_is_one_half() -> None:
    same = cut(np.full((6, 3), 2.0), np.full((6, 3), 2.0), np.arange(6), 6 + np.arange(6))
    found = figures(u_mia.scores(same))
    assert found.auc == 0.5 and abs(found.accuracy - 0.5) < 1e-12


def test_a_side_that_moved_down_is_found_too() -> None:
    found = u_mia.scores(cut(*_moved(-4.0), np.arange(20), 20 + np.arange(20)))
    assert accuracy(found) > 0.95


def _moved(shift: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return shift + rng.normal(size=(20, 10)), rng.normal(size=(20, 10))


def test_it_sees_no_example_only_the_pool() -> None:
    """Examples far apart, forgotten .5 above never in each: the pool hides what U-LIRA would see."""
    rng = np.random.default_rng(0)
    centre = 20 * np.arange(12.0)
    never = centre + 0.05 * rng.normal(size=(20, 12))
    logits = cut(never + 0.5, never[::-1].copy(), np.arange(20), 20 + np.arange(20))
    assert accuracy(u_mia.scores(logits)) == pytest.approx(0.5, abs=0.05)
    assert math.isfinite(figures(u_mia.scores(logits)).auc)
