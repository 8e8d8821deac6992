"""``--deterministic``: in force for the life of the group, gone after it; and what run.json says of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from clear_dist.engine.deterministic import ENVIRONMENT, fix_order, free_order, machine
from clear_dist.engine.world import close_world, init_world


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = dict(os.environ)
    yield
    free_order()
    os.environ.clear()
    os.environ.update(before)


def test_it_ends_with_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.delenv("FLASH_ATTENTION_DETERMINISTIC", raising=False)
    init_world(deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert {name: os.environ[name] for name in ENVIRONMENT} == ENVIRONMENT
    close_world()
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8" and "FLASH_ATTENTION_DETERMINISTIC" not in os.environ
    init_world()
    assert not torch.are_deterministic_algorithms_enabled()
    close_world()


def test_twice_is_once() -> None:
    fix_order()
    fix_order()
    free_order()
    assert not torch.are_deterministic_algorithms_enabled()
    free_order()


def test_a_cpu_is_deterministic_anyway() -> None:
    found = machine(torch.device("cpu"))
    assert found == {"device": "cpu", "threads": torch.get_num_threads(), "deterministic": True}
