"""What scores of an attack are worth: balanced accuracy, AUC, true positives at few false ones, the ROC curve.

A positive is a target that forgot the example. Accuracy = (TPR + TNR) / 2 of each example at the threshold 0, averaged
over examples: .5 is guessing however many models either side has. AUC, TPR at an FPR and the curve are of all targets
of all examples together. Ties count half in accuracy and AUC.

Legend: F, U targets of either side, E examples, P and N scores of either side that are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from clear_dist.attacks.logits import Floats
from clear_dist.attacks.u_lira import Scores

FPRS: Final = (0.001, 0.01, 0.05)
CURVE_POINTS = 200


@dataclass(frozen=True)
class Figures:
    """accuracy and auc in [0, 1]; tpr: FPR -> TPR, None where there are fewer than 1 / FPR never seen targets."""

    accuracy: float
    auc: float
    tpr: Mapping[float, float | None]


def example_accuracy(scores: Scores) -> Floats:
    """(TPR + TNR) / 2 of each example [E]; NaN where one has no target on a side."""
    return (_share_right(scores.forgotten) + _share_right(-scores.never)) / 2


def _share_right(signed: Floats) -> Floats:
    """Per example [E] the share of targets [M, E] whose score is positive, 0 counting half."""
    n = (~np.isnan(signed)).sum(axis=0)
    right = (signed > 0).sum(axis=0) + 0.5 * (signed == 0).sum(axis=0)
    return np.where(n > 0, right / np.maximum(n, 1), np.nan)


def accuracy(scores: Scores) -> float:
    """Mean of ``example_accuracy`` over the examples that have one; NaN where none has."""
    found = example_accuracy(scores)
    found = found[~np.isnan(found)]
    return float(found.mean()) if found.size else float("nan")


def _sorted(values: Floats) -> Floats:
    return np.sort(values[~np.isnan(values)])


def auc(positive: Floats, negative: Floats) -> float:
    """Chance that a positive scores above a negative, ties 1/2; both sorted, not empty (see ``metrics.membership``)."""
    below = np.searchsorted(negative, positive, side="left")
    tied = bool((negative[np.minimum(below, negative.size - 1)] == positive).any())
    up_to = np.searchsorted(negative, positive, side="right") if tied else below
    return int(below.sum() + up_to.sum()) / (2 * positive.size * negative.size)


def tpr_at(positive: Floats, negative: Floats, fpr: float) -> float | None:
    """The largest TPR of a threshold with an FPR of at most ``fpr``; both sorted. None: fewer than 1/fpr negatives."""
    if negative.size * fpr < 1 - 1e-9:
        return None
    allowed = int(np.floor(negative.size * fpr + 1e-9))  # .05 * 20 is 1, not .99...
    if allowed >= negative.size:
        return 1.0
    threshold = negative[negative.size - 1 - allowed]  # scores above it are called positive
    return float(positive.size - np.searchsorted(positive, threshold, side="right")) / positive.size


def figures(scores: Scores) -> Figures:
    """All figures of an attack; NaN where a side has no scores (a bootstrap draw may leave none)."""
    positive, negative = _sorted(scores.forgotten), _sorted(scores.never)
    if not positive.size or not negative.size:
        return Figures(float("nan"), float("nan"), dict.fromkeys(FPRS))
    tpr = {fpr: tpr_at(positive, negative, fpr) for fpr in FPRS}
    return Figures(accuracy(scores), auc(positive, negative), tpr)


def roc(scores: Scores, points: int = CURVE_POINTS) -> list[tuple[float, float]]:
    """(FPR, TPR) from (0, 0) to (1, 1), thresholds falling; at most ``points``, dense where FPR is small.

    Tied scores are one step, so the curve's diagonal pieces are ties. Thinning leaves points of the full curve.
    """
    positive, negative = _sorted(scores.forgotten), _sorted(scores.never)
    assert positive.size and negative.size and points >= 10
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    true = (positive.size - np.searchsorted(positive, thresholds, side="left")) / positive.size  # at or above it
    false = (negative.size - np.searchsorted(negative, thresholds, side="left")) / negative.size
    false, true = np.concatenate([[0.0], false]), np.concatenate([[0.0], true])
    if false.size > points:
        # Half of the points evenly by place, half evenly in log FPR; both ends are among the former.
        even = np.linspace(0, false.size - 1, points // 2).round().astype(np.int64)
        logarithmic = np.geomspace(1 / negative.size, 1, points - points // 2)
        keep = np.unique(np.concatenate([even, np.searchsorted(false, logarithmic + 1e-12, side="right") - 1]))
        false, true = false[keep], true[keep]
    return [(float(x), float(y)) for x, y in zip(false, true, strict=True)]
