"""Accuracy, AUC, TPR at FPR and ROC against counts by hand, and the interval around them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from logit_worlds import halves, world

from clear_dist.attacks.bootstrap import attack, interval, lira_accuracy
from clear_dist.attacks.membership_curve import FPRS, accuracy, auc, example_accuracy, figures, roc, tpr_at
from clear_dist.attacks.u_lira import Scores, scores
from clear_dist.metrics import membership

NAN = math.nan


def _scores(forgotten: list[list[float]], never: list[list[float]]) -> Scores:
    return Scores(np.array(forgotten), np.array(never))


def test_accuracy_is_balanced_per_example_and_ties_count_half() -> None:
    found = _scores([[1.0, -1.0], [2.0, 0.0], [-1.0, NAN]], [[-1.0, 1.0]])
    # example 0: TPR 2/3, TNR 1; example 1: TPR (0 + .5) / 2, TNR 0
    np.testing.assert_allclose(example_accuracy(found), [5 / 6, 1 / 8])
    assert accuracy(found) == pytest.approx((5 / 6 + 1 / 8) / 2)


def test_an_example_without_targets_on_a_side_is_left_out() -> None:
    found = _scores([[1.0, NAN]], [[-1.0, 1.0]])
    assert accuracy(found) == 1.0 and math.isnan(example_accuracy(found)[1])
    assert math.isnan(accuracy(_scores([[NAN]], [[1.0]])))


def test_auc_is_that_of_the_other_membership_attacks() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):  # whole numbers: many ties; the ends of either side tie too
        a, b = rng.integers(0, 6, 30).astype(float), rng.integers(-1, 5, 17).astype(float)
        assert auc(np.sort(a), np.sort(b)) == membership.auc(a.tolist(), b.tolist())
    assert auc(np.array([2.0]), np.array([1.0])) == 1.0
    assert auc(np.array([1.0]), np.array([2.0])) == 0.0


def test_tpr_allows_no_more_false_positives_than_asked() -> None:
    negative = np.arange(20.0)
    positive = np.array([17.5, 18.0, 18.5, 19.5])
    assert (
        tpr_at(positive, negative, 0.05) == 0.5
    )  # one may be accused: above 18 are 18.5 and 19.5, and 19 of the never
    assert tpr_at(positive, negative[:19], 0.05) is None  # a twentieth of 19 is nobody
    assert tpr_at(positive, negative, 0.01) is None
    tied = np.array([18.0, 19.0, 19.0, *range(17)], dtype=float)
    assert tpr_at(positive, np.sort(tied), 0.05) == 0.25  # above 18 would accuse two


def test_roc_is_every_threshold_and_its_area_is_the_auc() -> None:
    rng = np.random.default_rng(1)
    found = Scores(rng.integers(2, 11, (6, 5)).astype(float), rng.integers(0, 9, (7, 5)).astype(float))
    x, y = map(np.array, zip(*roc(found), strict=True))
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) == pytest.approx(figures(found).auc, abs=1e-12)


def test_a_thinned_roc_lies_on_the_full_one_and_is_dense_where_few_are_accused() -> None:
    found = scores(world(1.0, models=24, examples=40))
    full, thin = roc(found, 100_000), roc(found)
    assert len(thin) <= 200 < len(full) and set(thin) <= set(full)
    assert thin[0] == (0.0, 0.0) and thin[-1] == (1.0, 1.0) and thin == sorted(thin)
    assert sum(0 < x <= 0.05 for x, _ in thin) > 30


def test_every_figure_has_an_interval_around_it() -> None:
    found = attack(world(1.0, models=12, examples=12), count=100)
    assert found.u_lira.tpr[0.001] is None and found.u_lira.tpr[0.05] is not None
    everything = [found.u_lira.accuracy, found.u_lira.auc, found.u_mia.accuracy, *found.estimators.values()]
    everything += [e for a in (found.u_lira, found.u_mia) for e in a.tpr.values() if e is not None]
    assert all(0 <= e.low <= e.value <= e.high <= 1 and e.low < e.high and e.n == 24 for e in everything)
    assert found.estimators["std"] == found.u_lira.accuracy
    assert set(found.u_lira.tpr) == set(FPRS)


def test_intervals_repeat_under_a_seed_and_the_short_way_gives_the_same() -> None:
    logits = halves(pairs=8)
    one, other = attack(logits, count=60, seed=3), attack(logits, count=60, seed=4)
    assert attack(logits, count=60, seed=3).u_lira.auc == one.u_lira.auc != other.u_lira.auc
    assert lira_accuracy(logits, count=60, seed=3) == one.u_lira.accuracy
    assert attack(logits, variance="mad", count=60, seed=3).u_lira.accuracy == one.estimators["mad"]


def test_the_interval_is_moved_to_the_figure() -> None:
    again = np.linspace(0.4, 0.6, 1001)
    found = interval(0.7, again, 10)
    assert (found.low, found.high) == (pytest.approx(0.605), pytest.approx(0.795))
    assert interval(0.98, again, 10).high == 1.0
    skewed = interval(0.999, np.array([0.999] * 99 + [0.5]), 10)  # its mean draw is below nearly every draw
    assert skewed.low == 0.999 <= skewed.high


def test_certainty_is_not_claimed_from_few_models() -> None:
    found = attack(world(60.0, models=8, examples=4), count=50).u_lira.accuracy
    assert found.value == found.high == 1.0 and 0.7 < found.low < 0.85  # Wilson of 16 of 16
    assert interval(0.0, np.zeros(5), 16).high == pytest.approx(1 - found.low)
    lost = interval(0.5, np.array([NAN, NAN]), 4)
    assert (lost.low, lost.high) == (0.0, 1.0) and lost.note is not None
