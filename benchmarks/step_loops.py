"""One optimiser step of the same job, by three loops: the project's own, here, and two in ``step_padded``.

All have the project's losses, the same weights, examples and optimiser (AdamW on LoRA); what differs is how the same
numbers are come by.

* ``ours``        all views packed into one batch, pictures shared; one forward; the head on answer tokens only, fused;
  the reference and the vision tower's output read from caches; RMU's forward ends at its layer.
* ``clear_code``  as CLEAR's public code goes about it: every view is padded and has its own forward; logits of all
  positions in fp32, cross-entropy and distributions over all of them; a second whole model as the reference, run every
  step; RMU through the whole depth, the states of all layers returned.
* ``hf_trainer``  as common LLM toolkits do: the same but for log-probabilities by log_softmax over full logits, and
  RMU's states by a hook.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from benchmarks.profile_losses import BACKWARD, BATCH, HEAD, LABELS, OPTIMISER, Phases
from benchmarks.step_memory import module_bytes, optimizer_bytes
from benchmarks.step_models import BATCH as EXAMPLES
from benchmarks.step_models import NumberProcessor, Student, make_pools
from clear_dist.engine.optimizer import adamw
from clear_dist.engine.reference_build import build_reference_cache
from clear_dist.engine.reference_key import reference_key
from clear_dist.engine.step import StepModule, loss_of
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.engine.tower_cache import build_tower_cache
from clear_dist.engine.world import World
from clear_dist.methods import METHODS, Objective
from clear_dist.models import freeze_but_blocks
from clear_dist.types import Batch, UserError, View

Name = Literal["ours", "clear_code", "hf_trainer"]
LOOPS: tuple[Name, ...] = ("ours", "clear_code", "hf_trainer")
LR, WEIGHT_DECAY = 1e-5, 0.01  # the paper's
ROW_BOUNDS = (128, 2048)  # as in training: rows about as long as the model is wide
KNOWN = frozenset({"logp", "log_ratio", "kl_forward", "kl_reverse"})  # statistics of answers that padded loops compute


@dataclass
class Job:
    """A method on a student: what all three loops are given."""

    method: str
    objective: Objective
    student: Student
    packed: Stream
    padded: Stream

    @property
    def views(self) -> tuple[View, ...]:
        return self.objective.needs.views

    @property
    def real_tokens(self) -> int:
        """Tokens of a step's examples, each standing alone, in every view that the student reads."""
        return sum(t.sequence for t in self.packed.totals(0).values())

    @property
    def trained(self) -> list[nn.Parameter]:
        return [p for p in self.student.module.parameters() if p.requires_grad]

    def cut(self, micro_batch: int) -> None:
        """Steps of so many examples of every view at a time."""
        for stream in (self.packed, self.padded):
            stream.settings = replace(stream.settings, accumulation=-(-EXAMPLES // micro_batch))


class Loop(Protocol):
    phases: Phases
    note: str

    def step(self, *, update: bool = True) -> float:
        """The loss of one optimiser step; without ``update`` gradients are left where they are."""
        ...

    def resident(self) -> int:
        """Bytes on the device that stay between steps."""
        ...


def make_job(method: str, student: Student, *, questions: int = 1) -> Job:
    """The method's equation with its published numbers; RMU looks at the layer at a quarter of the depth.

    Leaves trainable only what the method trains. Raises UserError: a method that the padded loops do not know.
    """
    quarter = max(0, student.layers // 4 - 1)
    objective = METHODS[method].build({"layer": quarter} if method == "rmu" else {})
    needs = objective.needs
    strange = [w for wants in needs.wants.values() for w in wants if isinstance(w, str) and w not in KNOWN]
    if strange or objective.penalties or len(objective.rule.groups(objective)) > 1:
        what = strange[0] if strange else "its update rule or penalty"
        raise UserError(f"--methods {method}: {what} is not something the loops compared with can do. Leave it out.")
    for parameter in student.adapter():
        parameter.requires_grad_(True)
    if objective.train_layers is not None:
        freeze_but_blocks(student.family, student.module, objective.train_layers)
    pools = make_pools(needs.views, student.config, questions=questions)
    hidden = student.family.text_config(student.config).hidden_size
    settings = StreamSettings(
        batch=dict.fromkeys(needs.views, EXAMPLES),
        seed=0,
        questions_per_picture=questions,
        max_length=4096,
        row_length=min(max(hidden, ROW_BOUNDS[0]), ROW_BOUNDS[1]),
        accumulation=1,
        one_run_per_picture=True,
    )
    processor = NumberProcessor(student.config)

    def stream(layout: Literal["dense", "padded"]) -> Stream:
        chosen = replace(settings, layout=layout)
        return Stream(pools.student, processor, chosen, 0, 1, needs=needs, reference=pools.reference)

    return Job(method, objective, student, stream("dense"), stream("padded"))


class Ours:
    """The training loop's own step, without DeepSpeed around it, as the others are without."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.note = job, ""
        student = job.student
        self.phases = Phases(student.device)
        self.module = StepModule(student.module, student.family)
        self.optimizer = adamw(job.trained, LR, WEIGHT_DECAY, student.device)
        self.reference_seconds: dict[View, float] = {}  # per example of a view
        self.tower_seconds = 0.0  # per picture
        self.cache_bytes = 0
        self._fill(folder)
        for name, label in LABELS.items():
            self.phases.wrap(self.module, name, label)
        self.module.train()

    def _fill(self, folder: Path) -> None:
        """Caches of everything that the step reads."""
        job, stream = self.job, self.job.packed
        needs, world = job.objective.needs, World(0, 1, 0, job.student.device)
        if needs.reference:
            key = reference_key("random", "numbers", stream, needs, job.student.dtype, head_moves=False)
            began = time.perf_counter()
            cache = build_reference_cache(self.module, stream, needs, folder, key=key, world=world)
            seconds = time.perf_counter() - began
            lengths = {v: sum(e.length for e in stream.encoded(v, reference=True)) for v in needs.reference}
            for view, length in lengths.items():
                share = length / sum(lengths.values())
                self.reference_seconds[view] = seconds * share / len(stream.encoded(view))
            stream.cache = cache
            self.cache_bytes += cache.bytes
        pictures = stream.pictures(0)
        tower = build_tower_cache(self.module, pictures, stream.processor, world, share=0.9)
        if tower is None:
            self.note = "the vision tower runs in every step: no memory for what it makes"
            return
        stream.features = tower
        self.cache_bytes += tower.bytes
        self.tower_seconds = tower.seconds / max(1, len(tower))

    def step(self, *, update: bool = True) -> float:
        job, phase = self.job, self.phases
        total = 0.0
        with phase.step():
            batches = job.packed.micro_batches(0)
            totals = job.packed.totals(0)
            while (batch := self._next(batches)) is not None:
                values = self.module(batch, job.objective.needs)
                with phase(HEAD):
                    loss, _ = loss_of(job.objective, values, batch, totals, 0.0)
                with phase(BACKWARD):
                    loss.backward()
                    total += float(loss.detach())
            if update:
                move(self.optimizer, phase)
        return total

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        with self.phases(BATCH):
            batch = next(batches, None)
            return None if batch is None else batch.to(self.job.student.device)

    def resident(self) -> int:
        """On a CPU the tower's cache is there too; the reference's is on disk."""
        tower = self.job.packed.features
        kept = getattr(tower, "bytes", 0) if self.job.student.device.type == "cpu" else 0
        return module_bytes(self.job.student.module) + optimizer_bytes(self.optimizer) + kept


def move(optimizer: torch.optim.Optimizer, phase: Phases) -> None:
    with phase(OPTIMISER):
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@contextmanager
def untouched(student: Student) -> Iterator[None]:
    """Inside, steps may move the adapter; afterwards it is what it was, so that loops in turns do the same step."""
    adapter = student.adapter()
    before = [p.detach().clone() for p in adapter]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(adapter, before, strict=True):
                parameter.copy_(value)


def gradients(student: Student) -> Mapping[str, Tensor]:
    """Name -> the adapter's gradients, taken away."""
    found: dict[str, Tensor] = {}
    for name, parameter in student.module.named_parameters():
        if parameter.grad is not None:
            found[name], parameter.grad = parameter.grad, None
    return found
