"""The packing benchmark runs, checks before it measures, and writes what it promises. Its figures are not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import bench_packing
from benchmarks.common import Spread, interleaved, machine
from clear_dist.data.mini.text import vocabulary_texts
from clear_dist.models import save_model_dir, tiny_llava, word_tokenizer


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = word_tokenizer(vocabulary_texts())
    return save_model_dir(tiny_llava(tokenizer), tokenizer, tmp_path_factory.mktemp("bench") / "model")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEAR_DIST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def arguments(model: Path, out: Path) -> list[str]:
    return ["--quick", "--global-batch", "6", "--device", "cpu", "--model", str(model), "--out", str(out)]


def test_results_have_the_promised_form(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert bench_packing.main(arguments(model_dir, tmp_path)) == 0
    found = json.loads((tmp_path / "bench_packing.json").read_text())
    assert found["v"] == 1
    assert {"date", "commit", "device", "cpu", "cores", "threads", "python", "versions"} <= found["machine"].keys()
    expected = [(m, x) for m in ("npo", "retain_ft") for x in ("padded", "unshared", "dense")]
    assert [(r["method"], r["layout"]) for r in found["rows"]] == expected
    for method in ("npo", "retain_ft"):
        padded, unshared, dense = (r for r in found["rows"] if r["method"] == method)
        assert padded["real_tokens"] == unshared["real_tokens"] == dense["real_tokens"], "one number for all layouts"
        assert padded["model_tokens"] == padded["real_tokens"], "nothing is shared where every question stands alone"
        assert dense["model_tokens"] < unshared["model_tokens"] and dense["pictures"] < unshared["pictures"]
        assert dense["positions"] < unshared["positions"] < padded["positions"]
        assert padded["ratio_to_padded"] == {"median": 1.0, "min": 1.0, "max": 1.0}
        for row in (padded, unshared, dense):
            assert row["largest_difference"] <= 1e-5
            assert row["ratio_to_padded"]["min"] <= row["ratio_to_padded"]["median"] <= row["ratio_to_padded"]["max"]
            assert row["real_tokens_per_s"]["median"] > 0 and row["rounds"] == 2 and row["steps"] == 1
        assert padded["examples"] == unshared["examples"] == dense["examples"] >= 6
    (text,) = tmp_path.glob("bench_packing_*_cpu.md")
    (figure,) = tmp_path.glob("bench_packing_*_cpu.png")
    assert figure.name in text.read_text() and figure.read_bytes()[:4] == b"\x89PNG"
    assert "npo on clear-mini" in capsys.readouterr().out


def test_a_layout_that_computes_something_else_is_not_timed(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    plain = bench_packing.pack

    def leaking(*args, layout, **more):
        batch = plain(*args, layout=layout, **more)
        if layout == "dense":
            batch.visible_until.fill_(batch.visible_until.shape[1])  # every sequence of a row sees those before it
        return batch

    monkeypatch.setattr(bench_packing, "pack", leaking)
    assert bench_packing.main(arguments(model_dir, tmp_path)) == 2
    assert "differs from padded" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rounds_interleave_and_each_begins_elsewhere():
    calls: list[tuple[str, int]] = []
    variants = {name: (lambda n, name=name: calls.append((name, n))) for name in "abc"}
    seconds = interleaved(variants, 3, torch.device("cpu"))
    assert "".join(name for name, _ in calls) == "abcbcacab"
    assert [n for _, n in calls] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [list(r) for r in seconds] == [["a", "b", "c"]] * 3 and all(v >= 0 for r in seconds for v in r.values())


def test_spread_and_machine():
    assert Spread.of([3.0, 1.0, 2.0]).json() == {"median": 2.0, "min": 1.0, "max": 3.0}
    info = machine(torch.device("cpu"))
    assert info["device"] == "cpu" and "gpu" not in info and info["memory_gb"] > 0


def test_help_explains(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        bench_packing.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "real tokens" in shown and "--rounds" in shown
