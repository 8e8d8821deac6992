"""TOFU's published evaluation logs, and the numbers CLEAR prints."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from clear_dist.metrics.forget_quality import forget_quality, ks_ln_p
from clear_dist.metrics.probability import choice_share
from clear_dist.metrics.rouge import rouge_1_recall, rouge_l_recall
from clear_dist.metrics.truth_ratio import Mean, truth_ratio, truth_score
from clear_dist.metrics.utility import harmonic_mean


def _logs() -> Path:
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    return Path(os.environ.get("CLEAR_DIST_DATA", beside)) / "tofu_eval_logs"


@pytest.fixture(scope="module")
def logs() -> dict[str, dict]:
    folder = _logs()
    if not folder.is_dir():
        pytest.skip("TOFU's published evaluation logs are absent: set CLEAR_DIST_DATA to the folder holding them")
    return {
        name: json.loads((folder / f"ft_epoch5_lr2e-05_phi_{name}_wd0.01.json").read_text())
        for name in ("full", "retain90")
    }


def _ratios(log: dict, mean: Mean) -> list[float]:
    rows = log["avg_paraphrased_loss"]
    return [truth_ratio(-rows[k], [-v for v in log["average_perturb_loss"][k]], mean) for k in rows]


def _utility(model: dict, mean: Mean) -> float | None:
    entries = []
    for name, log in model.items():
        if "forget" in name:
            continue
        loss, wrong = log["avg_gt_loss"], log["average_perturb_loss"]
        if name == "eval_log.json":
            probability = [math.exp(-v) for v in loss.values()]
        else:  # real authors and world facts are multiple choice
            probability = [choice_share([-loss[k], *(-v for v in wrong[k])]) for k in loss]
        truth = [truth_score(r, "retain") for r in _ratios(log, mean)]
        entries += [np.mean(list(log["rougeL_recall"].values())), np.mean(probability), np.mean(truth)]
    assert len(entries) == 9
    return harmonic_mean(entries)


@pytest.mark.parametrize(
    ("mean", "utility", "ks", "p"),
    [
        ("geometric", 0.5220737132, 0.3466666667, 2.1942743022e-16),
        ("arithmetic", 0.5033530268, 0.3566666667, 2.4311282148e-17),
    ],
)
def test_published_logs_give_the_published_values(logs, mean: Mean, utility: float, ks: float, p: float) -> None:
    forget = {name: _ratios(log["eval_log_forget.json"], mean) for name, log in logs.items()}
    quality = forget_quality(forget["full"], forget["retain90"])

    assert _utility(logs["full"], mean) == pytest.approx(utility, abs=1e-9)
    assert quality.ks == pytest.approx(ks, abs=1e-9)
    assert quality.p == pytest.approx(p, rel=1e-6)
    assert quality.ln_p == pytest.approx(math.log(p), abs=1e-6)
    assert quality.n == 300


def test_rouge_of_published_generations(logs) -> None:
    for log in logs["full"].values():
        for published, recall in (("rougeL_recall", rouge_l_recall), ("rouge1_recall", rouge_1_recall)):
            ours = {k: recall(row[1], row[2]) for k, row in log["generated_text"].items()}
            assert ours == pytest.approx(log[published], abs=1e-12)


@pytest.mark.parametrize(
    ("k", "printed"),
    [
        (41, -4.92),
        (64, -13.04),
        (74, -17.72),
        (120, -48.59),
        (134, -61.22),
        (147, -74.40),
        (165, -95.12),
        (186, -123.22),
    ],
)
def test_printed_log_forget_quality_is_the_natural_log_of_p(k: int, printed: float) -> None:
    assert ks_ln_p(300, 300, k) == pytest.approx(printed, abs=0.005)


TABLE_1 = """-4.92 -2.31 -18.22 -17.22 -48.59 -42.86 -44.46 -3.87 -6.69 -50.30 -36.06 -51.16 -2.72 -3.63 -3.39 -123.22
    -3.16"""
TABLE_3 = "-61.22 -71.23 -60.26 -95.12 -62.18 -90.26 -91.46"
TABLE_4 = "-61.22 -13.04 -17.72 -62.18 -74.40 -63.15 -13.92 -64.13 -60.26 -23.68 -73.34 -65.12"


def test_every_printed_log_forget_quality_is_one_of_the_300_possible_values() -> None:
    n, paths = 300, math.comb(600, 300)
    # ln p of every distance k/300 in whole numbers: 2 sum_j (-1)^(j-1) C(2n, n - jk) / C(2n, n)
    possible = []
    for k in range(1, n + 1):
        left = 2 * sum((-1) ** (j - 1) * math.comb(2 * n, n - j * k) for j in range(1, n // k + 1))
        possible.append(math.log(left) - math.log(paths))
    found = set()
    for printed in map(float, f"{TABLE_1} {TABLE_3} {TABLE_4}".split()):
        nearest = int(np.abs(np.array(possible) - printed).argmin())
        assert possible[nearest] == pytest.approx(printed, abs=0.005)
        found.add(nearest)
    assert len(found) == 33
    for k in sorted(found)[::4]:
        assert ks_ln_p(n, n, k + 1) == pytest.approx(possible[k], rel=1e-9)
