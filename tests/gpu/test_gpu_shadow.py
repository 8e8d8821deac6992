"""Shadow models on a GPU: the captured step is the eager one, and a whole farm is made, unlearned and read there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shadow.vision_farm import finished, identities, make_farm, planned, run_farm, settings
from torch import Tensor

from clear_dist.models.resnet import ResNetSettings, VisionModel, initialised
from clear_dist.models.resnet_files import state_of
from clear_dist.shadow.results import read_results
from clear_dist.shadow.settings import Training
from clear_dist.shadow.train import WARM_STEPS, train_classifier

DATA = identities()
TRAINING = Training(4, 0.05, 14, augment="shift")  # 28 steps, of which the graph replays all but the first


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """fp32 means fp32, and the same algorithms every time."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.deterministic
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.deterministic = before


def trained(
    device: torch.device, graph: bool | None, training: Training = TRAINING, autocast: torch.dtype | None = None
) -> VisionModel:
    model = initialised(ResNetSettings(size="tiny", classes=len(DATA.names), head="am_softmax"), 0)
    model.autocast = autocast
    out = train_classifier(model, DATA.pixels.to(device), DATA.labels.to(device), training, seed=1, graph=graph)
    assert out.steps > WARM_STEPS and np.isfinite(out.loss)
    return model


def furthest(a: VisionModel, b: VisionModel) -> float:
    """The largest difference of two weights or statistics, relative to the size of the tensor's largest."""
    one, two = state_of(a), state_of(b)
    return max(float((one[n].cpu() - two[n].cpu()).abs().max() / two[n].abs().max().clamp_min(1e-3)) for n in one)


@pytest.mark.parametrize("augment", ["none", "shift", "photo"])
def test_a_captured_step_is_the_eager_one(device: torch.device, augment: str) -> None:
    if device.type != "cuda":
        pytest.skip("only a GPU has graphs")
    training = replace(TRAINING, augment=augment)
    captured, eager = trained(device, True, training), trained(device, False, training)
    assert furthest(captured, eager) < 1e-3
    assert furthest(captured, initialised(captured.settings, 0)) > 0.1, "it has learned"


def test_the_rate_and_the_pictures_of_every_step_reach_the_graph(device: torch.device) -> None:
    """A graph that kept its first step's rate, pictures or draws would end elsewhere."""
    if device.type != "cuda":
        pytest.skip("only a GPU has graphs")
    base = trained(device, True)
    assert furthest(base, trained(device, True, replace(TRAINING, schedule="constant", warmup=0.0))) > 1e-2
    assert furthest(base, trained(device, True, replace(TRAINING, augment="none"))) > 1e-2


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_training_there_is_training_here(device: torch.device, autocast: torch.dtype | None) -> None:
    """A short one: rounding, then the gradients of a network, drive longer ones apart."""
    short = Training(1, 0.01, 14)
    there, here = trained(device, None, short, autocast), trained(torch.device("cpu"), None, short, autocast)
    assert furthest(there, here) < (1e-3 if autocast is None else 0.2)
    assert next(there.parameters()).device.type == device.type


def test_weights_and_gradients_lie_alike(device: torch.device) -> None:
    """Fused SGD takes a gradient in the order it lies in memory."""
    model = initialised(ResNetSettings(size="tiny", classes=3), 0).to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.randn(4, 3, 16, 16, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([0, 1, 2, 0], device=device)
    model.train().classification_loss(model.embedding(x), labels).backward()

    def order(t: Tensor) -> Tensor:
        return torch.arange(t.numel()).as_strided(t.shape, t.stride())

    for name, p in model.named_parameters():
        assert p.grad is not None and torch.equal(order(p), order(p.grad)), name


def test_a_farm_is_made_there(device: torch.device, tmp_path: Path) -> None:
    """Training, gold, four kinds of unlearning; read as the attacks read it. A worker takes the GPU by itself."""
    del device
    chosen = settings(DATA, ("retain_ft", "scrub_bio", "twins", "rmu"), trace=("retain_ft",), precision="bf16")
    farm = make_farm(tmp_path / "farm", DATA, chosen)
    tasks = planned(DATA, chosen)[1]
    assert run_farm(farm) == len(tasks)
    results = read_results(farm)
    assert results.incomplete == () and set(results.logits) == {"original", "gold", *chosen.methods}
    for models in results.logits.values():
        assert all(np.isfinite(logits).all() and np.ptp(logits) > 0.1 for logits in models.values())
    trace = results.traces["retain_ft"][0]
    np.testing.assert_array_equal(trace.logits[0], results.logits["original"][0])
    np.testing.assert_array_equal(trace.logits[-1], results.logits["retain_ft"][0])
    assert len(finished(farm)) == len(tasks)
