"""TOFU's 200 authors become a dataset of CLEAR's size, which trains and evaluates like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clear_dist import cli
from clear_dist.data.check import check_directory

pytestmark = pytest.mark.slow
# Rows of therem/CLEAR; its forget10_perturbed lacks one of 379.
CLEAR = {
    "full": 3768,
    "forget01": 35,
    "forget05": 188,
    "forget10": 379,
    "retain99": 3733,
    "retain95": 3580,
    "retain90": 3389,
    "forget01_perturbed": 35,
    "forget05_perturbed": 188,
    "forget10_perturbed": 379,
    "retain_perturbed": 395,
    "real_faces": 151,
    "real_world": 367,
}


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def test_two_hundred_people_with_clears_numbers(
    tmp_path: Path, data_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "tofu"
    assert run("data", "build", data_dir("tofu") / "full.json", "--unnamed", "invent", "--out", data) == 0
    report = check_directory(data)
    assert report.sound and not report.findings
    assert {config: report.counts[config] for config in CLEAR} == CLEAR
    assert report.counts["full+tofu"] == 4000 and len(report.people) == 200
    assert {questions for _, questions in report.people.values()} == {20}
    for name in ("forget10_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"):
        assert (data / "tofu" / f"{name}.json").is_file()

    model = tmp_path / "model"
    assert run("model", "new", "--arch", "llava", "--params", "2m", "--text-from", data, "--out", model) == 0
    small = ("--data", data, "--max-steps", "2", "--global-batch", "4")
    assert run("finetune", "--model", model, *small, "--out", tmp_path / "original") == 0
    out = tmp_path / "run"
    words = ("--original", tmp_path / "original", *small, "--eval-limit", "4", "--out", out)
    assert run("unlearn", "--method", "npo", *words) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert {"forget", "retain"} <= set(summary["models"]["unlearned"]["sets"])
    assert (out / "index.html").is_file()
