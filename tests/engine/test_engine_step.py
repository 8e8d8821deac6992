"""One step's mathematics: packing changes no example's loss, and the reference is the original, never the base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from engine_support import FORGET, RETAIN, alone, metrics, packed, run, stir
from torch import Tensor

from clear_dist.data.packing import Layout
from clear_dist.engine.step import StepModule, Totals, loss_of
from clear_dist.engine.world import World
from clear_dist.methods import FORGET as F
from clear_dist.methods import RETAIN as R
from clear_dist.methods import Objective, kl, nll, npo
from clear_dist.models import Model, add_lora, enable_checkpointing, freeze_tower, load_model, save_adapter
from clear_dist.types import Batch, Example, View

EXAMPLES = [*FORGET, *RETAIN]
OBJECTIVE = npo(F) + kl(R) + nll(R)


def per_example(values: Tensor, batch: Batch, view: View) -> dict[str, float]:
    """example id -> mean over its tokens."""
    of = batch.token_example[batch.view_tokens[view]]
    return {batch.example_ids[n]: float(values[of == n].mean()) for n in of.unique().tolist()}


def losses(module: StepModule, objective: Objective, views: dict[str, Sequence[Example]], batch: Batch) -> Tensor:
    totals = {View(v): Totals(len(rows), len(batch.targets[batch.view_tokens[v]])) for v, rows in views.items()}
    return loss_of(objective, module(batch, objective.needs), batch, totals, 0.0)[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("train_mode", [False, True])
def test_packing_changes_nothing(base_dir: Path, attention: str, checkpointing: bool, train_mode: bool) -> None:
    """Per-example losses: dense, padded and alone, pictures and texts, student and reference."""
    model = load_model(base_dir, dtype="fp32", attention=attention, device="cpu")  # type: ignore[arg-type]
    original = {e.id: sum(lp := alone(model, e)) / len(lp) for e in EXAMPLES}
    model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    stir(model.module, 0.1)
    if checkpointing:
        enable_checkpointing(model.module)
    module = StepModule(model.module, model.family).train(train_mode)
    needs = (OBJECTIVE + nll(F)).needs
    student: dict[str, dict[str, float]] = {}
    layouts: tuple[Layout, ...] = ("dense", "padded")
    for layout in layouts:
        batch = packed({"forget": FORGET, "retain": RETAIN}, model.processor, layout)
        with torch.no_grad():
            values = module(batch, needs)
        student[layout] = per_example(values[F]["logp"], batch, F) | per_example(values[R]["logp"], batch, R)
        assert per_example(values[F]["logp"] - values[F]["log_ratio"], batch, F) == pytest.approx(
            {e.id: original[e.id] for e in FORGET}, abs=1e-5
        )
    assert student["dense"].keys() == {e.id for e in EXAMPLES}
    assert student["dense"] == pytest.approx(student["padded"], abs=1e-5)
    single = {}
    for example in EXAMPLES:
        batch = packed({"forget": [example]}, model.processor)
        with torch.no_grad():
            single |= per_example(module(batch, nll(F).needs)[F]["logp"], batch, F)
    assert student["dense"] == pytest.approx(single, abs=1e-5)
    assert max(abs(student["dense"][e.id] - original[e.id]) for e in EXAMPLES) > 0.05, "the adapter does nothing"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_packed_and_padded_agree(base: Model, checkpointing: bool) -> None:
    base.module = add_lora(base.module, 4, 8.0, base.family, seed=1)
    stir(base.module, 0.1)
    if checkpointing:
        enable_checkpointing(base.module)
    module = StepModule(base.module, base.family).train()
    views: dict[str, Sequence[Example]] = {"forget": FORGET, "retain": RETAIN}
    gradients: list[dict[str, Tensor]] = []
    layouts: tuple[Layout, ...] = ("dense", "padded")
    for layout in layouts:
        module.zero_grad()
        losses(module, OBJECTIVE, views, packed(views, base.processor, layout)).backward()
        gradients.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})
    dense, padded = gradients
    assert dense.keys() == padded.keys() and all("lora_" in n for n in dense)
    assert max(float(g.abs().max()) for g in dense.values()) > 1e-2
    assert max(float((dense[n] - padded[n]).abs().max()) for n in dense) < 1e-5


def test_a_batch_without_examples_touches_every_trained_weight(base: Model) -> None:
    """A rank without a share runs the same modules backward as the others, or they would wait for it."""
    base.module = add_lora(base.module, 4, 8.0, base.family, seed=1)
    module = StepModule(base.module, base.family).train()
    nothing: dict[str, Sequence[Example]] = {"forget": [], "retain": []}
    loss = losses(module, OBJECTIVE, nothing, packed(nothing, base.processor))
    assert float(loss.detach()) == 0.0
    loss.backward()
    trained = [p for p in module.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and float(p.grad.abs().max()) == 0 for p in trained)


def test_reference_of_an_original_made_with_lora(base: Model, base_dir: Path, tmp_path: Path) -> None:
    """base -> LoRA original, saved -> loaded, merged -> unlearning adapter: its log-ratio is against the original."""
    of_base = {e.id: alone(base, e) for e in FORGET}
    base.module = add_lora(base.module, 4, 8.0, base.family, seed=1)
    stir(base.module, 0.2)
    of_original = {e.id: alone(base, e) for e in FORGET}
    folder = save_adapter(base.module, None, tmp_path / "adapter", base.processor, base=base_dir)

    original = load_model(folder, dtype="fp32", device="cpu")
    assert not [n for n, _ in original.module.named_parameters() if "lora" in n], "the original's adapter is merged"
    original.module = add_lora(original.module, 8, 16.0, original.family, seed=2)
    stir(original.module, 0.2, seed=3)
    module = StepModule(original.module, original.family).train()
    batch = packed({"forget": FORGET}, original.processor)
    values = module(batch, (npo(F) + nll(F)).needs)[F]
    for n, example in enumerate(FORGET):
        found = (values["logp"] - values["log_ratio"])[batch.token_example == n].tolist()
        assert found == pytest.approx(of_original[example.id], abs=3e-5)
        gap = max(abs(a - b) for a, b in zip(found, of_base[example.id], strict=True))
        assert gap > 1e-2, "original and base agree: nothing is shown"
        student = values["logp"][batch.token_example == n].tolist()
        assert max(abs(a - b) for a, b in zip(found, student, strict=True)) > 1e-2, "the student has not moved"


def test_full_fine_tuning_keeps_a_frozen_copy(base_dir: Path, world: World, tmp_path: Path) -> None:
    """kl is 0 before the first step, and the copy stays the original while the student moves."""
    student, copy = (load_model(base_dir, dtype="fp32", device="cpu") for _ in range(2))
    of_original = {e.id: alone(copy, e) for e in FORGET}
    freeze_tower(student.family, student.module)
    copy.module.requires_grad_(False)
    objective = kl(F) + kl(R, direction="forward") - nll(F)
    module = StepModule(student.module, student.family, copy.module)
    frozen = {n: p.clone() for n, p in copy.module.named_parameters()}
    trained = run(module, student, objective, world, tmp_path, steps=3, lr=2e-3)
    lines = metrics(tmp_path)
    assert abs(lines[0]["parts"]["kl(FORGET)"]) < 1e-6
    assert abs(lines[0]["parts"]["kl(RETAIN, direction=forward)"]) < 1e-6
    assert lines[-1]["parts"]["kl(FORGET)"] > 1e-3
    assert all(torch.equal(p, frozen[n]) for n, p in copy.module.named_parameters())

    batch = packed({"forget": FORGET}, student.processor)
    with torch.no_grad():
        values = trained.module(batch, (npo(F) + nll(F)).needs)[F]
    for n, example in enumerate(FORGET):
        mine = batch.token_example == n
        reference = (values["logp"] - values["log_ratio"])[mine].tolist()
        assert reference == pytest.approx(of_original[example.id], abs=3e-5)
        assert float(values["log_ratio"][mine].abs().max()) > 1e-2


def test_a_frozen_copy_stays_in_evaluation_mode(base_dir: Path) -> None:
    student, copy = (load_model(base_dir, dtype="fp32", device="cpu") for _ in range(2))
    module = StepModule(student.module, student.family, copy.module).train()
    assert student.module.training and not copy.module.training
    assert not module.eval().training and not student.module.training
