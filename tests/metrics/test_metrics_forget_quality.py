"""The exact Kolmogorov-Smirnov test against counting and scipy, and where scipy stops."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from clear_dist.metrics.forget_quality import forget_quality, ks_ln_p, power, smallest_detectable
from clear_dist.types import UserError

# Few distinct values, so that ties within and across the samples are common.
samples = st.lists(st.integers(0, 8).map(float), min_size=1, max_size=25)


def _p_by_counting(n: int, m: int, ks: Fraction) -> Fraction:
    """1 - (lattice paths that stay inside the corridor) / (all paths), in whole numbers."""
    inside = [[0] * (m + 1) for _ in range(n + 1)]
    inside[0][0] = 1
    for x in range(n + 1):
        for y in range(m + 1):
            if x + y and abs(Fraction(x, n) - Fraction(y, m)) < ks:
                inside[x][y] = (inside[x - 1][y] if x else 0) + (inside[x][y - 1] if y else 0)
    return 1 - Fraction(inside[n][m], math.comb(n + m, n))


@settings(max_examples=60, deadline=None)
@given(samples, samples)
def test_agrees_with_counting_paths_for_any_sizes_and_ties(a: list[float], b: list[float]) -> None:
    ks = max(abs(Fraction(sum(v <= t for v in a), len(a)) - Fraction(sum(v <= t for v in b), len(b))) for t in a + b)
    ours = forget_quality(a, b)
    assert ours.ks == pytest.approx(float(ks), abs=1e-12)
    assert ours.p == pytest.approx(float(_p_by_counting(len(a), len(b), ks)) if ks else 1.0, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(300, 300), (300, 199), (40, 28), (7, 90)])
def test_agrees_with_scipy(n: int, m: int) -> None:
    rng = np.random.default_rng(n + m)
    a, b = rng.normal(size=n).tolist(), rng.normal(0.6, size=m).tolist()
    ks, p = tuple(ks_2samp(a, b, method="exact"))[:2]
    ours = forget_quality(a, b)
    assert (ours.ks, ours.p) == (pytest.approx(ks, abs=1e-12), pytest.approx(p, rel=1e-9))


def test_order_of_values_and_of_samples_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40).tolist(), rng.normal(0.4, size=28).tolist()
    first = forget_quality(a, b)
    again = forget_quality(rng.permutation(b).tolist(), rng.permutation(a).tolist())
    assert again.ks == first.ks and again.n == first.n
    assert again.ln_p == pytest.approx(first.ln_p, rel=1e-12)


def test_ln_p_stays_right_where_p_underflows() -> None:
    # Completely separated samples: two interleavings of C(2n, n).
    n = 1000
    expected = math.log(2) - (math.lgamma(2 * n + 1) - 2 * math.lgamma(n + 1))
    quality = forget_quality(np.arange(n).tolist(), np.arange(n, 2 * n).tolist())
    assert quality.p == 0.0 and quality.ks == 1.0
    assert quality.ln_p == pytest.approx(expected, rel=1e-12)


def test_equal_samples_and_single_values() -> None:
    assert forget_quality([0.1, 0.2], [0.2, 0.1]).p == 1.0
    assert forget_quality([0.3], [0.7]).p == 1.0  # one value each: any distance is certain
    assert ks_ln_p(3, 3, 4) == -math.inf


def test_smallest_detectable_distance() -> None:
    n = 32
    distance = round(smallest_detectable(n) * n)
    assert ks_ln_p(n, n, distance) < math.log(0.05) <= ks_ln_p(n, n, distance - 1)
    assert smallest_detectable(3) > 1  # three rows can never reach p < .05


@settings(max_examples=40, deadline=None)
@given(samples, samples)
def test_agrees_with_scipy_on_ties(a: list[float], b: list[float]) -> None:
    ours = forget_quality(a, b)
    if ours.p > 0.99:  # near 1 scipy's exact method gives up now and then
        return
    ks, p = tuple(ks_2samp(a, b, method="exact"))[:2]
    assert (ours.ks, ours.p) == (pytest.approx(ks, abs=1e-12), pytest.approx(p, rel=1e-9))


@pytest.mark.parametrize("n", [1, 2, 5, 33, 120])
def test_threshold_is_the_first_distance_whose_p_is_below_alpha(n: int) -> None:
    for alpha in (0.05, 0.001):
        expected = next((k for k in range(1, n + 1) if ks_ln_p(n, n, k) < math.log(alpha)), n + 1)
        assert round(smallest_detectable(n, alpha) * n) == expected


def test_power_is_the_share_of_resamples_that_reject() -> None:
    rng = np.random.default_rng(5)
    a = rng.normal(size=40).round(1)  # rounded: with ties
    b = (0.5 * a + rng.normal(0.4, 1, size=40)).round(1)
    drawn = np.random.default_rng(3).integers(40, size=(150, 40))
    expected = np.mean([forget_quality(a[i].tolist(), b[i].tolist()).p < 0.05 for i in drawn])
    assert power(a.tolist(), b.tolist(), draws=150, seed=3) == pytest.approx(expected, abs=1e-12)


def test_power_at_the_ends() -> None:
    same = np.linspace(0, 1, 50).tolist()
    assert power(same, same) == 0.0
    assert power(same, [v + 2 for v in same]) == 1.0
    assert power([0.1, 0.2, 0.3], [5.0, 6.0, 7.0]) == 0.0  # three rows can never reject
    assert power([0.5], [0.5]) == 0.0


def test_power_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=30).tolist(), rng.normal(0.7, 1, size=30).tolist()
    whole = power(a, b, draws=100)
    monkeypatch.setattr("clear_dist.metrics.forget_quality._BLOCK", 30 * 2 * 7)
    assert power(a, b, draws=100) == whole and 0.2 < whole < 1.0


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [([], [1.0], "original"), ([1.0], [math.nan], "NaN"), ([1.0, 2.0], [1.0], "2 truth ratios .* 1 of gold")],
)
def test_power_refuses(a: list[float], b: list[float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        power(a, b)


@pytest.mark.parametrize(
    ("a", "b", "said"), [([], [1.0], "unlearned"), ([1.0], [], "gold"), ([1.0], [math.nan], "NaN")]
)
def test_refuses_empty_and_nan(a: list[float], b: list[float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        forget_quality(a, b)
