"""The profile of a step accounts for all of it, and leaves what it promises. Its figures are not tested."""

from __future__ import annotations

import gzip
import json
from itertools import count
from pathlib import Path

import pytest
import torch

from benchmarks import profile_losses
from clear_dist.data.mini.text import vocabulary_texts
from clear_dist.models import save_model_dir, tiny_llava, word_tokenizer


def test_phases_account_for_the_whole_step():
    ticks = count()
    phases = profile_losses.Phases(torch.device("cpu"), lambda: float(next(ticks)))

    class Module:
        def outer(self) -> int:
            return self.inner()

        def inner(self) -> int:
            return 7

    module = Module()
    phases.wrap(module, "outer", profile_losses.REFERENCE)
    phases.wrap(module, "inner", profile_losses.STUDENT)
    with phases.step():
        assert module.outer() == 7, "the inner call is part of the outer phase"
        assert module.inner() == 7
        assert module.inner() == 7
    (step,) = phases.steps
    assert step == {profile_losses.REFERENCE: 1.0, profile_losses.STUDENT: 2.0, profile_losses.OTHER: 4.0}
    rows = {r["phase"]: r for r in profile_losses.rows_of([step])}
    assert rows[profile_losses.STUDENT]["ms"]["median"] == 2000 and rows[profile_losses.STUDENT]["share"] == 2 / 7
    assert rows[profile_losses.BACKWARD]["share"] == 0


def test_a_step_is_profiled(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path_factory.mktemp("cache")))
    tokenizer = word_tokenizer(vocabulary_texts())
    model = save_model_dir(tiny_llava(tokenizer), tokenizer, tmp_path / "model")
    arguments = ["--quick", "--method", "npo", "--global-batch", "4", "--device", "cpu", "--model", str(model)]
    assert profile_losses.main([*arguments, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "profile_npo.json").read_text())["rows"]
    assert [r["phase"] for r in rows] == [*profile_losses.PHASES, profile_losses.OTHER]
    assert all(r["ms"]["median"] > 0 for r in rows), "npo has every phase"
    with gzip.open(tmp_path / "profile_npo.trace.json.gz", "rt") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert set(profile_losses.PHASES) <= names
    (text,) = tmp_path.glob("profile_npo_*_cpu.md")
    assert "reference forward" in text.read_text() and "aten::" in text.read_text()
    assert len(list(tmp_path.glob("profile_npo_*_cpu.png"))) == 1


def test_a_method_of_several_backward_passes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert profile_losses.main(["--quick", "--method", "grad_orth", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "--method grad_orth" in capsys.readouterr().err and not list(tmp_path.iterdir())
