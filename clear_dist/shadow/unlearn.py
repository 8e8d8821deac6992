"""One method on one shadow model: the equations of ``methods``, on pictures.

A batch holds forget and retain pictures in the proportion in which an epoch shows them; every view's mean is its own
(``engine.vision``). The identity of a RANDOM answer is any other identity the model knows; on IDK the answer is the
uniform distribution.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clear_dist.data.augment_batch import AUGMENTATIONS, augment, normalise
from clear_dist.engine.schedule import lr_factor
from clear_dist.engine.vision import VisionBatch, VisionStep
from clear_dist.engine.vision_update import vision_backward
from clear_dist.errors import ConfigError, UserError
from clear_dist.methods import Objective
from clear_dist.models.resnet import VisionModel, freeze_batchnorm
from clear_dist.shadow.order import batches
from clear_dist.shadow.settings import Unlearning
from clear_dist.shadow.train import sgd
from clear_dist.types import View

VIEWS = frozenset({View.FORGET, View.RETAIN, View.IDK, View.RANDOM, View.AUGMENTED})
STAGES = 4  # of every ResNet
READINGS = 25  # at most, of a run that is watched
OnEpoch = Callable[[float, VisionModel], None]


@dataclass(frozen=True)
class Pictures:
    """pixels [n, 3, H, W] uint8, labels [n] int64: classes of the model, on its device."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Plan:
    """How many steps, and how many pictures of each kind in each."""

    steps: int
    forget: int
    retain: int


def plan_of(objective: Objective, method: Unlearning, forget: int, retain: int) -> Plan:
    """Cut ``forget`` and ``retain`` pictures into batches of at most ``method.batch``.

    Where an objective looks at both, an epoch shows each retain picture once and each forget picture ``repeat`` times.
    A batch never holds a picture twice: where there are fewer than its share, it is smaller, and there are more steps.

    Raises:
        ConfigError: a view or a stage that vision models do not have.
    """
    views = {View(v) for v in objective.needs.views}
    if strange := sorted(views - VIEWS):
        raise ConfigError(
            f"{', '.join(v.name for v in strange)}: the objective looks at it, and a vision model has no such view; "
            f"it has {', '.join(sorted(v.name for v in VIEWS))}"
        )
    if (deepest := max(objective.needs.layers, default=0)) >= STAGES:
        raise ConfigError(f"layer: {deepest} is not there; a vision model has {STAGES} stages, counted from 0")
    shown = {True: forget * method.repeat, False: retain}  # in an epoch; whether they are forget pictures
    there = {True: forget, False: retain}
    looked_at = [k for k in shown if (views - {View.RETAIN} if k else View.RETAIN in views)]
    share = min(
        method.batch / sum(shown[k] for k in looked_at), *(there[k] / shown[k] for k in looked_at)
    )  # of an epoch that a batch can hold
    size = {k: max(1, round(share * shown[k])) if k in looked_at else 0 for k in shown}
    if sum(size.values()) > method.batch:  # both rounded up
        size[max(size, key=lambda k: size[k])] -= 1
    steps = max(1, round(method.epochs * max(shown[k] / size[k] for k in looked_at)))
    return Plan(steps, min(size[True], forget), min(size[False], retain))


def marks(steps: int, epochs: float) -> dict[int, float]:
    """Step -> epochs done, for at most READINGS moments, evenly spaced: whole epochs, and the end."""
    every = max(1, math.ceil(epochs / READINGS))
    moments = [*range(every, math.ceil(epochs), every), epochs]
    return {max(1, round(steps * moment / epochs)): float(moment) for moment in moments}


def unlearn(
    original: VisionModel,
    forget: Pictures,
    retain: Pictures,
    method: Unlearning,
    objective: Objective,
    *,
    seed: int,
    on_epoch: OnEpoch | None = None,
) -> VisionModel:
    """A new model that has unlearned; ``original`` is left as it was (and is the reference, frozen).

    Args:
        seed: of order, augmentation, random identities and perturbation.
        on_epoch: called with (epochs done, the model) at the beginning, with 0, and at ``marks``.

    Raises:
        UserError: the weights are no longer finite. ConfigError: an objective that pictures cannot serve.
    """
    plan = plan_of(objective, method, len(forget), len(retain))
    student = copy.deepcopy(original).requires_grad_(True)
    _perturb(student, method.perturb, seed)
    student.train_only(objective.train_layers)
    reference = original if objective.needs.reference else None
    if method.batchnorm == "frozen":
        freeze_batchnorm(student)
    step = VisionStep(student, reference).train()
    device = forget.pixels.device
    lr = torch.zeros((), device=device)
    optimizer = sgd(student, lr, method.momentum, method.weight_decay)
    factor = lr_factor(method.schedule, plan.steps, method.warmup)
    forget_order = batches(len(forget), max(plan.forget, 1), plan.steps, seed)
    retain_order = batches(len(retain), max(plan.retain, 1), plan.steps, seed + 1)
    generator = torch.Generator().manual_seed(seed + 2)
    watched = {} if on_epoch is None else marks(plan.steps, method.epochs)
    if on_epoch is not None:
        on_epoch(0.0, student)
        step.train()
    for i in range(plan.steps):
        rows = (forget_order[i], retain_order[i])
        batch = _batch(plan, objective, method, forget, retain, rows, original.classes, generator)
        lr.fill_(method.lr * factor(i))
        vision_backward(step, objective, batch, i / plan.steps)
        optimizer.step()
        if on_epoch is not None and i + 1 in watched:
            on_epoch(watched[i + 1], student)
            step.train()
    if not all(bool(torch.isfinite(t).all()) for t in student.state_dict().values()):
        raise UserError(
            f"{objective}: the weights are no longer finite; lower the learning rate ({method.lr:g}) or the epochs"
        )
    return student.eval()


def _batch(
    plan: Plan,
    objective: Objective,
    method: Unlearning,
    forget: Pictures,
    retain: Pictures,
    rows_of: tuple[Tensor, Tensor],
    classes: int,
    generator: torch.Generator,
) -> VisionBatch:
    views = {View(v) for v in objective.needs.views}
    device = forget.pixels.device
    forget_rows, retain_rows = rows_of
    pixels: list[Tensor] = []
    labels: list[Tensor] = []
    ranges: dict[str, slice] = {}
    instead: dict[str, Tensor] = {}
    rows = 0
    if plan.forget:
        at = forget_rows.to(device)
        raw, truth = forget.pixels[at], forget.labels[at]
        seen = normalise(raw)
        pixels, labels, rows = [seen], [truth], len(truth)
        ranges |= {view.value: slice(0, rows) for view in views & {View.FORGET, View.IDK, View.AUGMENTED}}
        if View.RANDOM in views:
            other = torch.randint(1, classes, (rows,), generator=generator).to(device)
            pixels.append(seen)
            labels.append((truth + other) % classes)
            ranges[View.RANDOM.value] = slice(rows, 2 * rows)
            rows *= 2
        if View.AUGMENTED in views:
            seed = int(torch.randint(1 << 31, (1,), generator=generator))
            instead[View.AUGMENTED.value] = augment(raw, seed, 0, AUGMENTATIONS[method.augment])
    if plan.retain:
        at = retain_rows.to(device)
        pixels.append(normalise(retain.pixels[at]))
        labels.append(retain.labels[at])
        ranges[View.RETAIN.value] = slice(rows, rows + len(at))
        rows += len(at)
    everything = torch.cat(pixels).contiguous(memory_format=torch.channels_last)
    ids = [str(n) for n in (*forget_rows.tolist()[: plan.forget], *retain_rows.tolist()[: plan.retain])]
    ids += [f"random/{n}" for n in range(rows - len(ids))]
    return VisionBatch(everything, torch.cat(labels), ranges, ids, instead or None)


@torch.no_grad()
def _perturb(model: VisionModel, share: float, seed: int) -> None:
    """Add noise of ``share`` times each weight matrix's standard deviation; drawn on the CPU, so alike everywhere."""
    if not share:
        return
    generator = torch.Generator().manual_seed(seed + 3)
    for p in model.parameters():
        if p.ndim > 1:
            p.add_((torch.randn(p.shape, generator=generator) * (share * float(p.std()))).to(p.device))
