"""The two loops that ``bench_step`` compares with, re-expressed from descriptions of them: see ``step_loops``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.profile_losses import BACKWARD, BATCH, HEAD, REFERENCE, STUDENT, Phases
from benchmarks.step_loops import LR, WEIGHT_DECAY, Job, Name, move
from benchmarks.step_memory import module_bytes, optimizer_bytes
from clear_dist.engine.optimizer import BETAS, EPS
from clear_dist.methods import needs_reference
from clear_dist.ops import control_vector
from clear_dist.types import Batch, Hidden, TokenStats, View

Values = dict[str | Hidden, Tensor]


class Padded:
    """``clear_code`` or ``hf_trainer``."""

    def __init__(self, job: Job, name: Name) -> None:
        self.job, self.name, self.note = job, name, ""
        student = job.student
        self.phases = Phases(student.device)
        self.optimizer = torch.optim.AdamW(job.trained, LR, BETAS, EPS, WEIGHT_DECAY)

    def step(self, *, update: bool = True) -> float:
        job, phase = self.job, self.phases
        total = 0.0
        with phase.step():
            streams = {view: job.padded.micro_batches(0, {view}) for view in job.views}
            totals = job.padded.totals(0)
            for _ in range(job.padded.settings.accumulation):
                stats: dict[View, TokenStats] = {}
                for view, batches in streams.items():
                    with phase(BATCH):
                        batch = next(batches).to(job.student.device)
                    values = self._values(view, batch)
                    sequence = batch.sequence_example
                    stats[view] = TokenStats(
                        example=batch.token_example,
                        examples=len(batch.example_ids),
                        total_examples=totals[view].examples,
                        total_tokens=totals[view].tokens,
                        values=values,
                        sequence_example=sequence,
                        sequence_image=batch.sequence_image,
                        total_sequence=totals[view].sequence,
                    )
                with phase(HEAD):
                    loss, _ = job.objective(stats, 0.0)
                with phase(BACKWARD):
                    loss.backward()
                    total += float(loss.detach())
            if update:
                move(self.optimizer, phase)
        return total

    def _values(self, view: View, batch: Batch) -> Values:
        needs = self.job.objective.needs
        wants = needs.wants[view]
        reference: _Seen | None = None
        other = batch.reference or batch
        if any(map(needs_reference, wants)):
            assert self.job.student.copy is not None, "no copy, no loop"
            with self.phases(REFERENCE), torch.no_grad():
                reference = self._see(self.job.student.copy, other)
        with self.phases(STUDENT):
            seen = self._see(self.job.student.module, batch)
        with self.phases(HEAD):
            answers = {w for w in wants if isinstance(w, str)}
            out = self._answers(answers, batch, other, seen, reference) if answers else {}
            for want in wants:
                if isinstance(want, Hidden):
                    out[want] = _distance(want, batch, seen, reference)
        return out

    def _see(self, module: nn.Module, batch: Batch) -> _Seen:
        """The library's own forward, with its own mask and its own head."""
        layers, pixels = self.job.objective.needs.layers, batch.pixel_values
        blocks = self.job.student.family.blocks(module)
        states: dict[int, Tensor] = {}
        everything = bool(layers) and self.name == "clear_code"
        handles = [
            blocks[layer].register_forward_hook(lambda _, __, out, layer=layer: states.__setitem__(layer, _first(out)))
            for layer in (() if everything else layers)
        ]
        try:
            out = module(
                input_ids=batch.input_ids,
                attention_mask=batch.real.long(),
                pixel_values=pixels.to(self.job.student.dtype)
                if pixels is not None and batch.image_slots.numel()
                else None,
                use_cache=False,
                output_hidden_states=everything,
            )
        finally:
            for handle in handles:
                handle.remove()
        if everything:
            states = {layer: out.hidden_states[layer + 1] for layer in layers}
        return _Seen(out.logits.float(), {layer: h.flatten(0, 1) for layer, h in states.items()})

    def _answers(self, wants: set[str], batch: Batch, other: Batch, seen: _Seen, reference: _Seen | None) -> Values:
        """[T] each, picked from what was computed at every position."""
        at, y = batch.score_index, batch.targets
        out: Values = {}
        whole = self.name == "hf_trainer" or any(w.startswith("kl") for w in wants)
        logp_NV = seen.logits.log_softmax(-1).flatten(0, 1) if whole else None
        logq_NV = None if reference is None else reference.logits.log_softmax(-1).flatten(0, 1)
        if wants & {"logp", "log_ratio"}:
            if self.name == "clear_code":
                labels = torch.full((batch.input_ids.numel(),), -100, device=y.device)
                labels[at] = y
                logits_NV = seen.logits.flatten(0, 1)
                out["logp"] = -F.cross_entropy(logits_NV, labels, ignore_index=-100, reduction="none")[at]
            else:
                assert logp_NV is not None
                out["logp"] = logp_NV[at, y]
        if "log_ratio" in wants:
            assert logq_NV is not None
            out["log_ratio"] = out["logp"] - logq_NV[other.score_index, y]
        for want in wants & {"kl_forward", "kl_reverse"}:
            assert logp_NV is not None and logq_NV is not None
            # Where the reference reads other prompts, positions differ and only answers can be compared.
            aligned = other is batch
            p, q = (logp_NV, logq_NV) if aligned else (logp_NV[at], logq_NV[other.score_index])
            kl = (q.exp() * (q - p) if want == "kl_forward" else p.exp() * (p - q)).sum(-1)
            out[want] = kl[at] if aligned else kl
        return {w: x for w, x in out.items() if w in wants}

    def resident(self) -> int:
        used = self.job.student.copy if self.job.objective.needs.reference else None
        return module_bytes(self.job.student.module) + module_bytes(used) + optimizer_bytes(self.optimizer)


@dataclass
class _Seen:
    """logits: [R, L, V] fp32. layers: block -> [R*L, D]."""

    logits: Tensor
    layers: dict[int, Tensor]


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _distance(want: Hidden, batch: Batch, seen: _Seen, reference: _Seen | None) -> Tensor:
    """[S]: squared distance of each text token's state to its target; 0 at image tokens."""
    assert batch.sequence_index is not None and batch.sequence_image is not None and not want.images
    h = seen.layers[want.layer][batch.sequence_index].float()
    if want.target == "reference":
        assert reference is not None
        target = reference.layers[want.layer][batch.sequence_index].float()
    else:
        assert want.target == "control"
        target = want.scale * control_vector(h.shape[1], want.seed).to(h.device)
    distance = (h - target).square().sum(-1) / (h.shape[1] if want.average else 1)
    return distance.masked_fill(batch.sequence_image, 0.0)
