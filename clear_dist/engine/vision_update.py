"""From an objective to the gradient of one step of a vision model: update rules and penalties, without DeepSpeed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clear_dist.engine.totals import Totals
from clear_dist.engine.vision import VisionBatch, VisionStep, vision_loss_of
from clear_dist.errors import ConfigError
from clear_dist.methods import Objective, Sum
from clear_dist.ops import l1_add_grad_, l1_norm
from clear_dist.types import View


def vision_backward(
    step: VisionStep, objective: Objective, batch: VisionBatch, progress: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Put the objective's update direction into ``.grad`` of the student's trained parameters.

    The gradient of each of the update rule's groups, weighed by the rule's coefficients, plus that of the penalties.
    The batch is the whole of one optimiser step (a rule weighs whole gradients); ``.grad`` is replaced, and None
    where nothing reaches a parameter (above the stage an objective stops at).

    Returns:
        (loss, parts), detached: the groups' sum plus penalties, and every term and penalty without its weight.

    Raises:
        ConfigError: see :meth:`VisionStep.forward`; a penalty on LoRA weights, which vision models do not have.
    """
    if any(p.parameters == "lora" for p in objective.penalties):
        raise ConfigError("l1(LORA): a vision model has no LoRA weights; use l1(ALL)")
    totals = {View(view): Totals(s.stop - s.start, s.stop - s.start) for view, s in batch.view_examples.items()}
    trained = [p for p in step.student.parameters() if p.requires_grad]
    parts: dict[str, Tensor] = {}
    loss = torch.zeros((), dtype=step.student.dtype, device=batch.pixels.device)
    gradients: list[tuple[Tensor | None, ...]] = []
    for group in objective.rule.groups(objective):
        value, found = vision_loss_of(group, step(batch, group.needs), batch, totals, progress)
        gradients.append(torch.autograd.grad(value, trained, allow_unused=True))
        loss = loss + value.detach()
        parts |= found
    if isinstance(objective.rule, Sum):  # one gradient, taken as it is
        (only,) = gradients
        for p, g in zip(trained, only, strict=True):
            p.grad = g
    else:
        gram = torch.tensor([[_inner(a, b) for b in gradients] for a in gradients], dtype=torch.float64)
        weights = objective.rule.coefficients(gram, progress).tolist()
        for p, *own in zip(trained, *gradients, strict=True):
            present = [w * g for w, g in zip(weights, own, strict=True) if g is not None]
            p.grad = torch.stack(present).sum(0) if present else None
    elements = sum(p.numel() for p in trained)
    for penalty in objective.penalties:
        share = 1.0 / elements if penalty.reduction == "mean" else 1.0
        gradients_now = [torch.zeros_like(p) if p.grad is None else p.grad.contiguous() for p in trained]
        l1_add_grad_(trained, gradients_now, penalty.factor * share)
        for p, gradient in zip(trained, gradients_now, strict=True):
            p.grad = gradient
        parts[penalty.name] = share * l1_norm([p.detach() for p in trained])
        loss = loss + penalty.factor * parts[penalty.name]
    for p in trained:
        p.grad = None if p.grad is None else laid_out_as(p, p.grad)
    return loss, parts


def laid_out_as(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory format of its weight: torch's fused optimisers (2.13) take both in the order in which
    they lie in memory, whatever their strides say."""
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)


def _inner(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> float:
    """<a, b> in float64; what is None is 0."""
    both = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return sum(float((x.double() * y.double()).sum()) for x, y in both)
