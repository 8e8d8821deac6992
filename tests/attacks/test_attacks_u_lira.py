"""U-LIRA against a reference that loops over examples and models one by one, and in tails where densities are 0."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from logit_worlds import halves, world

from clear_dist.attacks.logits import Logits, cut, draws
from clear_dist.attacks.membership_curve import accuracy, example_accuracy
from clear_dist.attacks.u_lira import MAD_TO_SIGMA, SIGMA_FLOOR, VARIANCES, Variance, all_scores, scores


def _shadows(logits: Logits, side: str, example: int, fold: int) -> list[float]:
    values, folds = (logits.forgotten, logits.fold_f) if side == "f" else (logits.never, logits.fold_n)
    return [float(v) for v, k in zip(values[:, example], folds, strict=True) if k != fold and not math.isnan(v)]


def _squares(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((v - mean) ** 2 for v in values)


def _fit(logits: Logits, example: int, fold: int, variance: Variance) -> dict[str, tuple[float, float]]:
    """Location and spread of either side, from the definition."""
    out = {}
    for side in "fn":
        mine = _shadows(logits, side, example, fold)
        centre = math.fsum(mine) / len(mine)
        if variance == "mad":
            centre = statistics.median(mine)
            sigma = statistics.median(abs(v - centre) for v in mine) / MAD_TO_SIGMA
        elif variance == "std":
            sigma = math.sqrt(_squares(mine) / (len(mine) - 1))
        elif variance == "pooled":
            both = [_shadows(logits, s, example, fold) for s in "fn"]
            sigma = math.sqrt(sum(map(_squares, both)) / (sum(map(len, both)) - 2))
        else:
            every = [_shadows(logits, side, e, fold) for e in range(logits.forgotten.shape[1])]
            sigma = math.sqrt(math.fsum(map(_squares, every)) / sum(len(v) - 1 for v in every))
        out[side] = (centre, max(sigma, SIGMA_FLOOR))
    return out


def _reference(logits: Logits, variance: Variance) -> tuple[np.ndarray, np.ndarray]:
    out = (np.full_like(logits.forgotten, np.nan), np.full_like(logits.never, np.nan))
    for scored, values, folds in ((out[0], logits.forgotten, logits.fold_f), (out[1], logits.never, logits.fold_n)):
        for model in range(len(values)):
            for example in range(values.shape[1]):
                if not math.isnan(values[model, example]):
                    fit = _fit(logits, example, int(folds[model]), variance)
                    f, n = (-math.log(s) - 0.5 * ((values[model, example] - mu) / s) ** 2 for mu, s in fit.values())
                    scored[model, example] = f - n
    return out


def _extreme() -> Logits:
    """Saturated logits as the paper's code has them, a side without spread, and single outliers far out."""
    rng = np.random.default_rng(5)
    forgotten, never = rng.normal(size=(11, 5)), rng.normal(size=(9, 5)) - 2
    forgotten[:, 0] = 103.0
    never[:, 1], never[4, 1] = -103.0, 103.0
    forgotten[3], never[7, 2:] = 103.0, -103.0
    return cut(forgotten, never, np.arange(11), 11 + np.arange(9), folds=3)


def _normal(models: int) -> np.ndarray:
    return np.random.default_rng(models).normal(size=(models, 4))


CASES = {
    "fixed": lambda: world(0.7, models=9, examples=5),
    "uneven sides": lambda: cut(_normal(7), _normal(12), np.arange(7), 7 + np.arange(12), folds=4),
    "half of the models": halves,
    "a drawn sample": lambda: halves().take(next(draws(halves(), 1, 3))),
    "extreme": _extreme,
}


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("case", CASES)
def test_equals_a_loop_over_examples(case: str, variance: Variance) -> None:
    logits = CASES[case]()
    forgotten, never = _reference(logits, variance)
    found = scores(logits, variance)
    for mine, loop in ((found.forgotten, forgotten), (found.never, never)):
        np.testing.assert_array_equal(np.isnan(mine), np.isnan(loop))
        np.testing.assert_allclose(mine, loop, rtol=1e-10, atol=1e-10)


def test_estimators_together_are_those_alone() -> None:
    logits = halves()
    for variance, found in all_scores(logits).items():
        np.testing.assert_array_equal(found.forgotten, scores(logits, variance).forgotten)


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_far_tail_is_told_apart(variance: Variance) -> None:
    """Targets 40 standard deviations from their own side and 360 from the other: both densities are 0 there, and a
    quotient of densities says nothing. The logarithms say which side is nearer."""
    rng = np.random.default_rng(0)
    forgotten, never = 20 + 0.1 * rng.normal(size=(30, 3)), -20 + 0.1 * rng.normal(size=(30, 3))
    logits = cut(forgotten, never, np.arange(30), 30 + np.arange(30))
    target_f, target_n = int(np.flatnonzero(logits.fold_f == 0)[0]), int(np.flatnonzero(logits.fold_n == 0)[0])
    logits.forgotten[target_f], logits.never[target_n] = 16.0, -16.0
    assert math.exp(-0.5 * 40**2) == math.exp(-0.5 * 360**2) == 0.0
    found = scores(logits, variance)
    assert (found.forgotten[target_f] > 100).all()
    assert (found.never[target_n] < -100).all()


def test_each_side_has_its_own_spread() -> None:
    """Same mean, spreads 1 and 3: told by the spread alone, which a shared variance cannot see."""
    rng = np.random.default_rng(0)
    logits = cut(rng.normal(size=(60, 30)), 3 * rng.normal(size=(60, 30)), np.arange(60), 60 + np.arange(60))
    best = 0.7357  # of normal distributions of spread 1 and 3: the smaller where |l| < 1.572
    assert accuracy(scores(logits, "std")) == pytest.approx(best, abs=0.02)
    assert accuracy(scores(logits, "mad")) == pytest.approx(best, abs=0.04)
    assert accuracy(scores(logits, "pooled")) == pytest.approx(0.5, abs=0.03)


def test_shadows_without_spread_do_not_make_other_logits_impossible() -> None:
    """All forgotten shadows at the clamp: a logit a rounding below it is still theirs."""
    top = 13.8155
    forgotten, never = np.full((8, 1), top), np.linspace(2, 6, 8)[:, None]
    forgotten[0] = top - SIGMA_FLOOR
    logits = cut(forgotten, never, np.arange(8), 8 + np.arange(8), folds=4)
    found = scores(logits)
    assert (found.forgotten > 0).all() and (found.never < 0).all() and np.isfinite(found.forgotten).all()


def test_no_difference_at_all_is_one_half_exactly() -> None:
    logits = cut(np.full((6, 2), 1.5), np.full((6, 2), 1.5), np.arange(6), 6 + np.arange(6))
    assert example_accuracy(scores(logits)).tolist() == [0.5, 0.5]


def test_a_target_is_not_among_its_shadows() -> None:
    """Moving one target moves its own score, and no score of its fold besides."""
    logits = world(0.5, models=10, examples=3)
    before = scores(logits).forgotten.copy()
    logits.forgotten[4] += 3.0
    after = scores(logits).forgotten
    same_fold = logits.fold_f == logits.fold_f[4]
    same_fold[4] = False
    np.testing.assert_array_equal(after[same_fold], before[same_fold])
    assert (after[logits.fold_f != logits.fold_f[4]] != before[logits.fold_f != logits.fold_f[4]]).all()


def test_unequal_numbers_of_models_leave_guessing_at_one_half() -> None:
    rng = np.random.default_rng(2)
    logits = cut(rng.normal(size=(60, 60)), rng.normal(size=(12, 60)), np.arange(60), 60 + np.arange(12))
    for variance in ("std", "pooled"):
        assert accuracy(scores(logits, variance)) == pytest.approx(0.5, abs=0.03)
