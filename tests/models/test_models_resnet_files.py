"""Files of vision models: our own, and weights of transformers, torchvision and timm by their names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification

from clear_dist.models.resnet import VisionModel, new_resnet
from clear_dist.models.resnet_files import load_resnet, model_from, save_resnet, state_of
from clear_dist.models.resnet_settings import SHAPES, ResNetSettings, Size
from clear_dist.types import UserError

CLASSES = 5


def pictures(n: int = 2, size: int = 32) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def used(module: torch.nn.Module) -> Any:
    """Running statistics and scales as after training, so that a swapped or a forgotten one shows."""
    g = torch.Generator().manual_seed(1)
    for child in module.modules():
        if isinstance(child, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            size = (child.num_features,)
            assert child.running_mean is not None and child.running_var is not None
            child.running_mean.copy_(0.2 * torch.randn(size, generator=g))
            child.running_var.copy_(0.5 + torch.rand(size, generator=g))
            child.weight.copy_(0.5 + torch.rand(size, generator=g))
            child.bias.copy_(0.2 * torch.randn(size, generator=g))
    return module.eval()


def theirs(size: Size, **config: Any) -> ResNetForImageClassification:
    """transformers' network of this size with random weights."""
    shape = SHAPES[size]
    expansion = 4 if shape.bottleneck else 1
    values = ResNetConfig(
        layer_type="bottleneck" if shape.bottleneck else "basic",
        embedding_size=shape.widths[0],
        hidden_sizes=[expansion * width for width in shape.widths],
        depths=list(shape.blocks),
        **config,
    )
    values.num_labels = CLASSES
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return used(ResNetForImageClassification(values))


@pytest.fixture
def model() -> VisionModel:
    return used(new_resnet(CLASSES, "tiny", seed=1))


@pytest.fixture
def saved(model: VisionModel, tmp_path: Path) -> Path:
    return save_resnet(model, tmp_path / "resnet")


@pytest.mark.parametrize("size", ["tiny", "18", "50"])
@torch.no_grad()
def test_agrees_with_transformers(size: Size, tmp_path: Path) -> None:
    """Stage by stage; with a picture of an odd side, which tells strides and paddings apart."""
    net, x = theirs(size), pictures(size=65)
    net.save_pretrained(tmp_path)
    expected = net(x, output_hidden_states=True)
    state = torch.get_rng_state()
    found = load_resnet(tmp_path)
    assert torch.equal(state, torch.get_rng_state())
    assert found.settings == ResNetSettings(size, classes=CLASSES) and not found.training
    mine = found(x, stages=range(4))
    for index in range(4):  # theirs starts with the stem's output
        torch.testing.assert_close(mine.stages[index], expected.hidden_states[index + 1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.logits(x), expected.logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_backbone_without_a_head(tmp_path: Path) -> None:
    """transformers' ResNetModel: its names have no ``resnet.`` before them."""
    net, x = theirs("tiny"), pictures()
    net.resnet.save_pretrained(tmp_path)
    found = load_resnet(tmp_path, classes=7)
    assert found.classes == 7
    torch.testing.assert_close(found.embedding(x), net.resnet(x).pooler_output.flatten(1), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"no head \(fc or classifier\.1\); give classes"):
        load_resnet(tmp_path)


def torchvision_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names to torchvision's, from a table of its own."""
    out = {}
    for name, tensor in state.items():
        new = name.removeprefix("resnet.").replace("classifier.1", "fc")
        new = new.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
        for stage in range(4):
            new = new.replace(f"encoder.stages.{stage}.layers.", f"layer{stage + 1}.")
        new = new.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
        for i in range(3):
            new = new.replace(f"layer.{i}.convolution", f"conv{i + 1}").replace(
                f"layer.{i}.normalization", f"bn{i + 1}"
            )
        out[new] = tensor
    return out


@pytest.mark.parametrize("size", ["18", "34", "50"])
@torch.no_grad()
def test_a_file_of_torchvision(size: Size, tmp_path: Path) -> None:
    """One safetensors file under torchvision's names, counters of batches and all; its size is recognised."""
    net, x = theirs(size), pictures()
    state = torchvision_names(net.state_dict())
    assert "layer2.0.downsample.1.num_batches_tracked" in state and "bn1.running_mean" in state
    save_file(state, tmp_path / "weights.safetensors")
    found = load_resnet(tmp_path / "weights.safetensors")
    assert found.settings == ResNetSettings(size, classes=CLASSES)
    torch.testing.assert_close(found.logits(x), net(x).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_directory_of_timm(tmp_path: Path) -> None:
    net, x = theirs("18"), pictures()
    save_file({n: t.half() for n, t in torchvision_names(net.state_dict()).items()}, tmp_path / "model.safetensors")
    config = {"architecture": "resnet18.a1_in1k", "num_classes": CLASSES, "pretrained_cfg": {"tag": "a1_in1k"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = load_resnet(tmp_path)
    assert found.settings.size == "18" and found.dtype == torch.float32
    torch.testing.assert_close(found.logits(x), net(x).logits, rtol=0.02, atol=0.02)  # it was kept in half
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18d"}))
    with pytest.raises(UserError, match=r"architecture 'resnet18d' is not supported"):
        load_resnet(tmp_path)


SETTINGS = [
    ResNetSettings("tiny", "small", 3, "am_softmax", 10, 12.0, 0.2),
    ResNetSettings("tiny", "standard", 4, "softmax", 10),
    ResNetSettings("tiny", "small", 3),
    ResNetSettings("50", "small", 2, "am_softmax"),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_round_trips(settings: ResNetSettings, tmp_path: Path) -> None:
    """Through memory and through files: the same settings, every weight, every output."""
    model, x = used(new_resnet(**asdict(settings))).train(), pictures()
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.eval()
    rng = torch.get_rng_state()
    state = state_of(model)
    for found in (model_from(settings, state), load_resnet(save_resnet(model, tmp_path / "a"))):
        assert found.settings == settings and not found.training
        assert all(torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True))
        torch.testing.assert_close(found.logits(x), model.logits(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(rng, torch.get_rng_state())
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]
    assert all(t.device.type == "cpu" and t.is_contiguous() for t in state.values())
    assert not any(n.endswith("num_batches_tracked") for n in state)


@torch.no_grad()
def test_a_state_is_a_copy(model: VisionModel) -> None:
    state = state_of(model)
    other = model_from(model.settings, state)
    before = state["conv1.weight"].clone()
    model.conv1.weight.add_(1.0)
    other.conv1.weight.sub_(1.0)
    assert torch.equal(state["conv1.weight"], before)
    assert other.train().bn1.num_batches_tracked == 0  # pyright: ignore[reportGeneralTypeIssues]


@torch.no_grad()
def test_a_new_head(model: VisionModel, saved: Path, tmp_path: Path) -> None:
    x = pictures()
    assert torch.equal(load_resnet(saved, classes=CLASSES, head="softmax").logits(x), model.logits(x))
    found = load_resnet(saved, classes=9, seed=3)
    assert found.classes == 9 and torch.equal(found.embedding(x), model.embedding(x))
    assert torch.equal(found.head.weight, load_resnet(saved, classes=9, seed=3).head.weight)
    assert not torch.equal(found.head.weight, load_resnet(saved, classes=9, seed=4).head.weight)
    cosine = load_resnet(saved, head="am_softmax", seed=3)
    assert cosine.settings == ResNetSettings("tiny", classes=CLASSES, head="am_softmax")
    assert torch.equal(cosine.embedding(x), model.embedding(x)) and cosine.head.bias is None
    again = load_resnet(save_resnet(cosine, tmp_path / "again"))
    assert torch.equal(again.head.weight, cosine.head.weight)
    with pytest.raises(UserError, match="at least 1, got 0"):
        load_resnet(saved, classes=0)


def test_saving_over_another_model(saved: Path, tmp_path: Path) -> None:
    other = new_resnet(8, "tiny", head="am_softmax", seed=5)
    save_resnet(other, saved)
    assert torch.equal(load_resnet(saved).fc.weight, other.fc.weight)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; expected a directory"):
        save_resnet(other, tmp_path / "file")


def _config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _state(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)


def _cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


BAD_FILES: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / "config.json").unlink(), r"config\.json: missing"),
    (lambda f: (f / "config.json").write_text('{"model_type": "llama"}'), "of type 'llama'; expected resnet"),
    (lambda f: (f / "config.json").write_text("[]"), "is not a model's configuration"),
    (lambda f: (f / "config.json").write_text("{}"), "is not a model's configuration"),
    (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: missing; no weights"),
    (_cut_off, "fetch the file again"),
    (lambda f: _config(f, size="18"), r"lack \d+ tensors that a ResNet of size 18 with 5 classes .*layer1\.1"),
    (lambda f: _config(f, head="am_softmax"), r"have 1 tensors .*fc\.bias"),
    (lambda f: _config(f, classes=6), r"fc\.bias is torch\.float32 \[5\]; expected floats \[6\]"),
    (lambda f: _config(f, classes="5"), "classes: .*got 5"),
    (lambda f: _config(f, depth=3), "depth: missing or unknown"),
    (lambda f: _state(f, lambda s: s.pop("bn1.running_var")), r"lack 1 tensors .*bn1\.running_var"),
    (lambda f: _state(f, lambda s: s.update({"bn1.weight": s["bn1.weight"].int()})), r"bn1\.weight is torch\.int32"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_FILES)
def test_bad_files(saved: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(saved)
    with pytest.raises(UserError, match=message):
        load_resnet(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": [1, 1, 1, 2]}, "depths is .* do not fit config.json"),
        ({"hidden_sizes": [16, 32, 64, 128]}, "hidden_sizes is .* do not fit config.json"),
        ({"downsample_in_first_stage": True}, "downsample_in_first_stage is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ],
)
def test_another_network_of_transformers(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """What leaves no trace in the weights is refused rather than computed in another way."""
    theirs("tiny").save_pretrained(tmp_path)
    _config(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        load_resnet(tmp_path)


def test_a_bottleneck_with_the_stride_elsewhere(tmp_path: Path) -> None:
    theirs("50", downsample_in_bottleneck=True).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="downsample_in_bottleneck is True"):
        load_resnet(tmp_path)


def test_files_that_are_no_resnet(tmp_path: Path, model: VisionModel) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(3, 3)}, file)
    with pytest.raises(UserError, match=r"x\.safetensors: is not a ResNet of size tiny, 18, 34, 50"):
        load_resnet(file)
    save_file(state_of(model) | {"layer1.0.se.fc1.weight": torch.zeros(4)}, file)
    with pytest.raises(UserError, match=r"have 1 tensors .*layer1\.0\.se\.fc1\.weight"):
        load_resnet(file)
    save_file(state_of(model) | {"classifier.1.weight": torch.zeros(5, 64)}, file)
    with pytest.raises(UserError, match=r"two tensors are fc\.weight"):
        load_resnet(file)
    save_file(state_of(new_resnet(5, "tiny", head="am_softmax")), file)
    with pytest.raises(UserError, match=r"fc has no bias; an AM-softmax head is read from the directory"):
        load_resnet(file, head="am_softmax")


@pytest.mark.parametrize("name", ["resnet18.pth", "checkpoint.pt", "folder/pytorch_model.bin"])
def test_pickles_are_refused_with_what_converts_them(name: str, tmp_path: Path, model: VisionModel) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    torch.save(state_of(model), file)
    if file.parent != tmp_path:
        (file.parent / "config.json").write_text('{"architecture": "resnet18"}')
    with pytest.raises(UserError, match=re.escape(f"{file}: is a pickle")) as refused:
        load_resnet(file if file.parent == tmp_path else file.parent)
    code = "\n".join(line.strip() for line in str(refused.value).splitlines()[1:])
    assert len(code.splitlines()) == 2
    exec(code)  # the two lines it was told
    assert load_file(file.with_suffix(".safetensors")).keys() == state_of(model).keys()
    assert load_resnet(file.with_suffix(".safetensors")).classes == CLASSES


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        load_resnet(tmp_path / "absent")
