"""The evaluation benchmark runs, checks before it measures, and writes what it promises. Its figures are not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import bench_eval
from clear_dist.models.model import Model


@pytest.fixture(scope="module")
def small() -> Model:
    """The benchmark's own model with a short picture: 16 tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_eval, "SIDE", 56)
        return bench_eval.make_model("tiny", torch.device("cpu"))


def run(small: Model, out: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(bench_eval, "make_model", lambda shapes, device: small)
    return bench_eval.main(["--questions", "2", "--rounds", "1", "--new", "4", "--device", "cpu", "--out", str(out)])


def test_results_have_the_promised_form(small: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(small, tmp_path, monkeypatch) == 0
    found = json.loads((tmp_path / "bench_eval.json").read_text())
    variants = ["one by one", "batched", "shared"]
    assert [(r["task"].startswith("scoring and"), r["variant"]) for r in found["rows"]] == [
        (both, v) for both in (False, True) for v in variants
    ]
    for row in found["rows"]:
        assert row["questions"] == 2 and row["answers"] == 12 and row["image_tokens"] == 16
        assert row["largest_difference"] <= bench_eval.TOLERANCE
        assert row["ratio_to_one_by_one"]["median"] > 0
    (text,) = tmp_path.glob("bench_eval_*_cpu.md")
    (figure,) = tmp_path.glob("bench_eval_*_cpu.png")
    assert figure.name in text.read_text() and figure.read_bytes()[:4] == b"\x89PNG"


def test_scores_that_differ_are_not_timed(small: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bench_eval.Plain._rows
    monkeypatch.setattr(
        bench_eval.Plain, "_rows", lambda self, r, a: [[v + 1e-3 for v in row] for row in plain(self, r, a)]
    )
    with pytest.raises(SystemExit, match="differs from one by one"):
        run(small, tmp_path, monkeypatch)
    assert not list(tmp_path.iterdir())
