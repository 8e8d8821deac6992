"""The vision model: sizes and stems, stage by stage; frozen normalisation; precisions and memory formats."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clear_dist.models.resnet import VisionModel, freeze_batchnorm, new_resnet
from clear_dist.models.resnet_settings import Size
from clear_dist.types import UserError

CLASSES = 5


def pictures(n: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model() -> VisionModel:
    return new_resnet(CLASSES, "tiny", seed=1)


# ImageNet's 1000 classes; torchvision prints these of its own.
@pytest.mark.parametrize(
    ("size", "parameters", "wide"), [("18", 11_689_512, 512), ("34", 21_797_672, 512), ("50", 25_557_032, 2048)]
)
def test_sizes_are_torchvisions(size: Size, parameters: int, wide: int) -> None:
    model = new_resnet(1000, size)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert (model.classes, model.depth, model.head.in_features) == (1000, 4, wide)
    names = set(model.state_dict())
    assert {
        "conv1.weight",
        "bn1.running_var",
        "layer2.0.downsample.1.weight",
        "layer4.1.conv2.weight",
        "fc.bias",
    } <= names
    assert ("layer1.0.downsample.0.weight" in names) == ("layer1.0.conv3.weight" in names) == (size == "50")


def test_tiny_is_small() -> None:
    body = [p for n, p in new_resnet(5, "tiny").named_parameters() if not n.startswith("fc")]
    assert sum(p.numel() for p in body) == 157_520


@torch.no_grad()
def test_stages(model: VisionModel) -> None:
    x = pictures(size=48)
    out = model(x, stages=range(4))
    assert [tuple(h.shape[1:]) for h in out.stages.values()] == [(16, 12, 12), (32, 6, 6), (64, 3, 3), (64, 2, 2)]
    assert all(torch.equal(model.stage(x, i), h) for i, h in out.stages.items())
    assert torch.equal(model.embedding(x), out.embedding) and out.embedding.shape == (3, 64)
    torch.testing.assert_close(out.embedding, out.stages[3].mean((2, 3)))
    torch.testing.assert_close(model.logits(x), F.linear(out.embedding, model.fc.weight, model.fc.bias))


@torch.no_grad()
def test_a_small_stem_keeps_small_pictures() -> None:
    """No pooling, no stride: four times as many positions on a side as with the standard stem."""
    model = new_resnet(CLASSES, "tiny", stem="small")
    out = model(pictures(), stages=range(4))
    assert [h.shape[-1] for h in out.stages.values()] == [32, 16, 8, 4]


def test_a_projected_embedding() -> None:
    model = new_resnet(CLASSES, "tiny", embedding_size=24).train()
    embedding = model.embedding(pictures(8))
    assert embedding.shape == (8, 24) and model.head.in_features == 24
    torch.testing.assert_close(embedding.mean(0), torch.zeros(24), atol=1e-5, rtol=0)  # centred
    assert float(embedding.detach().min()) < 0
    freeze_batchnorm(model)
    model.train()
    torch.testing.assert_close(model.embedding(pictures(8))[:1], model.embedding(pictures(8)[:1]))


def test_nothing_above_a_stage_is_run(model: VisionModel) -> None:
    ran: list[int] = []
    for index, stage in enumerate(model.stages):
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
    assert not torch.equal(one.conv1.weight, other.conv1.weight)
    assert not one.training


def test_initial_weights() -> None:
    """torchvision's: convolutions of variance 2 / fan out, normalisation that starts as the identity."""
    model = new_resnet(1000, "18", seed=3)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert float(module.weight.detach().var()) == pytest.approx(2 / fan_out, rel=0.05), name
        if isinstance(module, torch.nn.BatchNorm2d):
            state = module.state_dict()
            assert all(bool((state[n] == 1).all()) for n in ("weight", "running_var"))
            assert all(bool((state[n] == 0).all()) for n in ("bias", "running_mean", "num_batches_tracked"))
    assert float(model.fc.weight.detach().abs().max()) == pytest.approx(512**-0.5, rel=1e-3)
    # Rows of an AM-softmax head are about 1 long, in directions without a preferred one.
    rows = new_resnet(1000, "18", head="am_softmax").fc.weight.detach()
    assert float(rows.norm(dim=1).mean()) == pytest.approx(1, abs=0.01)
    assert float((F.normalize(rows, dim=1) ** 4).mean()) == pytest.approx(3 / 512**2, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": "101"}, "size: '101' is unknown.*tiny, 18, 34, 50"),
        ({"stem": "deep"}, "stem: 'deep' is unknown.*standard, small"),
        ({"head": "arcface"}, "head: 'arcface' is unknown.*softmax, am_softmax"),
        ({"classes": 0}, "classes: .*at least 1, got 0"),
        ({"classes": True}, "classes: .*at least 1, got True"),
        ({"embedding_size": 0}, "embedding_size: .*got 0"),
        ({"scale": 0.0}, "scale: .*above 0, got 0"),
        ({"scale": float("nan")}, "scale: .*got nan"),
        ({"scale": "30"}, "scale: .*got 30"),
        ({"margin": -0.1}, "margin: .*got -0.1"),
        ({"margin": 2.0}, "margin: .*got 2"),
    ],
)
def test_what_cannot_be_made(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        new_resnet(**{"classes": 5, "size": "tiny", **wrong})


@pytest.mark.parametrize("size", ["tiny", "50"])
@torch.no_grad()
def test_channels_last_and_autocast(size: Size) -> None:
    model, x = new_resnet(CLASSES, size, head="am_softmax", embedding_size=16), pictures()
    plain = model.embedding(x)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model.embedding(last), plain, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(last, stages=(3,))
        embedding = out.embedding
        assert embedding.dtype == torch.bfloat16 and out.stages[3].is_contiguous(memory_format=torch.channels_last)
        loss = model.classification_loss(embedding, torch.tensor([0, 1, 2]))
        assert loss.dtype == model.logits_of(embedding).dtype == torch.float32
    assert float(F.cosine_similarity(embedding.float(), plain).min()) > 0.99
    # What the head adds is fp32: the same loss from the same embedding without autocast.
    assert torch.equal(loss, model.classification_loss(embedding.float(), torch.tensor([0, 1, 2])))


def test_train_only(model: VisionModel) -> None:
    model.train_only((1, 2))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    everything = {n for n, _ in model.named_parameters()}
    assert trained == {n for n in everything if n.startswith(("layer2.", "layer3."))} and trained
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
        norm = frozen.bn1
        assert norm.weight.grad is not None and float(norm.weight.grad.abs().max()) > 0
    assert list(model.state_dict()) == names
