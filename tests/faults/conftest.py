"""One model and one cache for all tests of faults: CLEAR-mini is drawn once."""

from __future__ import annotations

from pathlib import Path

import pytest

from clear_dist.data.mini.text import vocabulary_texts
from clear_dist.models import save_model_dir, tiny_llava, word_tokenizer


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LLaVA with random weights and CLEAR-mini's vocabulary."""
    tokenizer = word_tokenizer(vocabulary_texts())
    return save_model_dir(tiny_llava(tokenizer), tokenizer, tmp_path_factory.mktemp("model"))
