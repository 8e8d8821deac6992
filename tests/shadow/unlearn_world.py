"""For tests of unlearning: a trained network, its pictures, and what every step was shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from vision_farm import identities

from clear_dist.engine.vision import VisionBatch, VisionStep
from clear_dist.methods import Objective
from clear_dist.models.resnet import ResNetSettings, VisionModel, initialised
from clear_dist.models.resnet_files import model_from, state_of
from clear_dist.models.resnet_settings import Head
from clear_dist.shadow import unlearn as module
from clear_dist.shadow.presets import PAPER_METHODS, unlearning_of
from clear_dist.shadow.run import objective_of
from clear_dist.shadow.settings import Training, Unlearning
from clear_dist.shadow.train import train_classifier
from clear_dist.shadow.unlearn import Pictures, unlearn

DATA = identities(people=6, pictures=4)
CLASSES, CUT = 6, 8  # the first two people, 8 pictures, are to be forgotten
FORGET, RETAIN = Pictures(DATA.pixels[:CUT], DATA.labels[:CUT]), Pictures(DATA.pixels[CUT:], DATA.labels[CUT:])


@cache
def _trained(head: Head) -> tuple[ResNetSettings, dict[str, Tensor]]:
    settings = ResNetSettings(size="tiny", classes=CLASSES, head=head)
    model = initialised(settings, 0)
    train_classifier(model, DATA.pixels, DATA.labels, Training(6, 0.05, 12), seed=0)
    return settings, state_of(model)


def original(
    head: Head = "am_softmax", autocast: torch.dtype | None = None, dtype: torch.dtype = torch.float32
) -> VisionModel:
    """A model that knows the six people; a new copy each time."""
    model = model_from(*_trained(head))
    model.autocast = autocast
    return model.to(dtype)


def setting(name: str, **changes: Any) -> tuple[Unlearning, Objective]:
    """A method of the table for one short epoch, and its equation."""
    method = unlearning_of(name, PAPER_METHODS[name], {"epochs": 1.0, "batch": 6, **changes})
    return method, objective_of(method)


def forgotten(model: VisionModel, name: str, seed: int = 3, **changes: Any) -> VisionModel:
    method, objective = setting(name, **changes)
    return unlearn(model, FORGET, RETAIN, method, objective, seed=seed)


def copied(model: VisionModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@dataclass
class Seen:
    """One entry a step: what it was shown, and the gradient it left (nothing where steps are only looked at)."""

    batches: list[VisionBatch] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)


def watch(monkeypatch: pytest.MonkeyPatch, compute: bool = True) -> Seen:
    """Look over ``unlearn``'s shoulder; without ``compute`` no gradient is taken, so that nothing is learned."""
    seen = Seen()
    real: Callable[..., tuple[Tensor, dict[str, Tensor]]] = module.vision_backward

    def spy(step: VisionStep, objective: Objective, batch: VisionBatch, progress: float = 0.0) -> None:
        seen.batches.append(batch)
        seen.progress.append(progress)
        if compute:
            real(step, objective, batch, progress)
            named = step.student.named_parameters()
            seen.gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})

    monkeypatch.setattr(module, "vision_backward", spy)
    return seen
