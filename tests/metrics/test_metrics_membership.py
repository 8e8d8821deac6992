"""Membership scores by hand, the AUC against counting pairs, its interval against published values and coverage."""

import math
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm

from clear_dist.metrics.membership import (
    ATTACKS,
    auc,
    auc_interval,
    loss_score,
    min_k,
    min_k_plus,
    privleak,
    reference_score,
    zlib_score,
)
from clear_dist.types import UserError

scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=15)  # few values, many ties


def test_scores_by_hand() -> None:
    logp = [-0.1, -0.2, -3.0, -0.3, -1.0, -0.1, -0.1, -0.1, -0.1, -2.0]
    assert loss_score(logp) == pytest.approx(-0.7)
    assert min_k(logp) == pytest.approx((-3.0 - 2.0) / 2)  # 20% of ten tokens
    assert min_k(logp, 0.3) == pytest.approx(-2.0)
    assert min_k(logp, 1.0) == pytest.approx(loss_score(logp))
    assert min_k([-0.5, -1.5]) == -1.5  # at least one token
    assert reference_score([-1.0, -2.0], [-2.0, -4.0]) == pytest.approx(1.5)
    assert set(ATTACKS) == {"loss", "zlib", "min_k", "min_k_plus", "reference"}


def test_share_counts_tokens_without_rounding_errors() -> None:
    logp = [-float(i) for i in range(1, 101)]
    assert min_k(logp, 0.29) == pytest.approx(-np.mean(range(72, 101)))  # 29 tokens, though .29 * 100 is below 29


def test_min_k_plus_calibrates_each_token() -> None:
    logp, mean, std = [-1.0, -4.0, -2.0], [-2.0, -3.0, -2.0], [0.5, 2.0, 1.0]
    assert min_k_plus(logp, mean, std, 1.0) == pytest.approx((2.0 - 0.5 + 0.0) / 3)
    assert min_k_plus(logp, mean, std, 0.2) == pytest.approx(-0.5)  # the lowest after calibration
    assert min_k_plus([0.0, 0.0], [0.0, 0.0], [0.0, 0.0]) == 0.0  # all mass on one token: no surprise, no division by 0
    assert min_k_plus([-1.0], [0.0], [0.0]) == pytest.approx(-1000.0)  # the floor of 1e-3


def test_min_k_plus_of_a_real_distribution() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 9)) * 3
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    p = np.exp(log_p)
    mean = (p * log_p).sum(1)
    std = np.sqrt((p * log_p**2).sum(1) - mean**2)
    tokens = rng.integers(9, size=6)
    own = log_p[np.arange(6), tokens]
    expected = np.sort((own - mean) / std)[:2].mean()
    assert min_k_plus(own.tolist(), mean.tolist(), std.tolist(), 0.34) == pytest.approx(expected)


def test_zlib_divides_the_whole_answer_by_its_bytes() -> None:
    text = "Zoë lives in 東京 — “there”."
    assert zlib_score([-1.0, -3.0], text) == pytest.approx(-4.0 / len(zlib.compress(text.encode())))
    assert zlib_score([-0.25] * 80, "na " * 80) < zlib_score(
        [-0.25] * 4, "She was born in Arlen."
    )  # simple text: less so
    assert math.isfinite(zlib_score([-1.0], "")) and math.isfinite(zlib_score([-1.0], "\ud800"))


@pytest.mark.parametrize(
    "call",
    [
        lambda: loss_score([]),
        lambda: loss_score([-1.0, math.nan]),
        lambda: zlib_score([math.inf], "x"),
        lambda: min_k([]),
        lambda: min_k([-1.0, -math.inf]),
        lambda: min_k([-1.0], 0.0),
        lambda: min_k([-1.0], 1.5),
        lambda: min_k_plus([-1.0], [], []),
        lambda: min_k_plus([-1.0, -1.0], [-1.0, -1.0], [1.0]),
        lambda: min_k_plus([-1.0], [math.nan], [1.0]),
        lambda: min_k_plus([-1.0], [-1.0], [-0.1]),
        lambda: reference_score([-1.0], [-1.0, -1.0]),
        lambda: auc([], [1.0]),
        lambda: auc([1.0], []),
        lambda: auc([1.0, math.nan], [1.0]),
        lambda: auc_interval([1.0], [math.inf]),
    ],
)
def test_bad_input_is_refused(call: Callable[[], float]) -> None:
    with pytest.raises(UserError):
        call()


@settings(max_examples=100, deadline=None)
@given(scores, scores)
def test_auc_counts_pairs(members: list[float], others: list[float]) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in members for b in others]
    assert auc(members, others) == pytest.approx(sum(pairs) / len(pairs), abs=1e-15)
    assert auc(members, others) + auc(others, members) == pytest.approx(1.0, abs=1e-15)
    u = mannwhitneyu(members, others, method="asymptotic").statistic if len({*members, *others}) > 1 else None
    assert u is None or auc(members, others) == pytest.approx(u / len(pairs))


def test_auc_does_not_see_order_or_monotone_changes() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(1, 1, 31), rng.normal(size=17)
    first = auc_interval(a.tolist(), b.tolist())
    assert auc_interval(rng.permutation(a).tolist(), rng.permutation(b).tolist()) == first
    assert auc(np.exp(a).tolist(), np.exp(b).tolist()) == first.value
    assert first.n == 48


def test_interval_is_newcombes() -> None:
    # The worked example of the R package SingleCaseES (non-overlap of all pairs, Newcombe's interval).
    estimate = auc_interval([28, 25, 24, 27, 30, 30, 29], [20, 20, 26, 25, 22, 23])
    assert estimate.value == pytest.approx(0.9166666666666666, abs=1e-12)
    assert (estimate.low, estimate.high) == pytest.approx((0.5973193600384168, 0.9859976893703788), abs=1e-10)


def test_interval_is_never_certain_and_symmetric() -> None:
    apart = auc_interval([1.0] * 16, [0.0] * 16)
    assert apart.value == apart.high == 1.0 and 0.8 < apart.low < 0.95
    other = auc_interval([0.0] * 16, [1.0] * 16)
    assert other.low == other.value == 0.0 and other.high == pytest.approx(1 - apart.low)
    assert auc_interval([1.0], [0.0]).low < 0.4  # one of each: nearly nothing is known


@pytest.mark.parametrize(("shift", "m", "n"), [(0.0, 40, 40), (1.0, 24, 12), (2.2, 30, 30)])
def test_interval_covers_the_true_auc(shift: float, m: int, n: int) -> None:
    rng = np.random.default_rng(int(10 * shift) + m)
    true = norm.cdf(shift / math.sqrt(2))
    tries = 300
    inside = 0
    for _ in range(tries):
        e = auc_interval(rng.normal(shift, 1, m).tolist(), rng.normal(0, 1, n).tolist())
        inside += e.low <= true <= e.high
    assert 0.92 <= inside / tries <= 0.99


def test_privleak_has_the_sign_of_muse() -> None:
    assert privleak(0.5, 0.5) == 0.0
    assert privleak(1.0, 0.5) == -100.0  # members are told at once: nothing was unlearned
    assert privleak(0.0, 0.5) == 100.0  # pushed below the never seen: over-unlearned
    assert privleak(0.6, 0.52) == pytest.approx(((1 - 0.6) - (1 - 0.52)) / (1 - 0.52) * 100)
    assert privleak(0.9, 1.0) is None
