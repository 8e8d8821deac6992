"""Statistics of the reference kept on disk: the same numbers as those of a reference that is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_support import metrics, stir
from reference_support import CASES, POOLS, build, key_of, stream_of
from torch import Tensor

from clear_dist.engine.loop import TrainSettings, train
from clear_dist.engine.reference_build import build_reference_cache
from clear_dist.engine.reference_cache import ReferenceCache
from clear_dist.engine.reference_key import kept_of, needs_head
from clear_dist.engine.step import FINAL, StepModule, loss_of
from clear_dist.engine.stream import Stream
from clear_dist.engine.world import World
from clear_dist.methods import FORGET as F
from clear_dist.methods import RETAIN as R
from clear_dist.methods import Objective, kl, match, nll, npo
from clear_dist.models import Model, add_lora, freeze_tower, load_model
from clear_dist.types import ReferenceStates, View


def student_of(base_dir: Path, full: bool) -> Model:
    model = load_model(base_dir, dtype="fp32", device="cpu")
    if full:
        freeze_tower(model.family, model.module)
    else:
        model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    return model


def outcome(
    module: StepModule, stream: Stream, objective: Objective, step: int
) -> tuple[dict[tuple[View, Any], Tensor], dict[str, Tensor]]:
    """Statistics and gradients of one step."""
    module.zero_grad()
    (batch,) = stream.micro_batches(step)
    values = module(batch, objective.needs)
    loss, _ = loss_of(objective, values, batch, stream.totals(step), 0.0)
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in module.student.named_parameters() if p.grad is not None}
    return {(v, w): x.detach() for v, found in values.items() for w, x in found.items()}, gradients


def close(found: Mapping[Any, Tensor], wanted: Mapping[Any, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, want in wanted.items():
        torch.testing.assert_close(found[name], want, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("name", CASES)
def test_cached_is_live(base_dir: Path, tmp_path: Path, name: str, full: bool) -> None:
    """Statistics and gradients, after the student has left the reference; full: against a frozen copy."""
    objective = CASES[name]
    student = student_of(base_dir, full)
    copy = load_model(base_dir, dtype="fp32", device="cpu").module.requires_grad_(False) if full else None
    if not full:
        stir(student.module, 0.1)  # the cache is made with the adapter off
    module = StepModule(student.module, student.family).train()
    stream = stream_of(student.processor, objective)
    cache = build(module, stream, objective, tmp_path, full=full, tokens_per_pass=150)
    assert module.training and student.module.training, "the student is left as it was"
    if full:
        stir(student.module, 0.03)
    head = cache.head()
    assert (head is not None) == (full and name not in ("npo", "dpo", "match", "match_images", "rmu", "cosine"))
    module.reference_head = [] if head is None else [head]
    live = StepModule(student.module, student.family, copy).train()
    wanted: tuple[dict[Any, Tensor], dict[str, Tensor]] = ({}, {})
    for step in range(3):
        wanted = outcome(live, stream_of(student.processor, objective), objective, step)
        stream.cache = cache
        (batch,) = stream.micro_batches(step)
        assert batch.reference is None and batch.cached is not None
        found = outcome(module, stream, objective, step)
        close(found[0], wanted[0])
        close(found[1], wanted[1])
        assert max(float(g.abs().max()) for g in wanted[1].values()) > 1e-4, "nothing is shown"
    if full:  # with the student's own head in its place the numbers would be others
        module.reference_head = []
        moved = outcome(module, stream, objective, 2)[0]
        gaps = [float((moved[k] - v).abs().max()) for k, v in wanted[0].items()]
        assert (max(gaps) > 1e-3) == (head is not None)


def tensors(states: ReferenceStates) -> dict[Any, Tensor]:
    named = {"logp": states.logp, "hidden": states.hidden, **states.layers}
    return {name: t for name, t in named.items() if t is not None}


@pytest.mark.parametrize("layout", ["padded", "varlen"])
def test_layouts_make_the_same_cache(base_dir: Path, tmp_path: Path, layout: str) -> None:
    objective = CASES["all"]
    student = student_of(base_dir, False)
    module = StepModule(student.module, student.family)
    dense, other = (stream_of(student.processor, objective, layout=name) for name in ("dense", layout))
    assert key_of(dense, objective).digest == key_of(other, objective).digest
    one, two = build(module, dense, objective, tmp_path / "a"), build(module, other, objective, tmp_path / "b")
    for view in objective.needs.reference:
        everything = list(range(len(POOLS[view])))
        close(tensors(two.states(view, everything)), tensors(one.states(view, everything)))


def test_examples_in_any_order(base_dir: Path, tmp_path: Path) -> None:
    """Each example's rows are its own, however many are asked for at once; images left out are zero rows."""
    objective = npo(F) + kl(F) + match(F, layer=0) + match(F, layer=1, images=True) + kl(F, tokens="sequence") + npo(R)
    student = student_of(base_dir, False)
    stream = stream_of(student.processor, objective)
    cache = build(StepModule(student.module, student.family), stream, objective, tmp_path, tokens_per_pass=100)
    single = [tensors(cache.states(F, [i])) for i in range(len(POOLS[F]))]
    assert {*single[0]} == {"hidden", 0, 1, FINAL}
    for order in ([5, 0, 3], [2, 2, 7, 2], [7, 6, 5, 4, 3, 2, 1, 0]):
        found = tensors(cache.states(F, order))
        for name, rows in found.items():
            assert torch.equal(rows, torch.cat([single[i][name] for i in order])), name
    hidden = int(single[0]["hidden"].shape[1])
    none = tensors(cache.states(F, []))
    assert {n: tuple(t.shape) for n, t in none.items()} == dict.fromkeys(single[0], (0, hidden))
    assert cache.states(R, []).logp is not None and tensors(cache.states(R, [])).keys() == {"logp"}
    for i, example in enumerate(stream.encoded(F)):
        found = single[i]
        assert found["hidden"].shape == (len(example.answer), hidden)
        image = torch.zeros(example.length, dtype=torch.bool)
        image[: len(example.prefix)] = torch.from_numpy(example.prefix == student.processor.image_id)
        assert bool((found[0][image] == 0).all()) and bool((found[0][~image] != 0).any(1).all())
        assert bool((found[1] != 0).any(1).all()) and len(found[FINAL]) == example.length
        assert bool(image.any()) == (example.picture is not None)


def test_the_least_is_kept() -> None:
    kept = {name: kept_of(objective.needs) for name, objective in CASES.items()}
    assert [str(k) for k in kept["dpo"].values()] == ["log-probabilities"] * 2
    assert kept["dpo"].keys() == {View.FORGET, View.IDK} and kept["kl"].keys() == {R}
    assert str(kept["rmu"][R]) == "states after block 0 without image tokens" and F not in kept["rmu"]
    assert str(kept["match_images"][R]) == "states after block 1"
    assert str(kept["undial"][F]) == "final states of answers"
    assert str(kept["sequence"][R]) == "final states of sequences"
    both = kept_of((match(R, layer=1, images=True) + match(R, layer=1)).needs)
    assert str(both[R]) == "states after block 1", "images for one are kept for both"
    heads = {name for name, objective in CASES.items() if needs_head(objective.needs)}
    assert CASES.keys() - heads == {"npo", "dpo", "match", "match_images", "rmu", "cosine"}


def test_full_fine_tuning_without_a_second_model(base_dir: Path, tmp_path: Path, world: World) -> None:
    """A few steps with the cache: those with a frozen copy that runs along; and going on finds the cache made."""
    objective = kl(F) + npo(F) + kl(R, direction="forward") + match(R, layer=1) - nll(F)
    lines: dict[str, list[dict[str, Any]]] = {}
    after: dict[str, dict[str, Tensor]] = {}
    made: list[ReferenceCache] = []
    for name in ("copy", "cache", "again"):
        student = student_of(base_dir, True)
        copy = load_model(base_dir, dtype="fp32", device="cpu").module.requires_grad_(False) if name == "copy" else None
        module = StepModule(student.module, student.family, copy)
        stream = stream_of(student.processor, objective)

        def prepare(engine: Any, module: StepModule = module, stream: Stream = stream, name: str = name) -> None:
            if name == "copy":
                return
            key, counted = key_of(stream, objective, full=True), []
            cache = build_reference_cache(
                engine,
                stream,
                objective.needs,
                tmp_path / "reference",
                key=key,
                world=world,
                progress=lambda done, total: counted.append((done, total)),
            )
            assert bool(counted) == (name == "cache"), "made once, for every run"
            assert not counted or counted[-1][0] == counted[-1][1] == len(counted)
            stream.cache = cache
            head = cache.head()
            assert head is not None
            module.reference_head = [head.clone()]
            made.append(cache)

        settings = TrainSettings(
            run_dir=tmp_path / name,
            total_steps=4,
            lr=2e-3,
            weight_decay=0.0,
            warmup=0.0,
            schedule="constant",
            bf16=False,
            global_batch=3,
            accumulation=1,
            ds_config={"gradient_clipping": 0.0, "zero_optimization": {"stage": 0}},
            ds_source="test",
            optimizer="sgd",
        )
        train(module, objective, stream, settings, world, prepare=prepare)
        lines[name] = metrics(tmp_path / name)
        after[name] = {n: p.detach().clone() for n, p in student.module.named_parameters()}
        assert len([p for n, p in module.named_parameters() if n.startswith("reference")]) == (
            len(after[name]) if copy is not None else 0
        )
    assert made[0].bytes == made[1].bytes > 0
    for name in ("cache", "again"):
        for found, wanted in zip(lines[name], lines["copy"], strict=True):
            assert found["parts"] == pytest.approx(wanted["parts"], abs=1e-5, rel=1e-5)
        close(after[name], after["copy"])
    assert abs(lines["cache"][0]["parts"]["kl(FORGET)"]) < 1e-6 < 1e-4 < lines["cache"][-1]["parts"]["kl(FORGET)"]


def test_bf16_states_are_kept_as_they_are(base_dir: Path, tmp_path: Path) -> None:
    model = load_model(base_dir, dtype="bf16", device="cpu")
    objective = kl(F) + match(F, layer=0) + npo(R)
    stream = stream_of(model.processor, objective)
    key = key_of(stream, objective, full=True, dtype=torch.bfloat16)
    cache = build(StepModule(model.module, model.family), stream, objective, tmp_path, key=key)
    found, head = cache.states(F, [1, 0]), cache.head()
    assert found.hidden is not None and head is not None and found.hidden.dtype == head.dtype == torch.bfloat16
    assert torch.equal(head, model.family.head(model.module).weight) and found.layers[0].dtype == torch.bfloat16
    logp = cache.states(R, [0]).logp
    assert logp is not None and logp.dtype == torch.float32 and cache.states(F, []).hidden is not None
    assert cache.key.parts["precision"] == "bfloat16"
