"""Loading, and every mistake a model directory can hold: refused before any weight is read, by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from clear_dist.models import TokenProcessor, files, inspect_model, load_model, save_adapter, weights_digest
from clear_dist.models.load import choose_attention
from clear_dist.models.lora import add_lora
from clear_dist.types import UserError


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def test_inspection(tiny_dir, llama_dir):
    info = inspect_model(tiny_dir)
    assert (info.family.name, info.model_type, info.image_tokens, info.dtypes) == ("llava", "llava", 16, ("F32",))
    assert isinstance(info.processor, TokenProcessor)
    assert info.processor.image_shape == (3, 48, 48)
    model = load_model(info, dtype="fp32", device="cpu")
    assert info.parameters == sum(p.numel() for p in model.module.parameters())
    assert info.bytes == 4 * info.parameters
    text = inspect_model(str(llama_dir))
    assert (text.family.name, text.image_tokens, text.processor.image_id) == ("causal_lm", 0, None)


def test_inspection_loads_no_weight(tiny_dir, copy_of):
    """The tensors' bytes may be anything: only the header is looked at."""
    copy = copy_of(tiny_dir)
    with (copy / "model.safetensors").open("r+b") as f:
        f.seek(-4096, 2)
        f.write(b"\xff" * 4096)
    assert inspect_model(copy).parameters == inspect_model(tiny_dir).parameters


DTYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize(("name", "dtype"), list(DTYPES.items()))
def test_dtype(tiny_dir, name, dtype):
    module = load_model(tiny_dir, dtype=name, device="cpu").module
    assert {p.dtype for p in module.parameters()} == {dtype}
    assert not module.training


def test_tied_head_loads(llama_dir, copy_of):
    copy = copy_of(llama_dir)
    edit(copy / "config.json", lambda c: c.update(tie_word_embeddings=True))
    state = load_file(copy / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    model = load_model(copy, dtype="fp32", device="cpu")
    assert torch.equal(model.family.head(model.module).weight, state["model.embed_tokens.weight"])


def test_sharded_weights(tiny_dir, copy_of):
    copy = copy_of(tiny_dir)
    state = load_file(copy / "model.safetensors")
    names = sorted(state)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({n: state[n] for n in part}, copy / shard, metadata={"format": "pt"})
    (copy / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {n: s for s, part in shards.items() for n in part}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weights_digest(copy) == weights_digest(tiny_dir)
    assert load_model(copy, dtype="fp32", device="cpu").info.parameters == inspect_model(tiny_dir).parameters
    (copy / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-2\.safetensors: missing"):
        inspect_model(copy)
    (copy / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match=r"index\.json: is not an index of shards"):
        inspect_model(copy)
    for outside in ("../other.safetensors", "/etc/passwd", "part/model-1.safetensors"):
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {names[0]: outside}}))
        with pytest.raises(UserError, match=r"names '.*', which is no file of this directory"):
            inspect_model(copy)


def test_snapshot_whose_weights_did_not_come(tiny_dir, tmp_path):
    copy = tmp_path / "snapshots" / "abc"
    shutil.copytree(tiny_dir, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    assert inspect_model(copy).parameters == 0
    with pytest.raises(UserError, match="no weights"):
        load_model(copy, dtype="fp32", device="cpu")


def spoil_config(**changes: Any) -> Callable[[Path], None]:
    return lambda d: edit(d / "config.json", lambda c: c.update(changes))


def spoil_text_config(**changes: Any) -> Callable[[Path], None]:
    return lambda d: edit(d / "config.json", lambda c: c["text_config"].update(changes))


def remove(*names: str) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return spoil


def write(name: str, text: str) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        (directory / name).write_text(text)

    return spoil


def cut(directory: Path) -> None:
    with (directory / "model.safetensors").open("r+b") as f:
        f.truncate(100_000)


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def other_tokenizer(directory: Path) -> None:
    """The image token under another id."""
    text = (directory / "tokenizer.json").read_text()
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        text = (directory / name).read_text().replace("<image>", "<picture>")
        (directory / name).write_text(text)


def image_size(directory: Path) -> None:
    side = {"height": 32, "width": 32}
    edit(directory / "processor_config.json", lambda p: p["image_processor"].update(size=side, crop_size=side))


def head_bias(directory: Path) -> None:
    state = load_file(directory / "model.safetensors")
    state["language_model.lm_head.bias"] = torch.zeros(8)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3700000\n"
MISTAKES = {
    "no config": (remove("config.json"), r"no config\.json"),
    "broken config": (write("config.json", "{"), r"config\.json: is not readable JSON"),
    "config of another kind": (write("config.json", "[]"), r"config\.json: expected a JSON object"),
    "no model type": (spoil_config(model_type=None), r"config\.json: has no model_type"),
    "unknown model type": (spoil_config(model_type="lava"), r"config\.json: .*'lava'"),
    "unsupported model type": (write("config.json", '{"model_type": "bert"}'), r"'bert' is not supported"),
    "wrong value": (spoil_config(image_seq_length="many"), r"config\.json: cannot be read"),
    "no weights": (remove("model.safetensors"), r"no weights"),
    "pickled weights": (pickled, r"pickled weights only"),
    "cut-off weights": (cut, r"model\.safetensors: has 100000 bytes"),
    "LFS pointer": (write("model.safetensors", LFS), r"model\.safetensors: is not a safetensors file.*LFS"),
    "head with a bias": (head_bias, r"head has a bias"),
    "no tokenizer": (remove("tokenizer.json"), r"no tokenizer"),
    "broken tokenizer": (write("tokenizer.json", "{}"), r"tokenizer cannot be read"),
    "larger tokenizer": (spoil_text_config(vocab_size=8), r"tokens, the model's vocab_size is 8"),
    "no image processor": (remove("processor_config.json"), r"no preprocessor_config\.json"),
    "image length": (spoil_config(image_seq_length=17), r"image_seq_length is 17, .* gives 16 tokens"),
    "strategy": (spoil_config(vision_feature_select_strategy="full"), r"image_seq_length is 16, .* gives 17 tokens"),
    "image id": (spoil_config(image_token_index=5), r"'<image>' the id 3, config\.json says image_token_index 5"),
    "image id outside": (spoil_config(image_token_index=4000), r"image_token_index 4000 lies outside"),
    "image token missing": (other_tokenizer, None),
    "processor patches": (
        lambda d: edit(d / "processor_config.json", lambda p: p.update(patch_size=16)),
        r"processor_config\.json: patch_size 16.* make 9 tokens a picture, the model takes 16",
    ),
    "processor extra token": (
        lambda d: edit(d / "processor_config.json", lambda p: p.update(num_additional_image_tokens=0)),
        r"processor_config\.json: .* make 15 tokens a picture, the model takes 16",
    ),
    "picture size": (image_size, r"processor_config\.json: pictures come out at 32 x 32, .* takes 48 x 48"),
    "tower": (
        lambda d: edit(d / "config.json", lambda c: c["vision_config"].update(model_type="vit")),
        r"vision_config\.model_type is 'vit'",
    ),
}


@pytest.mark.parametrize("mistake", [m for m in MISTAKES if MISTAKES[m][1]])
def test_mistakes_are_refused_by_name(tiny_dir, copy_of, mistake):
    spoil, message = MISTAKES[mistake]
    copy = copy_of(tiny_dir)
    spoil(copy)
    with pytest.raises(UserError, match=message) as caught:
        inspect_model(copy)
    assert str(copy) in str(caught.value) or "config.json" in str(caught.value)


def test_renamed_image_token_works_when_all_agree(tiny_dir, copy_of):
    copy = copy_of(tiny_dir)
    other_tokenizer(copy)
    assert inspect_model(copy).processor.image_id == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention", "linear_attention"], "model_type": "qwen2"}, "linear_attention"),
        ({"final_logit_softcapping": 30.0, "model_type": "gemma2"}, "final_logit_softcapping = 30.0"),
        ({"logits_scaling": 8.0, "model_type": "granite"}, "logits_scaling = 8.0"),
        ({"model_type": "mamba"}, "layers of kind linear_attention"),
        ({"model_type": "gpt2"}, "'gpt2' is not supported"),
        ({"model_type": "bert"}, "'bert' is not supported"),
    ],
)
def test_models_packing_or_the_head_cannot_serve(llama_dir, copy_of, changes, message):
    copy = copy_of(llama_dir)
    edit(copy / "config.json", lambda c: c.update(changes))
    with pytest.raises(UserError, match=re.escape(message)):
        inspect_model(copy)


def test_weights_of_another_model(tiny_dir, copy_of):
    copy = copy_of(tiny_dir)
    edit(copy / "config.json", lambda c: c["text_config"].update(num_hidden_layers=4, layer_types=None))
    with pytest.raises(UserError, match=r"the weights lack 9 tensors .*layers\.3"):
        load_model(copy, dtype="fp32", device="cpu")
    edit(copy / "config.json", lambda c: c["text_config"].update(num_hidden_layers=3, hidden_size=64, head_dim=None))
    with pytest.raises(UserError, match="the weights do not fit"):
        load_model(copy, dtype="fp32", device="cpu")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c"])
def test_no_such_directory(name):
    with pytest.raises(UserError, match="no such directory"):
        inspect_model(name)


def test_a_file_is_no_directory(tiny_dir):
    with pytest.raises(UserError, match="is a file"):
        inspect_model(tiny_dir / "config.json")


def test_unknown_hub_name_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the Hub does not give"):
        inspect_model("someone/no-such-model")


def test_hub_model_is_looked_at_before_its_weights_come(monkeypatch, tmp_path, tiny_dir):
    """Inspection fetches the small files alone; loading fetches the weights."""
    target = tmp_path / "snapshots" / "abc"
    asked: list[bool] = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        assert name == "someone/tiny"
        weights = any("safetensors" in p for p in allow_patterns)
        asked.append(weights)
        target.mkdir(parents=True, exist_ok=True)
        for file in tiny_dir.iterdir():
            if weights or file.suffix != ".safetensors":
                shutil.copy(file, target)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    info = inspect_model("someone/tiny")
    assert asked == [False]
    assert info.parameters == 0
    model = load_model(info, dtype="fp32", device="cpu")
    assert asked == [False, True]
    assert model.info.image_tokens == 16


def test_tiny_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "TINY", tmp_path / "nothing")
    with pytest.raises(UserError, match="shipped base model is missing"):
        inspect_model("tiny")


def test_tiny_is_the_shipped_base(monkeypatch, tiny_dir):
    monkeypatch.setattr(files, "TINY", tiny_dir)
    assert inspect_model("tiny").path == tiny_dir


class TestAdapters:
    @pytest.fixture
    def adapter(self, llava, tmp_path) -> Path:
        return save_adapter(add_lora(llava.module, 2, 4, llava.family), None, tmp_path / "adapter")

    def test_tokenizer_comes_from_the_base(self, adapter, tiny_dir):
        info = inspect_model(adapter)
        assert (info.adapter, info.path) == (adapter, tiny_dir)
        assert load_model(info, dtype="fp32", device="cpu").processor.image_tokens == 16

    def test_base_missing(self, adapter):
        edit(adapter / "adapter_config.json", lambda c: c.update(base_model_name_or_path="/nowhere/base"))
        with pytest.raises(UserError, match=r"adapter_config\.json: base_model_name_or_path: /nowhere/base: no such"):
            inspect_model(adapter)

    def test_base_not_named(self, adapter):
        edit(adapter / "adapter_config.json", lambda c: c.update(base_model_name_or_path=None))
        with pytest.raises(UserError, match=r"base_model_name_or_path is empty"):
            inspect_model(adapter)

    def test_base_is_an_adapter(self, adapter):
        edit(adapter / "adapter_config.json", lambda c: c.update(base_model_name_or_path=str(adapter)))
        with pytest.raises(UserError, match="another adapter"):
            inspect_model(adapter)

    def test_weights_missing(self, adapter):
        (adapter / "adapter_model.safetensors").unlink()
        with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
            load_model(adapter, dtype="fp32", device="cpu")

    def test_of_another_shape(self, adapter):
        edit(adapter / "adapter_config.json", lambda c: c.update(r=3))
        with pytest.raises(UserError, match="does not fit its base"):
            load_model(adapter, dtype="fp32", device="cpu")


def test_flash_attention_where_it_cannot_be():
    with pytest.raises(UserError, match="needs the flash-attn package, a GPU and dtype bf16"):
        choose_attention("flash_attention_2", torch.bfloat16, on_gpu=False)
    assert choose_attention("auto", torch.float32, on_gpu=False) == "sdpa"
    assert choose_attention("eager", torch.float32, on_gpu=False) == "eager"
