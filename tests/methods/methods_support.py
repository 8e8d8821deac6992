"""A tiny world of logits and states as plain numbers, and the statistics the engine would make of it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from methods_calculator import Said, Table
from torch import Tensor

from clear_dist.methods import Objective
from clear_dist.methods.objective import SEQUENCE
from clear_dist.ops import control_vector, hidden_distance, token_stats
from clear_dist.types import Hidden, TokenStats, View

V, D = 5, 3
LAYERS = (1, 7)
# Answer lengths of each view's examples. IDK and RANDOM answer FORGET's prompts, SAFE PRIVATE's: bound one to one.
LENGTHS: dict[View, tuple[int, ...]] = {
    View.FORGET: (3, 1, 4),
    View.RETAIN: (2, 5),
    View.IDK: (1, 2, 2),
    View.RANDOM: (2, 1, 3),
    View.PRIVATE: (4, 2),
    View.SAFE: (2, 3),
    View.GUIDE: (3, 2, 1),
    View.AUGMENTED: (2, 1),
}
World = dict[View, list[Said]]


def make_world(seed: int = 0) -> World:
    """Logits of about normal spread; every example has a prompt of three tokens, the last two of them a picture."""
    draw = random.Random(seed)

    def table(rows: int, width: int) -> Table:
        return [[draw.gauss(0.0, 1.2) for _ in range(width)] for _ in range(rows)]

    def said(length: int) -> Said:
        rows = 3 + length
        return Said(
            student=table(length, V),
            reference=table(length, V),
            answer=[draw.randrange(V) for _ in range(length)],
            whole_student=table(rows, V),
            whole_reference=table(rows, V),
            image=[t in (1, 2) for t in range(rows)],
            states={layer: table(rows, D) for layer in LAYERS},
            states_reference={layer: table(rows, D) for layer in LAYERS},
        )

    return {view: [said(length) for length in lengths] for view, lengths in LENGTHS.items()}


def as_reference(world: World) -> World:
    """The same world with a student that is the reference."""
    return {
        view: [
            replace(s, student=s.reference, whole_student=s.whole_reference, states=s.states_reference) for s in view_
        ]
        for view, view_ in world.items()
    }


@dataclass
class Leaf:
    """The student's side of one view as float64 tensors that gradients flow into."""

    final: Tensor  # [T, V]; the head is the identity, so logits are final states
    whole: Tensor  # [S, V]
    layers: dict[int, Tensor]  # block -> [S, D]

    def tensors(self) -> list[Tensor]:
        return [self.final, self.whole, *self.layers.values()]


def rows(tables: Sequence[Table], width: int) -> Tensor:
    return torch.tensor([row for table in tables for row in table], dtype=torch.float64).reshape(-1, width)


def leaves(world: World, views: Sequence[View]) -> dict[View, Leaf]:
    return {
        view: Leaf(
            rows([s.student for s in world[view]], V).requires_grad_(),
            rows([s.whole_student for s in world[view]], V).requires_grad_(),
            {layer: rows([s.states[layer] for s in world[view]], D).requires_grad_() for layer in LAYERS},
        )
        for view in views
    }


def redrawn(count: int) -> Tensor:
    """Noise as the public CLEAR code draws it, by hand: [count, D], normalised over the whole of it."""
    noise = torch.tensor([[1.0 + (3 * i + j) % 7 for j in range(D)] for i in range(count)], dtype=torch.float64)
    return noise / noise.square().sum().sqrt()


def stats_of(
    world: World,
    objective: Objective,
    student: Mapping[View, Leaf] | None = None,
    totals: World | None = None,
    impl_dtype: torch.dtype = torch.float64,
) -> dict[View, TokenStats]:
    """What the engine hands to the objective; ``totals``: the global batch this world is a part of."""
    student = leaves(world, objective.needs.views) if student is None else student
    return {
        view: view_stats(world[view], objective.needs.wants[view], student[view], (totals or world)[view], impl_dtype)
        for view in objective.needs.views
    }


def view_stats(
    view: Sequence[Said], wants: frozenset[str | Hidden], leaf: Leaf, totals: Sequence[Said], dtype: torch.dtype
) -> TokenStats:
    head = torch.eye(V, dtype=dtype)
    values: dict[str | Hidden, Tensor] = {}
    plain = {w for w in wants if isinstance(w, str) and not w.startswith(SEQUENCE)}
    targets = torch.tensor([y for s in view for y in s.answer], dtype=torch.long)
    if plain:
        reference = rows([s.reference for s in view], V).to(dtype)
        values |= token_stats(leaf.final.to(dtype), head, targets, h_ref=reference, want=plain)
    everywhere = {w for w in wants if isinstance(w, str) and w.startswith(SEQUENCE)}
    if everywhere:
        reference = rows([s.whole_reference for s in view], V).to(dtype)
        names = {w: w.removeprefix(SEQUENCE) for w in everywhere}
        found = token_stats(leaf.whole.to(dtype), head, None, h_ref=reference, want=list(names.values()))
        values |= {w: found[name] for w, name in names.items()}
    image = torch.tensor([i for s in view for i in s.image], dtype=torch.bool)
    for want in wants:
        if isinstance(want, Hidden):
            values[want] = distance(view, want, leaf, image)
    return TokenStats(
        example=numbered([len(s.answer) for s in view]),
        examples=len(view),
        total_examples=len(totals),
        total_tokens=sum(len(s.answer) for s in totals),
        values=values,
        sequence_example=numbered([len(s.image) for s in view]),
        sequence_image=image,
        total_sequence=sum(len(s.image) for s in totals),
    )


def distance(view: Sequence[Said], want: Hidden, leaf: Leaf, image: Tensor) -> Tensor:
    h = leaf.layers[want.layer]
    if want.target == "reference":
        target = rows([s.states_reference[want.layer] for s in view], D)
    elif want.target == "control":
        target = want.scale * control_vector(D, want.seed).double()
    else:
        assert want.images
        target = want.scale * redrawn(len(h))
    out = hidden_distance(h, target) / (D if want.average else 1)
    return out if want.images else torch.where(image, 0.0, out)


def numbered(counts: Sequence[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))


def value(objective: Objective, world: World, progress: float = 0.0) -> float:
    return objective(stats_of(world, objective), progress)[0].item()


def gradients(objective: Objective, world: World, progress: float = 0.0) -> dict[View, list[Tensor]]:
    """view -> gradients of the loss in the leaf's tensors; zero where one is not looked at."""
    student = leaves(world, objective.needs.views)
    loss, _ = objective(stats_of(world, objective, student), progress)
    flat = [x for leaf in student.values() for x in leaf.tensors()]
    found = iter(torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True))
    return {view: [next(found) for _ in leaf.tensors()] for view, leaf in student.items()}


def control(seed: int = 0, scale: float = 1.0) -> list[float]:
    """c u as plain numbers."""
    return [scale * x for x in control_vector(D, seed).double().tolist()]
