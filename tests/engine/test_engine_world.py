"""A process group for the time of a block."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from clear_dist import cli
from clear_dist.engine import world as at
from clear_dist.engine.world import World, joined

LAUNCHED = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}


def test_a_group_of_one_ends_with_its_block_however_that_ends() -> None:
    with joined() as group:
        assert (group.rank, group.size) == (0, 1) and os.environ["RANK"] == "0"
    assert not LAUNCHED & set(os.environ) and not torch.distributed.is_initialized()
    with pytest.raises(KeyboardInterrupt), joined(deterministic=True):
        raise KeyboardInterrupt
    assert not LAUNCHED & set(os.environ) and not torch.distributed.is_initialized()
    assert not torch.are_deterministic_algorithms_enabled()


def test_of_several_ranks_one_that_failed_does_not_wait_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(at, "init_world", lambda deterministic: World(1, 2, 1, torch.device("cpu")))
    monkeypatch.setattr(at, "close_world", lambda: closed.append(True))
    with pytest.raises(ValueError, match="mine alone"), joined():
        raise ValueError("mine alone")
    assert not closed
    with joined():
        pass
    assert closed == [True]


def test_a_command_that_fails_leaves_no_launchers_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    words = ["unlearn", "--method", "ga", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 2
    assert str(tmp_path / "data") in capsys.readouterr().err
    assert "RANK" not in os.environ and not torch.distributed.is_initialized()
