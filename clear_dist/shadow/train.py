"""Training a classifier of identities: pictures resident on the device, one step, captured as a CUDA graph on a GPU.

Decoding costs tens of milliseconds a picture and a step a few: pictures are decoded once for the whole farm and stay
on the device as bytes; choosing, augmenting and normalising a batch happens there. On a GPU small pictures leave a step
bound by kernel launches, so the whole step (gather, augment, forward, backward, SGD) is one graph, replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clear_dist.data.augment_batch import AUGMENTATIONS, DRAWS, augment_with, draws, normalise
from clear_dist.engine.schedule import lr_factor
from clear_dist.errors import UserError
from clear_dist.models.resnet import VisionModel
from clear_dist.shadow.order import batches, steps_of
from clear_dist.shadow.settings import Training

WARM_STEPS = 3  # eager steps before a graph is captured: cuDNN chooses its algorithms, the optimiser makes its buffers


@dataclass(frozen=True)
class Trained:
    """What a training said of itself: the mean loss of the last tenth of its steps, and how many there were."""

    loss: float
    steps: int


def sgd(model: VisionModel, lr: Tensor, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """One fused kernel for all weights; the rate is a tensor, so that a captured step reads it anew."""
    trained = [p for p in model.parameters() if p.requires_grad]
    rate: Any = lr  # torch's stubs know numbers only
    return torch.optim.SGD(trained, lr=rate, momentum=momentum, weight_decay=weight_decay, fused=True)


def train_classifier(
    model: VisionModel,
    pixels: Tensor,
    labels: Tensor,
    training: Training,
    *,
    seed: int,
    graph: bool | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train in place; ``model`` is in evaluation mode afterwards, its weights on the device of ``pixels``.

    Precision is the model's own (``VisionModel.autocast``).

    Args:
        pixels: [N, 3, H, W] uint8, resident. labels: [N] int64, same device, in [0, classes).
        seed: of order and augmentation. The same arguments on the same kind of device give the same weights.
        graph: capture the step; None: on a GPU.
        on_step: called with (step, steps) after each.

    Raises:
        UserError: the loss is no longer finite.
    """
    device = pixels.device
    steps = steps_of(len(pixels), training.batch, training.epochs)
    order = batches(len(pixels), training.batch, steps, seed)
    size = order.shape[1]
    augmentation = AUGMENTATIONS[training.augment]
    plain = training.augment == "none"
    model.to(device=device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    lr = torch.zeros((), device=device)
    optimizer = sgd(model, lr, training.momentum, training.weight_decay)
    chosen = torch.zeros(size, dtype=torch.int64, device=device)
    numbers = torch.zeros(size, DRAWS, device=device)
    losses = torch.zeros(steps, device=device)
    at = torch.zeros(1, dtype=torch.int64, device=device)

    def step() -> None:
        mine = pixels[chosen]
        x = normalise(mine) if plain else augment_with(mine, numbers, augmentation)
        embedding = model.embedding(x.contiguous(memory_format=torch.channels_last))
        loss = model.classification_loss(embedding, labels[chosen])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.scatter_(0, at, loss.detach().float()[None])

    factor = lr_factor(training.schedule, steps, training.warmup)
    run: Callable[[], None] = step
    captured: torch.cuda.CUDAGraph | None = None
    graph = device.type == "cuda" if graph is None else graph
    for i in range(steps):
        chosen.copy_(order[i])
        at.fill_(i)
        lr.fill_(training.lr * factor(i))
        if not plain:
            numbers.copy_(draws(size, seed, i))
        if graph and captured is None and i == WARM_STEPS:
            captured = _capture(step)
            run = captured.replay
        run()
        if on_step is not None:
            on_step(i + 1, steps)
    tail = losses[-max(1, steps // 10) :].mean().item()
    if not tail < float("inf"):
        raise UserError(
            f"training: the loss became {tail} within {steps} steps; lower the learning rate ({training.lr:g})"
        )
    model.eval()
    return Trained(tail, steps)


def _capture(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """The step as a graph. Capturing runs nothing: the caller replays it for this very step."""
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.graph(graph, stream=side):
        step()
    return graph
