"""A base directory and a group of one rank, shared by the engine's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_support import write_model

from clear_dist.models import Model, load_model


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"), seed=5)


@pytest.fixture
def base(base_dir: Path) -> Model:
    return load_model(base_dir, dtype="fp32", device="cpu")
