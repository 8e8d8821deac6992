"""What enters a loss and with which weight: shares add up, neighbours do not matter, prompts and pictures stay out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from methods_calculator import Said
from methods_cases import CASES
from methods_support import World, gradients, leaves, make_world, stats_of, value

from clear_dist.methods import FORGET, METHODS, RETAIN, Objective, build, dpo, kl, match, misdirect, nll, npo
from clear_dist.ops import token_stats
from clear_dist.types import TokenStats, View

# The public CLEAR code's noise is drawn for a whole batch: its target depends on how the batch is cut.
CUTTABLE = [name for name in CASES if name != "misdirect redrawn"]


def part(world: World, keep: list[int]) -> World:
    return {view: [said for n, said in enumerate(examples) if n in keep] for view, examples in world.items()}


@pytest.mark.parametrize("name", CUTTABLE)
@pytest.mark.parametrize("cut", [([0], [1, 2]), ([0], [1], [2])], ids=str)
def test_shares_add_up_to_the_whole(name: str, cut: tuple[list[int], ...]) -> None:
    """Values and gradients do not depend on how a global batch is cut into ranks and accumulation steps; some parts
    have no example of some view."""
    objective, world = CASES[name][0], make_world()
    pieces = [part(world, keep) for keep in cut]
    total = sum(objective(stats_of(piece, objective, totals=world))[0].item() for piece in pieces)
    assert total == pytest.approx(value(objective, world), rel=1e-12, abs=1e-14)

    student = leaves(world, objective.needs.views)
    flat = [x for leaf in student.values() for x in leaf.tensors()]
    whole = torch.autograd.grad(objective(stats_of(world, objective, student))[0], flat, allow_unused=True)
    summed = [torch.zeros_like(x) for x in flat]
    for keep, piece in zip(cut, pieces, strict=True):
        cut_out = leaves(piece, objective.needs.views)
        loss, _ = objective(stats_of(piece, objective, cut_out, totals=world))
        tensors = [x for leaf in cut_out.values() for x in leaf.tensors()]
        found = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
        rows = [r for view in cut_out for r in rows_of(world, view, keep)]
        for target, row, gradient in zip(summed, rows, found, strict=True):
            target[row] += gradient
    for ours, theirs in zip(summed, whole, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=1e-11, atol=1e-14)


def rows_of(world: World, view: View, keep: list[int]) -> list[torch.Tensor]:
    """Where the kept examples' rows lie in each of the view's tensors: answers, sequences, one more per block."""

    def rows(lengths: list[int]) -> torch.Tensor:
        of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        return torch.isin(of, torch.tensor(keep)).nonzero()[:, 0]

    answers = rows([len(s.answer) for s in world[view]])
    whole = rows([len(s.image) for s in world[view]])
    return [answers, whole, whole, whole]


@pytest.mark.parametrize("name", ["rmu", "scrub", "npo"])
def test_shares_of_other_code_add_up_too(name: str) -> None:
    """Token means and means over whole sequences are by global counts as well."""
    for variant in ("clear_code", "tofu"):
        objective, world = build(name, variant=variant), make_world()
        if "redrawn" in str(objective):
            continue
        total = sum(objective(stats_of(part(world, k), objective, totals=world))[0].item() for k in ([0, 2], [1]))
        assert total == pytest.approx(value(objective, world), rel=1e-12)


@pytest.mark.parametrize("name", CUTTABLE)
def test_neighbours_do_not_matter(name: str) -> None:
    """The gradient in one example's tokens is the same whatever else is in the batch (of as many tokens)."""
    objective, world = CASES[name][0], make_world()
    changed = make_world(9)
    mixed: World = {view: [said, *changed[view][1:]] for view, said in ((v, e[0]) for v, e in world.items())}
    for view in objective.needs.views:
        ours = gradients(objective, world)[view]
        other = gradients(objective, mixed)[view]
        first = rows_of(world, view, [0])
        for a, b, row in zip(ours, other, first, strict=True):
            torch.testing.assert_close(a[row], b[row], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_no_more_than_it_asks_for(name: str) -> None:
    """Statistics are there only where wanted: an objective that read another would not find it."""
    objective, world = build(name), make_world()
    for view, stats in stats_of(world, objective).items():
        assert set(stats.values) == objective.needs.wants[view]


def with_other_prompts(world: World) -> World:
    """The same answers after other prompts and pictures, as far as their own tokens go."""
    strange = make_world(5)

    def mix(view: View) -> list[Said]:
        out = []
        for mine, other in zip(world[view], strange[view], strict=True):
            head = 3
            out.append(
                replace(
                    mine,
                    whole_student=other.whole_student[:head] + mine.whole_student[head:],
                    whole_reference=other.whole_reference[:head] + mine.whole_reference[head:],
                    states={k: other.states[k][:head] + h[head:] for k, h in mine.states.items()},
                    states_reference={k: other.states_reference[k][:head] + h[head:] for k, h in mine.states.items()},
                )
            )
        return out

    return {view: mix(view) for view in world}


ANSWERS_ONLY = [name for name in METHODS if name != "rmu"]


@pytest.mark.parametrize("name", ANSWERS_ONLY)
def test_prompt_and_image_tokens_never_enter_a_loss(name: str) -> None:
    objective, world = build(name), make_world()
    assert not objective.needs.sequences, "looks at more than answers"
    assert value(objective, world) == value(objective, with_other_prompts(world))


@pytest.mark.parametrize("objective", [misdirect(FORGET), match(RETAIN), misdirect(FORGET) + match(RETAIN)], ids=str)
def test_image_tokens_enter_rmu_only_where_asked_for(objective: Objective) -> None:
    """RMU looks at prompts; its tokens 1 and 2 are a picture here."""
    world, other = make_world(), make_world()
    for examples in other.values():
        for said in examples:
            for states in (said.states, said.states_reference):
                for table in states.values():
                    table[1], table[2] = [100.0, 0.0, -3.0], [7.0, 7.0, 7.0]
    assert value(objective, world) == value(objective, other)
    both = misdirect(FORGET, images=True) + match(RETAIN, images=True)
    assert value(both, world) != pytest.approx(value(both, other))
    for view, found in gradients(objective, world).items():
        pictures = torch.tensor([image for said in world[view] for image in said.image])
        of_states = found[3]  # those of block 7
        assert of_states[pictures].abs().max() == 0 < of_states[~pictures].abs().max()


def test_an_example_counts_once_however_long() -> None:
    """Doubling one answer's tokens leaves a mean over examples as it is; a mean over tokens moves."""
    world = make_world()
    said = world[FORGET][0]
    doubled = replace(
        said, student=said.student * 2, reference=said.reference * 2, answer=said.answer * 2, image=said.image
    )
    other = {**world, FORGET: [doubled, *world[FORGET][1:]]}
    for objective in (nll(FORGET), kl(FORGET)):
        assert value(objective, other) == pytest.approx(value(objective, world), rel=1e-12)
    for objective in (nll(FORGET, reduction="token"), npo(FORGET)):
        assert value(objective, other) != pytest.approx(value(objective, world), rel=1e-3)


@pytest.mark.parametrize("name", ["nll", "npo", "kl", "undial", "satimp", "ce_u", "cosine", "nll token"])
def test_no_example_gives_zero_and_stays_connected(name: str) -> None:
    """A rank without an example of a view still runs the same backward pass."""
    objective = CASES[name][0]
    (view,) = objective.needs.views
    h = torch.zeros(0, 5, dtype=torch.float64, requires_grad=True)
    wants = [w for w in objective.needs.wants[view] if isinstance(w, str)]
    empty = torch.zeros(0, dtype=torch.long)
    values = token_stats(h, torch.eye(5, dtype=torch.float64), empty, h_ref=h.detach(), want=wants)
    loss, _ = objective({view: TokenStats(empty, 0, 4, 9, {**values})})
    assert loss.item() == 0.0
    loss.backward()
    assert h.grad is not None and h.grad.shape == (0, 5)


def test_pairs_must_be_complete() -> None:
    world = make_world()
    objective = dpo(View.IDK, FORGET)
    with pytest.raises(AssertionError, match="example by example"):
        objective(stats_of({**world, View.IDK: world[View.IDK][:2]}, objective))
    assert objective.needs.pairs == ((View.IDK, FORGET),)
    assert (nll(RETAIN) + dpo(View.IDK, FORGET) + dpo(View.IDK, FORGET, beta=1.0)).needs.pairs == ((View.IDK, FORGET),)
