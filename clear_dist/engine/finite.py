"""Steps that are no numbers: found on every rank before a weight moves, left out up to a cap, counted."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .world import World

_ADVICE = "Lower --lr, or bound the ascent (npo instead of ga)."


def summed(shares: Mapping[str, Tensor], world: World) -> dict[str, float]:
    """Each rank's shares [float64 scalars], added up: the same numbers on all of them."""
    sums = torch.stack(list(shares.values()))
    if world.size > 1:
        torch.distributed.all_reduce(sums)
    return dict(zip(shares, sums.tolist(), strict=True))


def bad_loss(sums: Mapping[str, float]) -> str | None:
    """What is not finite among the loss and its parts; None where all is."""
    bad = [name for name, value in sums.items() if not math.isfinite(value)]
    return f"{', '.join(bad)} is not finite" if bad else None


def bad_norm(norm: Any) -> str | None:
    """A loss can be finite and its gradient not; the norm is the same on every rank."""
    return None if norm is None or math.isfinite(norm) else f"the gradient's norm is {float(norm)}"


def refuse(problem: str, step: int, weights: str, skipped: int) -> FloatingPointError:
    """What ends the run. ``skipped``: steps that were left out before."""
    before = f" {skipped} step(s) before it had to be left out (--max-skipped-steps)." if skipped else ""
    return FloatingPointError(f"step {step + 1}: {problem}; {weights}.{before} {_ADVICE}")


def pass_over(engine: Any) -> None:
    """The optimiser does not move, the schedule does: the next step is what it would have been. The gradient has been
    cleared."""
    engine.skipped_steps += 1
    engine.global_steps += 1
    engine.global_samples += engine.train_batch_size()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: the schedule moved before the optimiser ever did
        engine.lr_scheduler.step()
