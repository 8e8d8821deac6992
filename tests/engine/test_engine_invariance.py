"""What an example adds to a loss is its own affair: neighbours, layout, padding, prompts and pictures of others do not
enter it. Every method, through the model: each view as the recipes make it, packed as the stream packs it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from engine_support import FORGET, MAX_LENGTH, RETAIN, stir
from torch import Tensor

import clear_dist.engine.step as step_module
import clear_dist.engine.stream as stream_module
from clear_dist.data.packing import pack
from clear_dist.data.views import Taught, build_pools
from clear_dist.engine.step import StepModule, Totals, loss_of
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.methods import METHODS, Objective, misdirect, parse_objective
from clear_dist.models import Model, add_lora, load_model
from clear_dist.ops import control_vector
from clear_dist.types import Batch, Example, Hidden, UserError, View

SETTINGS: Mapping[str, Mapping[str, Any]] = {"rmu": {"layer": 1}}  # the model has three blocks
LAYOUTS = {"dense": True, "dense, nothing shared": False, "padded": False, "varlen": False}  # -> prefixes are shared
# Of every view: two questions on one picture, another picture, and a text where the view has any.
PICKED = {View.PRIVATE: (0, 1, 2, 3), View.SAFE: (0, 1, 2, 3), View.GUIDE: (0, 1, 2, 4)}
OTHERWISE = (0, 1, 3, 4)
TAUGHT = [
    Taught(e, f"Describe this image. {e.question}", ("Curly hair.", "This is no person."))
    for e in FORGET
    if e.picture is not None and e.kind in ("name", "caption")
]
Chosen = dict[View, list[int]]


@pytest.fixture(scope="module")
def model(base_dir: Any) -> Model:
    """Student and original differ: an adapter away from its start."""
    model = load_model(base_dir, dtype="fp32", device="cpu")
    model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    stir(model.module, 0.1)
    return model


def build(method: str) -> Objective:
    return METHODS[method].build(SETTINGS.get(method))


def stream_of(model: Model, objective: Objective, layout: Any = "dense", max_length: int = MAX_LENGTH) -> Stream:
    needs = objective.needs
    train = {"forget": FORGET, "retain": RETAIN}
    pools = build_pools(needs.views, train, seed=3, leaks=lambda e: False, taught=TAUGHT)
    batch = {view: len(OTHERWISE) for view in needs.views}
    return Stream(
        {view: pool.examples for view, pool in pools.items()},
        model.processor,
        StreamSettings(batch, 0, 2, max_length, 96, 1, layout),
        0,
        1,
        needs=needs,
        reference={view: pool.reference for view, pool in pools.items() if pool.reference is not None},
    )


def chosen_of(objective: Objective) -> Chosen:
    return {view: list(PICKED.get(view, OTHERWISE)) for view in objective.needs.views}


def totals_of(stream: Stream, chosen: Chosen) -> dict[View, Totals]:
    encoded = {view: [stream.encoded(view)[i] for i in indices] for view, indices in chosen.items()}
    return {v: Totals(len(es), sum(len(e.answer) for e in es), sum(e.length for e in es)) for v, es in encoded.items()}


def packed(stream: Stream, chosen: Chosen, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Batch:
    """As the stream packs it, but for what it has no setting for."""
    with monkeypatch.context() as patch:
        patch.setattr(stream_module, "pack", functools.partial(pack, **options))
        return stream.packed(chosen)


def by_example(batch: Batch, view: View, want: Any, values: Tensor) -> list[Tensor]:
    """One statistic, cut into the view's examples."""
    whole = isinstance(want, Hidden) or want.startswith("sequence:")
    of = batch.sequence_example if whole else batch.token_example
    rows, examples = batch.view_sequence[view] if whole else batch.view_tokens[view], batch.view_examples[view]
    assert of is not None
    return [values[of[rows] == n] for n in range(examples.start, examples.stop)]


def statistics(model: Model, objective: Objective, batch: Batch) -> dict[tuple[View, Any], list[Tensor]]:
    with torch.no_grad():
        values = StepModule(model.module, model.family)(batch, objective.needs)
    return {(v, w): by_example(batch, v, w, x) for v, found in values.items() for w, x in found.items()}


@pytest.mark.parametrize("method", METHODS)
def test_an_example_adds_what_it_adds_alone(model: Model, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token by token, and term by term: shares of single examples (of pairs, where a term binds them), each divided by
    the counts of all, add up to the whole."""
    objective, module = build(method), StepModule(model.module, model.family)
    chosen = chosen_of(objective)
    stream = stream_of(model, objective)
    totals, alone, shares = totals_of(stream, chosen), [], []
    for n in range(len(OTHERWISE)):
        batch = stream.packed({view: [indices[n]] for view, indices in chosen.items()})
        with torch.no_grad():
            values = module(batch, objective.needs)
        shares.append(loss_of(objective, values, batch, totals, 0.0)[1])
        alone.append({(v, w): by_example(batch, v, w, x)[0] for v, found in values.items() for w, x in found.items()})
    for name, share in LAYOUTS.items():
        batch = packed(stream_of(model, objective, name.split(",")[0]), chosen, monkeypatch, share=share)
        with torch.no_grad():
            values = module(batch, objective.needs)
        for view, found in values.items():
            for want, x in found.items():
                for n, mine in enumerate(by_example(batch, view, want, x)):
                    torch.testing.assert_close(mine, alone[n][view, want], rtol=1e-4, atol=1e-5)
        _, parts = loss_of(objective, values, batch, totals, 0.0)
        for term, value in parts.items():
            single = torch.stack([s[term] for s in shares])
            assert float(value) == pytest.approx(float(single.sum()), rel=1e-5, abs=1e-6), (name, term)
            assert float(single.std()) > 1e-6 * float(single.abs().max()), "examples that add the same show nothing"


def leaves(
    model: Model, objective: Objective, batch: Batch, monkeypatch: pytest.MonkeyPatch, totals: Mapping[View, Totals]
) -> tuple[float, dict[int, Tensor]]:
    """(loss, layer -> the student's states [R*L, D], ``.grad`` filled); the final ones are layer -1."""
    found: dict[int, Tensor] = {}

    def spy(*args: Any) -> tuple[Tensor | None, dict[int, Tensor]]:
        final, states = true(*args)
        if not torch.is_grad_enabled():  # the reference
            return final, states
        found.update({layer: h.detach().requires_grad_() for layer, h in states.items()})
        if final is not None:
            found[-1] = final.detach().requires_grad_()
        return found.get(-1), {layer: found[layer] for layer in states}

    true: Callable[..., Any] = step_module.hidden_states
    with monkeypatch.context() as patch:
        patch.setattr(step_module, "hidden_states", spy)
        values = StepModule(model.module, model.family)(batch, objective.needs)
    loss, _ = loss_of(objective, values, batch, totals, 0.0)
    loss.backward()
    return float(loss.detach()), found


def touched(states: Tensor) -> list[list[int]]:
    """row -> positions whose state the loss depends on."""
    assert states.grad is not None
    return [row.nonzero()[:, 0].tolist() for row in states.grad.abs().sum(-1) > 0]


def sequences(model: Model, stream: Stream, chosen: Chosen) -> list[tuple[list[int], int]]:
    """(prompt, answer tokens) of each example, view by view: spelt out from the processor alone."""
    out = []
    for view, indices in chosen.items():
        pools = build_pools(
            [view], {"forget": FORGET, "retain": RETAIN}, seed=3, leaks=lambda e: False, taught=TAUGHT
        )  # fmt: skip
        for example in (pools[view].examples[i] for i in indices):
            prefix, rest = model.processor.encode_prompt(example.question, example.picture is not None)
            out.append(([*prefix, *rest], len(model.processor.encode_answer(example.answer))))
    return out


@pytest.mark.parametrize("method", [m for m in METHODS if m != "rmu"])
def test_only_states_that_predict_answers_enter_a_loss(
    model: Model, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sequence a row: the state before each answer token, EOS included; no prompt, no picture, no padding."""
    objective = build(method)
    stream, chosen = stream_of(model, objective, "padded"), chosen_of(objective)
    batch = stream.packed(chosen)
    wanted = []
    for prompt, answer in sequences(model, stream, chosen):
        first = len(prompt) - 1 + (method == "ce_u")  # which leaves an answer's first token out
        wanted.append(list(range(first, len(prompt) - 1 + answer)))
    _, found = leaves(model, objective, batch, monkeypatch, totals_of(stream, chosen))
    assert touched(found[-1]) == wanted
    last = batch.targets[torch.searchsorted(batch.token_example, torch.arange(len(wanted)), right=True) - 1]
    assert set(last.tolist()) == {model.processor.eos_id}


@pytest.mark.parametrize("images", [False, True])
def test_rmu_averages_over_prompt_and_answer(model: Model, images: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Image tokens only where asked for, padding never; the value from the states themselves."""
    objective = misdirect(View.FORGET, layer=1, scale=2.0, images=images)
    stream, chosen = stream_of(model, objective, "padded"), chosen_of(objective)
    batch = stream.packed(chosen)
    image = model.processor.image_id
    wanted = []
    for prompt, answer in sequences(model, stream, chosen):
        tokens = [*prompt, *[0] * answer]
        wanted.append([i for i, token in enumerate(tokens) if images or token != image])
    loss, found = leaves(model, objective, batch, monkeypatch, totals_of(stream, chosen))
    assert touched(found[1]) == wanted
    target = 2.0 * control_vector(found[1].shape[-1], 0)
    rows = [((h[kept] - target) ** 2).sum(-1).mean() for h, kept in zip(found[1].detach(), wanted, strict=True)]
    assert loss == pytest.approx(float(torch.stack(rows).mean()), rel=1e-5)


def test_rmu_of_the_table_leaves_image_tokens_out(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for images in (False, True):
        objective = METHODS["rmu"].build({"layer": 1, "images": images})
        stream, chosen = stream_of(model, objective, "padded"), chosen_of(objective)
        batch = stream.packed(chosen)
        _, found = leaves(model, objective, batch, monkeypatch, totals_of(stream, chosen))
        at = {(r, i) for r, row in enumerate(touched(found[1])) for i in row}
        shown = {divmod(slot, batch.input_ids.shape[1]) for slot in batch.image_slots.tolist()}
        padding = {(r, i) for r, i in (~batch.real).nonzero().tolist()}
        assert shown and padding and not at & padding
        assert at & shown == (shown if images else set())


@pytest.mark.parametrize("layout", ["dense", "padded"])
@pytest.mark.parametrize("method", METHODS)
def test_padding_may_hold_anything(model: Model, method: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, the student's padding and the reference's."""
    objective = build(method)
    chosen = chosen_of(objective)
    stream = stream_of(model, objective, layout)
    clean, dirty = (packed(stream, chosen, monkeypatch, multiple_of=64) for _ in range(2))
    generator = torch.Generator().manual_seed(5)
    size = model.module.get_input_embeddings().num_embeddings  # type: ignore[operator]
    padding = 0
    for batch in (b for b in (dirty, dirty.reference) if b is not None):
        at = ~batch.real
        padding += int(at.sum())
        batch.input_ids[at] = torch.randint(0, size, (int(at.sum()),), generator=generator)
        batch.position_ids[at] = torch.randint(0, 50, (int(at.sum()),), generator=generator)
    assert padding
    found = (statistics(model, objective, batch) for batch in (clean, dirty))
    for (key, a), b in zip(next(found).items(), next(found).values(), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)), key


@pytest.mark.parametrize("what", ["prompt", "pixels"])
@pytest.mark.parametrize("method", METHODS)
def test_a_change_reaches_only_those_who_see_it(model: Model, method: str, what: str) -> None:
    """Another word in one prompt changes those who are asked it; another picture changes those it is shown to: their
    states, not what they are scored on."""
    objective = build(method)
    stream, chosen = stream_of(model, objective), chosen_of(objective)
    plain, changed = stream.packed(chosen), stream.packed(chosen)
    before = statistics(model, objective, plain)
    if what == "pixels":
        assert changed.pixel_values is not None
        changed.pixel_values[0] = changed.pixel_values[0].flip(-1) + 0.5
        digest = stream.encoded(objective.needs.views[0])[chosen[objective.needs.views[0]][0]].digest
        seeing = {n for n, e in enumerate(_encoded(stream, chosen)) if e.digest == digest}
    else:
        example = changed.token_example[0]
        first = changed.score_index[changed.token_example == example][0]  # the prompt's last token: its colon
        changed.input_ids.view(-1)[first - 1] = changed.targets[0]
        told = _encoded(stream, chosen)
        asked = (told[int(example)].digest, told[int(example)].rest.tolist())
        seeing = {n for n, e in enumerate(told) if (e.digest, e.rest.tolist()) == asked}  # a pair shares its prompt
    after = statistics(model, objective, changed)
    assert torch.equal(plain.targets, changed.targets)
    moved = set()
    for (view, want), rows in before.items():
        start = plain.view_examples[view].start
        for n, (a, b) in enumerate(zip(rows, after[view, want], strict=True)):
            if float((a - b).abs().max()) > 1e-5 * float(a.abs().max().clamp(min=1.0)):
                moved.add(start + n)
    assert moved == seeing
    assert 0 < len(seeing) < len(plain.example_ids)


def _encoded(stream: Stream, chosen: Chosen) -> list[Any]:
    return [stream.encoded(view)[i] for view, indices in chosen.items() for i in indices]


@pytest.mark.parametrize("equation", ["nll(FORGET)", "kl(GUIDE, direction=forward)"])
def test_what_does_not_fit_is_refused_not_cut(model: Model, equation: str) -> None:
    """Before the first step, by name; the reference's longer prompt counts as well."""
    objective = parse_objective(equation)
    (view,) = objective.needs.views
    stream = stream_of(model, objective)
    read = stream.encoded(view, reference=True)
    size = max(e.length for e in read)
    assert (size > max(e.length for e in stream.encoded(view))) == (view is View.GUIDE)
    assert [e.length for e in stream_of(model, objective, max_length=size).encoded(view, reference=True)] == [
        e.length for e in read
    ]
    name = next(e.example_id for e in read if e.length == size)
    with pytest.raises(UserError, match=rf"^{name}: {size} tokens .*--max-length {size - 1}\."):
        stream_of(model, objective, max_length=size - 1)


def test_every_view_and_every_guise_is_looked_at() -> None:
    """The picks above hold what they promise, so that the tests mean what they say."""
    looked: dict[View, Sequence[Example]] = {}
    pools = build_pools(list(View), {"forget": FORGET, "retain": RETAIN}, seed=3, leaks=lambda e: False, taught=TAUGHT)
    for view, pool in pools.items():
        looked[view] = [pool.examples[i] for i in PICKED.get(view, OTHERWISE)]
    assert set().union(*(build(m).needs.views for m in METHODS)) == set(View) == set(looked)
    for view, examples in looked.items():
        shown = [e.picture.digest for e in examples if e.picture is not None]
        assert 2 <= len(set(shown)) < len(shown), view
        assert (len(shown) < len(examples)) == (view not in (View.GUIDE, View.AUGMENTED)), view
