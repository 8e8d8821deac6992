"""Confidence intervals: right coverage, the same twice, honest at the ends."""

import math

import numpy as np
import pytest

from clear_dist.metrics.interval import mean_interval, percentile_interval, resample, wilson
from clear_dist.types import UserError


def test_bootstrap_matches_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    estimate = mean_interval(values.tolist(), draws=4000)
    half = 1.96 * values.std() / math.sqrt(values.size)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.03)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.03)


def test_same_seed_same_interval() -> None:
    values = np.linspace(0, 0.9, 50).tolist()
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_proportions_are_never_certain() -> None:
    none_right = mean_interval([0.0] * 16)
    assert none_right.value == 0.0 and none_right.low == 0.0
    assert none_right.high == pytest.approx(0.1936, abs=1e-4)  # Wilson, by hand: z^2 / (n + z^2)
    assert wilson(16, 16)[1] == 1.0 and wilson(16, 16)[0] == pytest.approx(1 - 0.1936, abs=1e-4)


def test_absent_values_are_left_out_of_every_resample() -> None:
    values = np.array([[1.0, np.nan], [1.0, 2.0], [1.0, 2.0]])
    draws = resample(values, draws=200)
    assert (draws[:, 0] == 1.0).all()
    assert set(draws[~np.isnan(draws[:, 1]), 1]) == {2.0}
    assert percentile_interval(draws[:, 1]) == (2.0, 2.0)


def test_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(30, 1))
    whole = resample(values, draws=64)
    monkeypatch.setattr("clear_dist.metrics.interval._BLOCK", 30 * 7)
    assert np.allclose(resample(values, draws=64), whole)


@pytest.mark.parametrize("bad", [[], [0.5, math.nan], [math.inf]])
def test_refuses_no_values_and_nan(bad: list[float]) -> None:
    with pytest.raises(UserError):
        mean_interval(bad)
