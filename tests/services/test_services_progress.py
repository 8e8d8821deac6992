"""Lines of progress in a log file: their estimate counts what was done here, not what a checkpoint brought."""

from __future__ import annotations

import pytest

from clear_dist.services import progress


def test_an_estimate_leaves_out_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.task("training", 100) as bar:
        assert bar is not None
        bar.begin_at(60)
        now[0] += 40.0
        bar.update(80, "loss 1.000")
        now[0] += 40.0
        bar.update(100)
    said = capsys.readouterr().err.splitlines()
    assert said == ["training: 80/100, 40 s, 40 s left  loss 1.000", "training: 100/100, 80 s"]
