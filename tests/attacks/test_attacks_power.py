"""What the attacks reach, and whether their intervals hold, in simulated worlds of known distance."""

from __future__ import annotations

import numpy as np
import pytest
from logit_worlds import world

from clear_dist.attacks.bootstrap import lira_accuracy
from clear_dist.attacks.membership_curve import accuracy
from clear_dist.attacks.u_lira import Variance, all_scores

BAYES = {0.0: 0.5, 0.5: 0.5987, 1.0: 0.6915}  # Phi(d / 2)


@pytest.mark.parametrize(
    ("d", "expected"),
    [
        (0.0, {"mad": 0.5, "std": 0.5, "pooled": 0.5, "global": 0.5}),
        (0.5, {"mad": 0.573, "std": 0.585, "pooled": 0.593, "global": 0.593}),
        (1.0, {"mad": 0.680, "std": 0.687, "pooled": 0.690, "global": 0.690}),
    ],
)
def test_accuracy_with_32_shadows_and_32_targets_a_side(d: float, expected: dict[Variance, float]) -> None:
    """64 models a side, half of them targets at a time; a perfect attack reaches BAYES. For one variance the expected
    accuracy is, by hand, E[Phi(d/2 + e) + Phi(d/2 - e)] / 2 with e of variance 1/64, less 2.3% of signs mistaken at
    d = .5: .5935."""
    runs = [all_scores(world(d, models=64, examples=120, folds=2, seed=seed)) for seed in range(8)]
    for variance, value in expected.items():
        reached = float(np.mean([accuracy(run[variance]) for run in runs]))
        assert reached == pytest.approx(value, abs=0.006), variance
        assert reached < BAYES[d] + 0.006


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.3], ids=["independent", "models in common"])
@pytest.mark.parametrize("d", list(BAYES))
def test_intervals_cover_what_the_attack_reaches(d: float, shared: float) -> None:
    """95% intervals of 100 simulated farms, against the mean of 400: at least 88 hold it. With what models have in
    common, which is what moves a figure from farm to farm, they also hold what a perfect attack would reach nearly as
    often."""
    others = [world(d, models=32, examples=12, shared=shared, seed=seed) for seed in range(1000, 1400)]
    truth = float(np.mean([accuracy(all_scores(logits, ("std",))["std"]) for logits in others]))
    found = [
        lira_accuracy(world(d, models=32, examples=12, shared=shared, seed=seed), count=120, seed=seed)
        for seed in range(100)
    ]
    assert sum(e.low <= truth <= e.high for e in found) >= 88
    if shared:
        assert sum(e.low <= BAYES[d] <= e.high for e in found) >= 80
    wide = float(np.mean([e.high - e.low for e in found]))
    spread = float(np.std([e.value for e in found]))
    assert wide < 1.6 * 2 * 1.96 * max(spread, 0.01), "no wider than need be"
