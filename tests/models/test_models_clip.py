"""CLIP: cosines as the model's own forward gives them, long texts, and directories that are none."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models_support import picture
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
)

from clear_dist.models.clip import inspect_clip, load_clip
from clear_dist.types import UserError

WORDS = ("a", "red", "blue", "shirt", "hat", "person")
LENGTH = 12


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights; as in the real one, the end token has the highest id and stands behind every text."""
    out = tmp_path_factory.mktemp("clip")
    vocab = {word: i for i, word in enumerate(["<pad>", "<unk>", "<s>", *WORDS, "</s>"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    ends = [("<s>", vocab["<s>"]), ("</s>", vocab["</s>"])]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", special_tokens=ends
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(out)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(out)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=CLIPTextConfig(
            vocab_size=len(vocab), max_position_embeddings=LENGTH, pad_token_id=0, bos_token_id=2,
            eos_token_id=len(vocab) - 1, **sizes
        ),
        vision_config=CLIPVisionConfig(image_size=16, patch_size=8, **sizes),
        projection_dim=8,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        CLIPModel(config).eval().save_pretrained(out)
    return out


def test_cosines_are_the_models_own(clip_dir: Path) -> None:
    scorer = load_clip(clip_dir)
    pictures, texts = [picture(1), picture(2), picture(1)], ["a red shirt", "a person", "hat"]
    got = scorer.similarity(pictures, texts)
    assert len(set(got)) == 3 and all(-1 <= value <= 1 for value in got)
    model = CLIPModel.from_pretrained(clip_dir).eval()
    images = CLIPImageProcessorPil.from_pretrained(clip_dir)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(clip_dir)
    for image, text, value in zip(pictures, texts, got, strict=True):
        with torch.no_grad():
            out = model(
                pixel_values=images(images=[image], return_tensors="pt")["pixel_values"],
                input_ids=torch.tensor([tokenizer(text)["input_ids"]]),
            )
        assert value == pytest.approx(float((out.image_embeds * out.text_embeds).sum()), abs=1e-5), (
            "padding is not seen"
        )
    assert scorer.similarity([], []) == []


def test_long_texts_are_cut_off_before_their_end_token(clip_dir: Path) -> None:
    scorer = load_clip(str(clip_dir))
    assert scorer.max_length == LENGTH
    just = " ".join(["red"] * (LENGTH - 2))
    values = scorer.similarity([picture(1)] * 3, [just, just + " hat hat", just[:-4]])
    assert values[0] == pytest.approx(values[1], abs=1e-6) and abs(values[0] - values[2]) > 1e-6


def test_torchvision_stays_out(clip_dir: Path) -> None:
    load_clip(clip_dir).similarity([picture(3, "RGB")], ["a 帽子 🙂"])
    assert "torchvision" not in sys.modules


def test_directories_that_are_no_clip_model(
    clip_dir: Path, tiny_dir: Path, tmp_path: Path, copy_of: Callable[[Path], Path]
) -> None:
    with pytest.raises(UserError, match="no such directory"):
        inspect_clip(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        inspect_clip(tmp_path / "empty")
    with pytest.raises(UserError, match=r"model_type is 'llava', expected 'clip'.*openai/clip"):
        inspect_clip(tiny_dir)
    spoiled = copy_of(clip_dir)
    weights = spoiled / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-10])
    with pytest.raises(UserError, match="fetch the file again"):
        load_clip(spoiled)
    weights.unlink()
    with pytest.raises(UserError, match="no weights"):
        inspect_clip(spoiled)
    weights.write_bytes(data)
    for name in ("preprocessor_config.json", "tokenizer.json"):
        (spoiled / name).unlink()
        with pytest.raises(UserError, match="no picture can be prepared" if "pre" in name else "no tokenizer"):
            inspect_clip(spoiled)
        (spoiled / name).write_bytes((clip_dir / name).read_bytes())
    config = json.loads((spoiled / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (spoiled / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"the weights lack \d+ tensors"):
        load_clip(spoiled)
