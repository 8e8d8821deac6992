"""One optimiser step's mathematics: the module DeepSpeed wraps, and loss from statistics.

The module's forward is the only place that touches weights: under ZeRO-3 a parameter exists only inside the forward
of the module that owns it, so the head's weight is read there, at call time, and never captured.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from clear_dist.engine.totals import Totals
from clear_dist.methods import Needs, Objective, needs_reference
from clear_dist.methods.objective import SEQUENCE
from clear_dist.models import Family, hidden_states, reference_mode
from clear_dist.ops import control_noise, control_vector, hidden_distance, token_stats
from clear_dist.types import Batch, Hidden, ReferenceStates, TokenStats, View

Values = dict[str, dict[str | Hidden, Tensor]]


@dataclass
class _States:
    """A forward pass: final states [R*L, D] (None where it stopped below) and those of some blocks."""

    final: Tensor | None
    layers: dict[int, Tensor]


class StepModule(nn.Module):
    """Student and reference in one forward, per-token statistics out.

    The reference is one of three: the student with its unlearning adapter switched off (LoRA), states kept from
    before training (``Batch.cached``), or a frozen second model, which ZeRO-3 shards like everything else.
    """

    def __init__(self, student: nn.Module, family: Family, reference: nn.Module | None = None) -> None:
        super().__init__()
        self.student = student
        self.family = family
        self.reference = reference
        self.reference_head: list[Tensor] = []  # [V, D] of a cached reference, where the student's own head moves

    def train(self, mode: bool = True) -> Self:
        """The student's mode; a second copy always judges without dropout and without recomputation."""
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    def forward(
        self, batch: Batch, needs: Needs, *, collect: bool = False, tower: bool = False
    ) -> Values | tuple[dict[str, ReferenceStates], Tensor] | Tensor:
        """view -> statistic -> fp32 [T_view] (answer tokens) or [S_view] (whole sequences).

        The stuff of caches instead: with ``collect``, what the reference says of the batch, and its head [V, D]; with
        ``tower``, what the vision tower makes of the batch's pictures, [P, n, D_tower].
        """
        if tower:
            assert batch.pixel_values is not None
            with torch.no_grad():
                return self.family.tower_features(self.student, batch.pixel_values)
        if collect:
            with torch.no_grad():
                return self._reference_states(batch, needs), self._reference_head()
        views = [v for v in needs.views if v in batch.view_examples]
        asked = [v for v in views if v in needs.reference]
        states, head_ref_VD = self._reference(batch, needs) if asked else ({}, None)
        student = self._run(self.student, batch, needs.layers, needs.depth)
        head_VD = self._head(student) if needs.depth is None else None
        return {v: self._statistics(v, batch, needs, student, states.get(v), head_VD, head_ref_VD) for v in views}

    def _statistics(
        self,
        view: View,
        batch: Batch,
        needs: Needs,
        student: _States,
        reference: ReferenceStates | None,
        head_VD: Tensor | None,
        head_ref_VD: Tensor | None,
    ) -> dict[str | Hidden, Tensor]:
        wants = needs.wants[view]
        out: dict[str | Hidden, Tensor] = {}
        tokens = batch.view_tokens[view]
        answers = {w for w in wants if isinstance(w, str) and not w.startswith(SEQUENCE)}
        ready = reference is not None and reference.hidden is None  # a cache that holds nothing but log-probabilities
        if answers:
            assert student.final is not None and head_VD is not None
            compare = any(map(needs_reference, answers))
            out |= token_stats(
                student.final[batch.score_index[tokens]],
                head_VD,
                batch.targets[tokens],
                h_ref=reference.hidden if compare and reference is not None else None,
                weight_ref=head_ref_VD if compare else None,
                logp_ref=reference.logp if ready and reference is not None else None,
                want=answers,
                wide=ready,  # what is subtracted from a kept number is not rounded more than that number was
            )
        for want in wants:
            if isinstance(want, Hidden):
                out[want] = self._distance(want, view, batch, student, reference)
        everywhere = [w for w in wants if isinstance(w, str) and w.startswith(SEQUENCE)]
        if everywhere:
            assert student.final is not None and head_VD is not None and reference is not None
            assert batch.sequence_index is not None
            found = token_stats(
                student.final[batch.sequence_index[batch.view_sequence[view]]],
                head_VD,
                None,
                h_ref=reference.layers[FINAL],
                weight_ref=head_ref_VD,
                want=[w.removeprefix(SEQUENCE) for w in everywhere],
            )
            out |= {w: found[w.removeprefix(SEQUENCE)] for w in everywhere}
        return out

    def _distance(
        self, want: Hidden, view: View, batch: Batch, student: _States, reference: ReferenceStates | None
    ) -> Tensor:
        """[S_view]: squared distance of each token's state to its target; 0 at image tokens that do not count."""
        assert batch.sequence_index is not None and batch.sequence_image is not None
        rows = batch.view_sequence[view]
        counted = slice(None) if want.images else ~batch.sequence_image[rows]
        h_SD = student.layers[want.layer][batch.sequence_index[rows][counted]]
        if want.target == "reference":
            assert reference is not None
            target = reference.layers[want.layer][counted]
        elif want.target == "control":
            target = want.scale * control_vector(h_SD.shape[1], want.seed).to(h_SD.device)
        else:
            target = want.scale * _redrawn(h_SD, want.seed, batch)
        distance = hidden_distance(h_SD, target)
        if want.average:
            distance = distance / h_SD.shape[1]
        if want.images:
            return distance
        out = distance.new_zeros(batch.sequence_image[rows].shape)
        return out.masked_scatter(~batch.sequence_image[rows], distance)

    def _run(self, module: nn.Module, batch: Batch, layers: tuple[int, ...], depth: int | None) -> _States:
        final, states = hidden_states(self.family, module, batch, layers, depth)
        flat = {layer: h.flatten(0, 1) for layer, h in states.items()}
        return _States(None if final is None else final.flatten(0, 1), flat)

    def _head(self, student: _States) -> Tensor:
        """[V, D]. Only the weight is of use here, but the module is run as well, on no token: whoever listens to the
        modules that hold weights (an L1 penalty does) hears of all of them."""
        assert student.final is not None
        head = self.family.head(self.student)
        head(student.final[:0].detach())
        return head.weight

    def _reference(self, batch: Batch, needs: Needs) -> tuple[dict[str, ReferenceStates], Tensor | None]:
        """What the reference says of every view that asks for it, and its head where that is not the student's."""
        if batch.cached is not None:
            head = self.reference_head[0] if self.reference_head else None
            return batch.cached, None if head is None else head.to(batch.input_ids.device)
        with torch.no_grad():
            states = self._reference_states(batch.reference or batch, needs)
            return states, None if self.reference is None or needs.depth is not None else self._reference_head()

    def _reference_head(self) -> Tensor:
        """[V, D], cloned: a sharded head is released when its module's forward ends."""
        module = self.student if self.reference is None else self.reference
        return self.family.head(module).weight.detach().clone()

    def _reference_states(self, batch: Batch, needs: Needs) -> dict[str, ReferenceStates]:
        """One pass of the reference over ``batch``: its states on every view that asks for it."""
        views = [v for v in needs.views if v in needs.reference and v in batch.view_examples]
        wants = {w for v in views for w in needs.wants[v] if needs_reference(w)}
        layers = tuple(sorted({w.layer for w in wants if isinstance(w, Hidden)}))
        shallow = all(isinstance(w, Hidden) for w in wants)
        depth = layers[-1] + 1 if shallow and layers else None
        module = self.student if self.reference is None else self.reference
        if self.reference is None and hasattr(module, "disable_adapter"):
            with reference_mode(module):
                found = self._run(module, batch, layers, depth)
        else:
            found = self._run(module, batch, layers, depth)
        out: dict[str, ReferenceStates] = {}
        for view in views:
            states = ReferenceStates()
            mine = needs.wants[view]
            if any(isinstance(w, str) and not w.startswith(SEQUENCE) and needs_reference(w) for w in mine):
                assert found.final is not None
                states.hidden = found.final[batch.score_index[batch.view_tokens[view]]]
            for want in mine:
                if isinstance(want, Hidden) and want.target == "reference":
                    states.layers[want.layer] = _rows(found.layers[want.layer], batch, view)
                elif isinstance(want, str) and want.startswith(SEQUENCE):
                    assert found.final is not None
                    states.layers[FINAL] = _rows(found.final, batch, view)
            out[view] = states
        return out


FINAL = -1  # the place of the final states of whole sequences among ``ReferenceStates.layers``


def _rows(flat: Tensor, batch: Batch, view: View) -> Tensor:
    assert batch.sequence_index is not None
    return flat[batch.sequence_index[batch.view_sequence[view]]]


def _redrawn(like: Tensor, seed: int, batch: Batch) -> Tensor:
    """Noise as the public CLEAR code's; here a function of the batch's examples, so that a run can be repeated."""
    generator = torch.Generator().manual_seed(zlib.crc32("\n".join(batch.example_ids).encode(), seed))
    return control_noise(like.shape[0], like.shape[1], generator).to(like.device)


def loss_of(
    objective: Objective,
    values: Mapping[str, Mapping[str | Hidden, Tensor]],
    batch: Batch,
    totals: Mapping[View, Totals],
    progress: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, parts) of one micro-batch: this rank's share, see :meth:`Objective.__call__`."""
    stats: dict[View, TokenStats] = {}
    for view in objective.needs.views:
        examples, tokens = batch.view_examples[view], batch.view_tokens[view]
        sequence, image = None, None
        if batch.sequence_example is not None and batch.sequence_image is not None:
            rows = batch.view_sequence[view]
            sequence, image = batch.sequence_example[rows] - examples.start, batch.sequence_image[rows]
        stats[view] = TokenStats(
            example=batch.token_example[tokens] - examples.start,
            examples=examples.stop - examples.start,
            total_examples=totals[view].examples,
            total_tokens=totals[view].tokens,
            values=dict(values[view]),
            sequence_example=sequence,
            sequence_image=image,
            total_sequence=totals[view].sequence,
        )
    return objective(stats, progress)
