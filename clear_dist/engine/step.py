"""One optimiser step's mathematics: the module DeepSpeed wraps, and loss from statistics.

The module's forward is the only place that touches weights: under ZeRO-3 a parameter exists only inside the forward
of the module that owns it, so the head's weight is read there, at call time, and never captured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from clear_dist.methods import Needs, Objective
from clear_dist.models import Family, final_hidden, reference_mode
from clear_dist.ops import token_stats
from clear_dist.types import Batch, TokenStats, View


class StepModule(nn.Module):
    """Student and reference in one forward, per-token statistics out.

    The reference is the student with its unlearning adapter switched off (LoRA), or a frozen second copy of the
    original (full fine-tuning), which ZeRO-3 shards like everything else.
    """

    def __init__(self, student: nn.Module, family: Family, reference: nn.Module | None = None) -> None:
        super().__init__()
        self.student = student
        self.family = family
        self.reference = reference

    def train(self, mode: bool = True) -> Self:
        """The student's mode; a second copy always judges without dropout and without recomputation."""
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    def forward(self, batch: Batch, needs: Needs) -> dict[str, dict[str, Tensor]]:
        """view -> statistic -> [T_view] fp32 for every view of the batch."""
        h_ref_TD, weight_ref_VD = (None, None)
        if needs.reference:
            with torch.no_grad():
                h_ref_TD, weight_ref_VD = self._reference_hidden(batch)
        h_TD = self._scored(self.student, batch)
        weight_VD = self.family.head(self.student).weight
        out: dict[str, dict[str, Tensor]] = {}
        for view in needs.views:
            tokens = batch.view_tokens[view]
            with_reference = h_ref_TD is not None and view in needs.reference
            out[view] = token_stats(
                h_TD[tokens],
                weight_VD,
                batch.targets[tokens],
                h_ref=h_ref_TD[tokens] if with_reference and h_ref_TD is not None else None,
                weight_ref=weight_ref_VD if with_reference else None,
                want=needs.wants[view],
            )
        return out

    def _scored(self, module: nn.Module, batch: Batch) -> Tensor:
        """[T, D]: hidden states that predict answer tokens; nothing else ever meets the head."""
        h_RLD = final_hidden(self.family, module, batch)
        return h_RLD.flatten(0, 1)[batch.score_index]

    def _reference_hidden(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        if self.reference is not None:
            h_TD = self._scored(self.reference, batch)
            # Cloned: a sharded head is released when its module's forward ends.
            return h_TD, self.family.head(self.reference).weight.detach().clone()
        with reference_mode(self.student):
            return self._scored(self.student, batch), None


@dataclass(frozen=True)
class Totals:
    """Examples and scored tokens of one view in the whole global batch (all ranks, all accumulation steps)."""

    examples: int
    tokens: int


def loss_of(
    objective: Objective,
    values: Mapping[str, Mapping[str, Tensor]],
    batch: Batch,
    totals: Mapping[View, Totals],
    progress: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, parts) of one micro-batch: this rank's share, see :meth:`Objective.__call__`."""
    stats: dict[View, TokenStats] = {}
    for view in objective.needs.views:
        examples, tokens = batch.view_examples[view], batch.view_tokens[view]
        stats[view] = TokenStats(
            example=batch.token_example[tokens] - examples.start,
            examples=examples.stop - examples.start,
            total_examples=totals[view].examples,
            total_tokens=totals[view].tokens,
            values=dict(values[view]),
        )
    return objective(stats, progress)
