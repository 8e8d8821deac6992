"""The same objectives on vision classifiers and embedders: a picture takes the place of an answer.

Every picture is one example with one "token", its identity, so ``logp`` is log p(identity), the head is the
classifier, and the hidden state that meets it is the embedding. States of whole sequences become a stage's feature
map, position by position. Reference and student are two modules: these models are small, nothing is sharded.

Symbols: N pictures, n those of a view, D embedding size, K identities, C, H, W a stage's channels and positions,
S = n H W states of a view.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from clear_dist.engine.totals import Totals
from clear_dist.errors import ConfigError
from clear_dist.methods import Needs, Objective, needs_reference
from clear_dist.methods.objective import SEQUENCE
from clear_dist.models.resnet import VisionModel, VisionStates
from clear_dist.ops import HIDDEN_STATISTICS, control_noise, control_vector, hidden_distance, token_stats
from clear_dist.types import Hidden, TokenStats, View

Values = dict[str, dict[str | Hidden, Tensor]]
# Statistics that are of the label: an AM-softmax head's margin is part of them.
_OF_A_LABEL = frozenset({"logp", "log1mp", "logp_ref", "log1mp_ref", "log_ratio", "cross_rest"})
# Those that the uniform distribution has too, which is the answer on IDK.
_OF_NOBODY = frozenset({"logp", "logp_ref", "log_ratio"})
_NEED_A_LABEL = _OF_A_LABEL - _OF_NOBODY | {"top1"}


@dataclass(frozen=True)
class VisionBatch:
    """Pictures of several views.

    pixels: [N, 3, H, W], normalised. labels: [N] int64 in [0, K); on IDK they are not looked at. view_examples: view ->
    its range in [0, N); views that show the same pictures under the same labels may share a range, and are then run
    once. example_ids: N ids. reference_pixels: view -> [n, 3, H, W] that the reference sees instead (AUGMENTED).
    """

    pixels: Tensor
    labels: Tensor
    view_examples: dict[str, slice]
    example_ids: list[str]
    reference_pixels: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        rows = len(self.pixels)
        assert self.pixels.ndim == 4 and self.labels.shape == (rows,) and len(self.example_ids) == rows
        assert all(0 <= s.start <= s.stop <= rows for s in self.view_examples.values())
        for view, pixels in (self.reference_pixels or {}).items():
            assert len(pixels) == len(self.labels[self.view_examples[view]]), f"{view}: a picture per example"

    def to(self, device: torch.device | str) -> VisionBatch:
        instead = self.reference_pixels
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            reference_pixels=None
            if instead is None
            else {view: pixels.to(device, non_blocking=True) for view, pixels in instead.items()},
        )


class VisionStep(nn.Module):
    """Student and reference in one forward, statistics out, as ``engine.step.StepModule`` does for language.

    The student sees all pictures in one pass: where its batch normalisation is in train mode, the statistics are
    those of all views together (``freeze_batchnorm`` makes every picture's loss its own). The reference is frozen (in
    place) and always in evaluation mode.

    With an AM-softmax head, what is said of a label (``logp``, ``logp_ref``, ``log_ratio``, ``log1mp``, ``log1mp_ref``,
    ``cross_rest``) is said under the margin, in student and reference alike: p and q are then softmax of s (cos_k -
    m [k = label]), the distribution the original was trained with, so that retain's nll is the loss it was trained by.
    What is said of the whole distribution (``kl_forward``, ``kl_reverse``, ``js``, ``entropy``, ``npo_vocab``, the
    uniform answer on IDK), and ``top1``, which says whom the model names, is without: those are of what the model
    says, and nobody's label is in it. ``cosine`` and ``l2`` are of embeddings as they are, of whatever length.

    Raises:
        ConfigError: the reference is another network than the student.
    """

    def __init__(self, student: VisionModel, reference: VisionModel | None = None) -> None:
        super().__init__()
        if reference is not None and reference.settings != student.settings:
            raise ConfigError(
                f"reference: is another network than the student ({reference.settings}; {student.settings}); "
                "give the original that the student starts from"
            )
        self.student = student
        self.reference = None if reference is None else reference.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    def forward(self, batch: VisionBatch, needs: Needs) -> Values:
        """view -> statistic -> [n] (of the class) or [S] (of a feature map), fp32, float64 for a float64 student.

        On IDK there is no identity to name: the answer is the uniform distribution, and ``logp`` and ``logp_ref`` are
        the mean of log p over the K identities, so that nll is the cross-entropy against it. Statistics of
        ``sequence:`` are those of the class: a picture has no other tokens.

        Raises:
            ConfigError: the objective needs a view or a reference that is not there, a stage the model does not have,
                a label on IDK, or several stages of one view.
        """
        self._check(batch, needs)
        student, rows = self._student(batch, needs)
        reference = self._reference(batch, needs)
        out: Values = {}
        for view in needs.views:
            labels = batch.labels[batch.view_examples[view]]
            mine = _cut(student, rows[view])
            with torch.autocast(labels.device.type, enabled=False):  # the head is small, and its logits are sharp
                out[view] = self._of_class(view, needs.wants[view], mine, reference.get(view), labels)
            for want in needs.wants[view]:
                if isinstance(want, Hidden):
                    out[view][want] = _distance(want, mine, reference.get(view), batch)
        return out

    def _check(self, batch: VisionBatch, needs: Needs) -> None:
        absent = [view.name for view in needs.views if view not in batch.view_examples]
        if absent:
            raise ConfigError(f"{', '.join(absent)}: the objective looks at it, and these pictures have no such view")
        if needs.reference and self.reference is None:
            raise ConfigError(
                f"{', '.join(sorted(v.name for v in needs.reference))}: the objective compares with the original; "
                "give its model as the reference"
            )
        deepest = max(needs.layers, default=0)
        if deepest >= self.student.depth:
            raise ConfigError(
                f"layer: {deepest} is not there; the model has {self.student.depth} stages, counted from 0 "
                "(CLEAR's RMU uses the third: layer=2)"
            )
        for view in needs.views:
            wants = needs.wants[view]
            layers = {w.layer for w in wants if isinstance(w, Hidden)}
            names = {w.removeprefix(SEQUENCE) for w in wants if isinstance(w, str)}
            if len(layers) > 1 or (layers and any(isinstance(w, str) and w.startswith(SEQUENCE) for w in wants)):
                raise ConfigError(f"{view.name}: one stage at a time, and no term over whole sequences beside it")
            if self.student.label_margin and {"log1mp", "entropy"} <= names:  # ce_u's H(q) would be of two mixed
                raise ConfigError(
                    f"{view.name}: entropy is without the margin of an AM-softmax head, log1mp under it; a term such "
                    "as ce_u needs both of one distribution. Use a softmax head, or another term"
                )
            if view is View.IDK and names & _NEED_A_LABEL:
                raise ConfigError(
                    f"IDK: {', '.join(sorted(names & _NEED_A_LABEL))} need an identity, and for a classifier "
                    "not to know is the uniform distribution; use RANDOM"
                )

    def _student(self, batch: VisionBatch, needs: Needs) -> tuple[VisionStates, dict[str, slice]]:
        """States of every picture the views show, each run once; view -> its rows among them."""
        ranges: dict[str, slice] = {view: batch.view_examples[view] for view in needs.views}
        starts: dict[tuple[int, int], int] = {}
        total = 0
        for part in ranges.values():
            if (part.start, part.stop) not in starts:
                starts[part.start, part.stop] = total
                total += part.stop - part.start
        pixels = torch.cat([batch.pixels[start:stop] for start, stop in starts])
        rows = {
            view: slice(at := starts[part.start, part.stop], at + part.stop - part.start)
            for view, part in ranges.items()
        }
        return self.student(pixels, needs.layers, needs.depth), rows

    @torch.no_grad()
    def _reference(self, batch: VisionBatch, needs: Needs) -> dict[str, VisionStates]:
        """The reference's states of every view it is asked about; no deeper than they are looked at."""
        out: dict[str, VisionStates] = {}
        instead = batch.reference_pixels or {}
        for view in needs.views:
            if view not in needs.reference:
                continue
            assert self.reference is not None
            wants = [w for w in needs.wants[view] if needs_reference(w)]
            layers = {w.layer for w in wants if isinstance(w, Hidden)}
            depth = max(layers) + 1 if all(isinstance(w, Hidden) for w in wants) else None
            pixels = instead.get(view, batch.pixels[batch.view_examples[view]])
            out[view] = self.reference(pixels, layers, depth)
        return out

    def _of_class(
        self,
        view: View,
        wants: Collection[str | Hidden],
        student: VisionStates,
        reference: VisionStates | None,
        labels: Tensor,
    ) -> dict[str | Hidden, Tensor]:
        """Statistics of the identity, one a picture."""
        asked = [w for w in wants if isinstance(w, str)]
        if not asked:
            return {}
        h_ND = student.embedding
        h_ref_ND = None if reference is None else reference.embedding
        assert h_ND is not None
        names = {w.removeprefix(SEQUENCE) for w in asked}
        found: dict[str, Tensor] = {}
        if names & HIDDEN_STATISTICS:
            found |= token_stats(h_ND, None, None, h_ref=h_ref_ND, want=names & HIDDEN_STATISTICS)
        names -= HIDDEN_STATISTICS
        if view is View.IDK:
            found |= self._of_nobody(names & _OF_NOBODY, h_ND, h_ref_ND)
            names -= _OF_NOBODY
        # Without a margin all come from one sweep over the head.
        of_label = names & _OF_A_LABEL if self.student.label_margin else set()
        target = None if view is View.IDK else labels
        for part, under in ((of_label, labels), (names - of_label, None)):
            if not part:
                continue
            h, weight = self.student.head_inputs(h_ND, under)
            h_ref, weight_ref = None, None
            if h_ref_ND is not None and self.reference is not None:
                h_ref, weight_ref = self.reference.head_inputs(h_ref_ND, under)
            found |= token_stats(h, weight, target, h_ref=h_ref, weight_ref=weight_ref, want=part)
        return {want: found[want.removeprefix(SEQUENCE)] for want in asked}

    def _of_nobody(self, names: Collection[str], h_ND: Tensor, h_ref_ND: Tensor | None) -> dict[str, Tensor]:
        """The uniform distribution in the place of a label."""
        found: dict[str, Tensor] = {}
        if "logp" in names or "log_ratio" in names:
            found["logp"] = _uniform(self.student, h_ND)
        if "logp_ref" in names or "log_ratio" in names:
            assert h_ref_ND is not None and self.reference is not None
            found["logp_ref"] = _uniform(self.reference, h_ref_ND).detach()
        if "log_ratio" in names:
            found["log_ratio"] = found["logp"] - found["logp_ref"]
        return found


def _cut(states: VisionStates, rows: slice) -> VisionStates:
    embedding = None if states.embedding is None else states.embedding[rows]
    return VisionStates(embedding, {layer: h[rows] for layer, h in states.stages.items()})


def _uniform(model: VisionModel, h_ND: Tensor) -> Tensor:
    """[n]: 1/K sum_k log p(k)."""
    return model.logits_of(h_ND).log_softmax(-1).mean(-1)


def _distance(want: Hidden, student: VisionStates, reference: VisionStates | None, batch: VisionBatch) -> Tensor:
    """[S]: squared distance of every position's state to its target."""
    h_SC = _positions(student.stages[want.layer])
    if want.target == "reference":
        assert reference is not None
        target = _positions(reference.stages[want.layer])
    elif want.target == "control":
        target = want.scale * control_vector(h_SC.shape[1], want.seed).to(h_SC.device)
    else:  # a function of the batch's examples, so that a run can be repeated
        seed = zlib.crc32("\n".join(batch.example_ids).encode(), want.seed)
        target = want.scale * control_noise(len(h_SC), h_SC.shape[1], torch.Generator().manual_seed(seed)).to(
            h_SC.device
        )
    distance = hidden_distance(h_SC, target)
    return distance / h_SC.shape[1] if want.average else distance


def _positions(h_NCHW: Tensor) -> Tensor:
    """[N, C, H, W] -> [N H W, C]."""
    return h_NCHW.permute(0, 2, 3, 1).flatten(0, 2)


def vision_loss_of(
    objective: Objective,
    values: Mapping[str, Mapping[str | Hidden, Tensor]],
    batch: VisionBatch,
    totals: Mapping[View, Totals],
    progress: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, parts) of one micro-batch: its share, see :meth:`Objective.__call__`.

    ``totals``: examples of each view in the whole global batch; the rest of ``Totals`` follows from that.
    """
    stats: dict[View, TokenStats] = {}
    for view in objective.needs.views:
        part, mine = batch.view_examples[view], dict(values[view])
        n, examples = part.stop - part.start, totals[view].examples
        example = torch.arange(n, device=batch.labels.device)
        # Positions of one picture: those of the feature map, or the one class.
        positions = next((len(v) // max(n, 1) for want, v in mine.items() if isinstance(want, Hidden)), 1)
        sequence = example.repeat_interleave(positions)
        stats[view] = TokenStats(
            example=example,
            examples=n,
            total_examples=examples,
            total_tokens=examples,
            values=mine,
            sequence_example=sequence,
            sequence_image=torch.zeros_like(sequence, dtype=torch.bool),  # a position counts whatever a term says
            total_sequence=examples * positions,
        )
    return objective(stats, progress)
