"""Tiny models every test of this folder shares, written once as directories."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models_support import TEXTS
from transformers import LlamaConfig, LlamaForCausalLM

from clear_dist.models import load_model, save_model_dir, tiny_llava, word_tokenizer
from clear_dist.models.model import Model


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = word_tokenizer(TEXTS)
    return save_model_dir(tiny_llava(tokenizer, seed=3), tokenizer, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = word_tokenizer(TEXTS)
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return save_model_dir(LlamaForCausalLM(config), tokenizer, tmp_path_factory.mktemp("llama"))


@pytest.fixture(params=["llava", "llama"])
def model(request: pytest.FixtureRequest, tiny_dir: Path, llama_dir: Path) -> Model:
    return load_model(tiny_dir if request.param == "llava" else llama_dir, dtype="fp32", device="cpu")


@pytest.fixture
def llava(tiny_dir: Path) -> Model:
    return load_model(tiny_dir, dtype="fp32", device="cpu")


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of a model directory that a test may spoil."""

    def copy(source: Path) -> Path:
        return Path(shutil.copytree(source, tmp_path / "copy"))

    return copy
