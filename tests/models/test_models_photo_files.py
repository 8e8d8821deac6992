"""Directories that are no pipeline, or no adapter: named before a weight is read, and nothing in them is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import edit, write_adapter, write_diffusion

from clear_dist.models.photo_adapter import add_adapter
from clear_dist.models.photo_files import inspect_pipeline
from clear_dist.models.photo_pipeline import PhotoPipeline
from clear_dist.types import UserError

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def diffusion_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_diffusion(tmp_path_factory.mktemp("diffusion"))


@pytest.fixture(scope="module")
def adapter_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "adapter")


def index(**changes: Any) -> Spoil:
    return lambda path: edit(path / "model_index.json", **changes)


def config(part: str, **changes: Any) -> Spoil:
    return lambda path: edit(path / part / "config.json", **changes)


def without(tensor: str) -> Spoil:
    def spoil(path: Path) -> None:
        found = load_file(weights(path))
        del found[tensor]
        save_file(found, weights(path), metadata={"format": "pt"})

    return spoil


def weights(path: Path) -> Path:
    return path / "unet" / "diffusion_pytorch_model.safetensors"


def only_pickles(path: Path) -> None:
    weights(path).rename(weights(path).with_suffix(".bin"))


def cut(path: Path) -> None:
    weights(path).write_bytes(weights(path).read_bytes()[:-7])


def with_code(path: Path) -> None:
    (path / "unet" / "evil.py").write_text("raise SystemExit('ran')")
    edit(path / "model_index.json", unet=["evil", "UNet2DConditionModel"])


def shards(table: Any) -> Spoil:
    name = "diffusion_pytorch_model.safetensors.index.json"
    return lambda path: (path / "unet" / name).write_text(json.dumps({"weight_map": table}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "model_index.json").unlink(), r"not a diffusers pipeline: no model_index\.json"),
        (lambda path: (path / "model_index.json").write_text("{"), r"model_index\.json: not JSON"),
        (lambda path: (path / "model_index.json").write_text("[]"), "expected a JSON object; got list"),
        (lambda path: (path / "model_index.json").write_text('{"a": 1, "a": 2}'), "'a' occurs twice"),
        (index(_class_name="EvilPipeline"), "_class_name: diffusers .* has no pipeline 'EvilPipeline'"),
        (index(_class_name="UNet2DModel"), "has no pipeline 'UNet2DModel'"),
        (index(_class_name=["mine", "Pipeline"]), "has no pipeline"),
        (index(unet=["os", "system"]), r"unet: os\.system is not a class of the diffusers"),
        (index(unet=["pipeline_utils", "os"]), r"unet: pipeline_utils\.os is not a class"),
        (index(unet=["pipeline_utils", "Path"]), r"unet: pipeline_utils\.Path is not a class"),
        (index(unet=["diffusers", "Nothing"]), r"diffusers\.Nothing is not a class"),
        (index(unet=["transformers", "TrainingArguments"]), "cannot be loaded from files"),
        (index(unet=["diffusers"]), r"'unet': expected a part's name with \[library, class\]"),
        (index(**{"../unet": ["diffusers", "UNet2DModel"]}), r"'\.\./unet': expected a part's name"),
        (index(tower=["diffusers", "UNet2DModel"]), "tower: missing, though model_index.json names it"),
        (with_code, r"evil\.UNet2DConditionModel is not a class"),
        (only_pickles, r"unet: pickled weights only \(diffusion_pytorch_model\.bin\)"),
        (lambda path: weights(path).unlink(), r"unet: no weights"),
        (cut, "fetch the file again"),
        (
            lambda path: (path / "vae" / "adapter_config.json").write_text("{}"),
            "an adapter lies beside the weights",
        ),
        (lambda path: weights(path).write_bytes(b"version https://git-lfs"), "is not a safetensors file"),
        (shards({"a": "gone.safetensors"}), r"gone\.safetensors: missing, though an index names it"),
        (shards({"a": "../x.safetensors"}), "is not an index of shards"),
        (shards({"a": "x.bin"}), "is not an index of shards"),
        (shards([]), "is not an index of shards"),
    ],
)
def test_bad_directories(diffusion_dir: Path, copy_of: Callable[[Path], Path], spoil: Spoil, message: str) -> None:
    copy = copy_of(diffusion_dir)
    spoil(copy)
    with pytest.raises(UserError, match=message):
        inspect_pipeline(copy)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("conv_out.bias"), r"unet: the weights lack 1 tensors.*first: conv_out\.bias"),
        (config("text_encoder", num_hidden_layers=3), r"text_encoder: the weights lack \d+ tensors"),
        (config("unet", cross_attention_dim=16), "unet: cannot be loaded as a UNet2D"),
        (lambda path: (path / "vae" / "config.json").unlink(), "vae: cannot be loaded as a AutoencoderKL"),
        (lambda path: (path / "scheduler" / "scheduler_config.json").write_text("{"), "cannot be loaded as a Stable"),
    ],
)
def test_parts_that_do_not_fit(
    diffusion_dir: Path, copy_of: Callable[[Path], Path], spoil: Spoil, message: str
) -> None:
    copy = copy_of(diffusion_dir)
    spoil(copy)
    with pytest.raises(UserError, match=message):
        PhotoPipeline.open(copy, device="cpu")


def test_pickles_beside_safetensors_are_never_opened(diffusion_dir: Path, copy_of: Callable[[Path], Path]) -> None:
    copy = copy_of(diffusion_dir)
    weights(copy).with_suffix(".bin").write_bytes(b"\x80\x04not to be read")
    digest = PhotoPipeline.open(copy, device="cpu").digest
    assert digest == inspect_pipeline(diffusion_dir).digest()


def test_parts_that_are_left_out_and_renamed_classes_are_read(
    diffusion_dir: Path, copy_of: Callable[[Path], Path]
) -> None:
    copy = copy_of(diffusion_dir)
    (copy / "feature_extractor").mkdir()
    (copy / "feature_extractor" / "preprocessor_config.json").write_text('{"size": 32, "crop_size": 32}')
    edit(copy / "model_index.json", feature_extractor=["transformers", "CLIPFeatureExtractor"])
    assert "feature_extractor" in inspect_pipeline(copy).folders
    assert PhotoPipeline.open(copy, device="cpu").pipeline.feature_extractor is not None
    assert "safety_checker" not in inspect_pipeline(copy).folders


def test_of_a_hub_pipeline_only_the_parts_weights_are_fetched(
    diffusion_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--some--one" / "snapshots" / "1"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(diffusion_dir)
    asked: list[tuple[list[str], Any]] = []

    def download(name: str, allow_patterns: list[str], ignore_patterns: Any = None) -> str:
        assert name == "some/one"
        asked.append((sorted(allow_patterns), ignore_patterns))
        return str(snapshot)

    with pytest.raises(UserError, match="some/one: no such directory, and the Hub does not give"):
        inspect_pipeline("some/one")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert inspect_pipeline("some/one").path == snapshot
    assert asked[1][0] == ["text_encoder/*.safetensors", "unet/*.safetensors", "vae/*.safetensors"]
    assert "*.fp16*" in asked[1][1]


def test_devices_that_are_none(diffusion_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="device: expected auto, cpu or cuda; got 'gpu'"):
        PhotoPipeline.open(diffusion_dir, device="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device: cuda was asked for"):
        PhotoPipeline.open(diffusion_dir, device="cuda")


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(path: Path) -> None:
        found = load_file(path / "adapter.safetensors")
        change(found)
        save_file(found, path / "adapter.safetensors")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "adapter.safetensors").rename(path / "adapter.bin"), r"expected one \.safetensors file"),
        (
            lambda path: (path / "b.safetensors").write_bytes(b""),
            r"expected one \.safetensors file.*found 2",
        ),
        (lambda path: (path / "adapter.safetensors").write_bytes(b"short"), "is not a safetensors file"),
        (lambda path: (path / "image_encoder").rename(path / "other"), "image_encoder: missing"),
        (lambda path: (path / "image_encoder" / "model.safetensors").unlink(), "image_encoder: no weights"),
        (tensors(lambda found: found.update(lora=torch.zeros(1))), "'lora' is no tensor of an IP-Adapter"),
        (
            tensors(lambda found: [found.pop(key) for key in list(found) if key.startswith("ip_adapter")]),
            r"holds no tensors of ip_adapter\.\*",
        ),
        (
            tensors(lambda found: found.update({"ip_adapter.1.to_k_ip.weight": torch.zeros(3, 3)})),
            "does not fit the StableDiffusionPipeline",
        ),
    ],
)
def test_bad_adapters(
    diffusion_dir: Path, adapter_dir: Path, copy_of: Callable[[Path], Path], spoil: Spoil, message: str
) -> None:
    copy = copy_of(adapter_dir)
    spoil(copy)
    with pytest.raises(UserError, match=message):
        PhotoPipeline.open(diffusion_dir, device="cpu", adapter=copy)


def test_adapters_that_are_nowhere_or_not_taken(diffusion_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such directory"):
        PhotoPipeline.open(diffusion_dir, device="cpu", adapter=tmp_path / "nowhere")
    with pytest.raises(UserError, match="a object takes no IP-Adapter"):
        add_adapter(object(), tmp_path, torch.float32)
