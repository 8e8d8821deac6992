"""The vision model: what transformers computes, stage by stage; frozen normalisation; its files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import ResNetForImageClassification, ResNetModel

from clear_dist.models.resnet import VisionModel, freeze_batchnorm, load_resnet, new_resnet, save_resnet
from clear_dist.types import UserError

CLASSES = 5


def pictures(n: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model() -> VisionModel:
    return new_resnet(CLASSES, "tiny", seed=1)


@pytest.fixture
def saved(model: VisionModel, tmp_path: Path) -> Path:
    return save_resnet(model, tmp_path / "resnet")


@torch.no_grad()
def test_agrees_with_transformers(model: VisionModel) -> None:
    x = pictures(size=48)
    theirs = model.net(x, output_hidden_states=True)
    mine = model(x, stages=range(4))
    assert mine.embedding is not None and mine.embedding.shape == (3, 64)
    assert torch.equal(model.logits(x), theirs.logits) and theirs.logits.shape == (3, CLASSES)
    assert torch.equal(model.embedding(x), mine.embedding)
    for index in range(4):  # theirs starts with the stem's output
        assert torch.equal(mine.stages[index], theirs.hidden_states[index + 1])
        assert torch.equal(model.stage(x, index), mine.stages[index])
    assert [tuple(h.shape[1:]) for h in mine.stages.values()] == [(16, 12, 12), (32, 6, 6), (64, 3, 3), (64, 2, 2)]


def test_resnet_18_is_resnet_18() -> None:
    """torchvision's ResNet-18 of 1000 classes has 11,689,512 parameters."""
    model = new_resnet(1000, "18")
    assert sum(p.numel() for p in model.parameters()) == 11_689_512
    assert (model.classes, model.depth, model.head.in_features) == (1000, 4, 512)


def test_nothing_above_a_stage_is_run(model: VisionModel) -> None:
    ran: list[int] = []
    for index, stage in enumerate(model.net.resnet.encoder.stages):
        stage.register_forward_hook(lambda *_, i=index: ran.append(i))
    out = model(pictures(), stages=(1,), depth=2)
    assert ran == [0, 1] and out.embedding is None and set(out.stages) == {1}


@pytest.mark.parametrize(("stages", "depth"), [((4,), None), ((2,), 2), ((-1,), None), ((), 5), ((), 0)])
def test_a_stage_that_is_not_there(model: VisionModel, stages: tuple[int, ...], depth: int | None) -> None:
    with pytest.raises(IndexError, match="stages are run, counted from 0"):
        model(pictures(), stages, depth)


def test_precision_is_the_models(model: VisionModel) -> None:
    assert model.double().logits(pictures()).dtype == torch.float64
    assert model.bfloat16().embedding(pictures()).dtype == torch.bfloat16


def test_seeds() -> None:
    state = torch.get_rng_state()
    one, same, other = (new_resnet(CLASSES, "tiny", seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)
    assert not one.training


@pytest.mark.parametrize(("classes", "size", "message"), [(5, "50", "'50' is unknown.*18, tiny"), (0, "18", "got 0")])
def test_what_cannot_be_made(classes: int, size: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        new_resnet(classes, size)  # pyright: ignore[reportArgumentType]


def test_train_only(model: VisionModel) -> None:
    model.train_only((1, 2))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    everything = {n for n, _ in model.named_parameters()}
    assert trained == {n for n in everything if "stages.1." in n or "stages.2." in n} and trained
    model.train_only(None)
    assert all(p.requires_grad for p in model.parameters())


def test_frozen_normalisation_stays_frozen(model: VisionModel) -> None:
    x = pictures(4)
    names = list(model.state_dict())
    with torch.no_grad():
        before = model.logits(x)
        assert not torch.allclose(copy.deepcopy(model).train().logits(x), before, atol=1e-3), (
            "there is nothing to freeze"
        )
    freeze_batchnorm(model)
    again = copy.deepcopy(model)
    for frozen in (model, again):
        frozen.train()
        assert frozen.training and frozen.head.training
        buffers = {n: b.clone() for n, b in frozen.named_buffers()}
        logits = frozen.logits(x)
        torch.testing.assert_close(logits, before)
        torch.testing.assert_close(frozen.logits(x[:1]), before[:1])  # alone as among others
        assert all(torch.equal(b, buffers[n]) for n, b in frozen.named_buffers())
        logits.square().sum().backward()
        norm = frozen.net.resnet.embedder.embedder.normalization
        assert norm.weight.grad is not None and float(norm.weight.grad.abs().max()) > 0
    assert list(model.state_dict()) == names


@torch.no_grad()
def test_files_round_trip(model: VisionModel, saved: Path) -> None:
    x = pictures()
    assert sorted(f.name for f in saved.iterdir()) == ["config.json", "model.safetensors"]
    state = torch.get_rng_state()
    found = load_resnet(saved)
    assert torch.equal(state, torch.get_rng_state())
    assert not found.training and torch.equal(found.logits(x), model.logits(x))
    assert torch.equal(load_resnet(saved, classes=CLASSES).logits(x), model.logits(x))
    theirs = ResNetForImageClassification.from_pretrained(saved, use_safetensors=True)
    assert torch.equal(theirs(x).logits, model.logits(x))


@torch.no_grad()
def test_a_new_head(model: VisionModel, saved: Path, tmp_path: Path) -> None:
    found = load_resnet(saved, classes=9, seed=3)
    assert found.classes == 9
    assert torch.equal(found.embedding(pictures()), model.embedding(pictures()))
    assert torch.equal(found.head.weight, load_resnet(saved, classes=9, seed=3).head.weight)
    assert not torch.equal(found.head.weight, load_resnet(saved, classes=9, seed=4).head.weight)
    assert load_resnet(save_resnet(found, tmp_path / "again")).classes == 9
    with pytest.raises(UserError, match="at least 1, got 0"):
        load_resnet(saved, classes=0)


@torch.no_grad()
def test_a_backbone_without_a_head(model: VisionModel, tmp_path: Path) -> None:
    backbone = model.net.resnet
    assert isinstance(backbone, ResNetModel)
    backbone.save_pretrained(tmp_path)
    found = load_resnet(tmp_path, classes=7)
    assert torch.equal(found.embedding(pictures()), model.embedding(pictures()))
    with pytest.raises(UserError, match=r"lack 2 tensors.*classifier\.1"):
        load_resnet(tmp_path)


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _of_another_type(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def _of_no_type(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _wider(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_sizes": [16, 32, 64, 128]}))


def _deeper(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "depths": [1, 1, 1, 2]}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_config, r"config\.json: missing"),
        (_of_another_type, "of type 'llama'; expected resnet"),
        (_of_no_type, "is not a model's configuration"),
        (_without_weights, "no weights"),
        (_cut_off, "fetch the file again"),
        (_wider, "do not fit config.json"),
        (_deeper, "lack .* tensors"),
    ],
)
def test_bad_files(saved: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(saved)
    with pytest.raises(UserError, match=message):
        load_resnet(saved)


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        load_resnet(tmp_path / "absent")
