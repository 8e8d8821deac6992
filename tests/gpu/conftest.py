"""GPU tests: skipped without CUDA. ``CLEAR_DIST_GPU_TESTS_ON_CPU=1`` runs them on the CPU, so that their code is
exercised where there is no GPU (what only a GPU can do is skipped still)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clear_dist.data.load import Dataset, load_dataset
from clear_dist.data.mini.text import vocabulary_texts
from clear_dist.models import save_model_dir, tiny_llava, word_tokenizer

ON_CPU = os.environ.get("CLEAR_DIST_GPU_TESTS_ON_CPU") == "1"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="needs a GPU; CLEAR_DIST_GPU_TESTS_ON_CPU=1 runs it on the CPU")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not (torch.cuda.is_available() or ON_CPU):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, or the CPU standing in for it."""
    return torch.device("cpu") if ON_CPU else torch.device("cuda", 0)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where CLEAR-mini is made, once for all tests of this folder."""
    folder = tmp_path_factory.mktemp("gpu_cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEAR_DIST_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def data(cache: Path) -> Dataset:
    del cache
    return load_dataset("clear-mini")


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LLaVA with random weights."""
    tokenizer = word_tokenizer(vocabulary_texts())
    return save_model_dir(tiny_llava(tokenizer), tokenizer, tmp_path_factory.mktemp("gpu_model") / "model")
