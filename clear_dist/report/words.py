"""What metrics, sets and models are called in a report, and how their figures are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clear_dist.metrics.forget_quality import smallest_detectable
from clear_dist.metrics.interval import Estimate

SETS = {
    "forget": "To be forgotten",
    "retain": "To be kept",
    "real_faces": "Real faces",
    "real_world": "Real world",
}
GROUPS = {"text": "text", "visual": "pictures", "all": "all"}
METRICS = {
    "name_accuracy": "Name accuracy",
    "name_accuracy_seen": "Name accuracy, seen pictures",
    "name_probability": "Probability of the name",
    "fact_accuracy": "Fact accuracy",
    "attribute_accuracy": "Visible attributes",
    "rouge_l": "ROUGE-L recall",
    "probability": "Probability",
    "truth_ratio": "Truth ratio",
    "metric": "Harmonic mean",
}
MEANINGS = {
    "Name accuracy": "Share of pictures on which the answer contains the person's name; pictures never trained on.",
    "Fact accuracy": "Share of questions whose answer contains the fact asked for.",
    "Visible attributes": "Share of questions on hair, clothes or background answered rightly: eyesight, not memory.",
    "ROUGE-L recall": "How much of the true answer's wording comes back, in order. Never zero: templates match.",
    "Probability": "Per-token probability of the true answer; for multiple choice, its share among the options.",
    "Truth ratio": "Wrong answers' probability over the right one's, scored so that high means 'cannot tell' on the "
    "forget set and 'knows the truth' elsewhere.",
    "Harmonic mean": "The papers' Real, Retain and Forget metric: harmonic mean of ROUGE-L, probability and truth "
    "ratio. On the forget set it mixes figures where low means forgotten with one where high does: nothing should "
    "be decided by it alone.",
    "Model utility": "Harmonic mean of those three over all sets but the forget set.",
    "Forget quality": "Chance that the truth ratios of this model and of gold differ so much by accident (exact "
    "Kolmogorov-Smirnov test); near 1 means they cannot be told apart.",
    "Original, gold": "The original learned everybody; gold learned everybody but the people to forget, which is what "
    "perfect unlearning would give.",
}
FEW_ROWS = 100


def number(value: float) -> str:
    """Three decimals without the leading zero, as in the papers: .942, 1.000."""
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0.") else text.replace("-0.", "-.")


def interval(estimate: Estimate) -> str:
    return f"{number(estimate.low)} to {number(estimate.high)}"


def quality_line(quality: Mapping[str, Any] | None) -> str | None:
    """Forget quality in one line: ``p = 2.2e-16 (ln p = -36.06), KS distance .347, n = 300``."""
    if quality is None:
        return None
    p, ln_p = float(quality["p"]), float(quality["ln_p"])
    shown = f"{p:.3f}" if p >= 0.001 else f"{p:.1e}" if p > 0 else "below 1e-300"
    return f"p = {shown} (ln p = {ln_p:.2f}), KS distance {number(float(quality['ks']))}, n = {quality['n']}"


def quality_caution(quality: Mapping[str, Any] | None) -> str | None:
    """What a small sample can and cannot show; None where there is no reason for caution."""
    if quality is None or quality["n"] >= FEW_ROWS:
        return None
    n = int(quality["n"])
    least = smallest_detectable(n, 0.05)
    if least > 1:
        return f"With {n} rows no difference at all could reach p < .05: this p-value says nothing."
    return (
        f"Few rows (n = {n}): only KS distances of {number(least)} and more can reach p < .05, so a large p-value "
        f"proves little. The smallest p-value possible here has ln p = {_least_ln_p(n):.1f}."
    )


def _least_ln_p(n: int) -> float:
    """ln of 2 / C(2n, n): two samples of n that do not overlap at all."""
    return math.log(2) - (math.lgamma(2 * n + 1) - 2 * math.lgamma(n + 1))
