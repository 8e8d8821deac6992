"""Unlearning on pictures: every method of the table, what an epoch shows, what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from unlearn_world import CUT, DATA, FORGET, RETAIN, copied, forgotten, original, same, setting, watch

from clear_dist.data.augment_batch import normalise
from clear_dist.errors import ConfigError, UserError
from clear_dist.methods import METHODS, parse_objective
from clear_dist.models.resnet import VisionModel
from clear_dist.shadow.embed import embeddings
from clear_dist.shadow.presets import VISION_METHODS
from clear_dist.shadow.unlearn import Plan, marks, plan_of, unlearn

BUFFERS = ("running_mean", "running_var")


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", VISION_METHODS)
def test_every_method_makes_another_model(name: str, autocast: torch.dtype | None) -> None:
    model = original(autocast=autocast)
    before = copied(model)
    first = forgotten(model, name)
    assert same(copied(model), before), "the original is left as it was, its statistics too"
    assert not model.training and not first.training
    found = copied(first)
    assert all(bool(torch.isfinite(t).all()) for t in found.values())
    moved = {key for key in found if not torch.equal(found[key], before[key])}
    assert moved & {key for key, _ in first.named_parameters()}
    assert same(copied(forgotten(model, name)), found)
    assert not same(copied(forgotten(model, name, seed=4)), found)
    method, _ = setting(name)
    statistics = {key for key in moved if key.endswith(BUFFERS)}
    assert bool(statistics) == (method.batchnorm == "train")


@pytest.mark.parametrize("batchnorm", ["train", "frozen"])
def test_rmu_leaves_alone_what_lies_above_its_stage(batchnorm: str) -> None:
    model = original()
    student = forgotten(model, "rmu", batchnorm=batchnorm, lr=1e-3)
    assert {key.split(".")[0] for key in moved_weights(model, student)} >= {"layer1", "layer2", "layer3"}
    before, after = copied(model), copied(student)
    above = [key for key in after if key.startswith(("layer4.", "fc."))]
    assert above and all(torch.equal(after[key], before[key]) for key in above), "statistics too: nothing was run there"


def test_an_objective_names_the_stages_it_trains() -> None:
    model = original()
    objective = METHODS["rmu"].build({"layer": 2, "c": 2.0, "average": True, "layers": 2})
    assert objective.train_layers == (1, 2)
    student = unlearn(model, FORGET, RETAIN, setting("rmu")[0], objective, seed=0)
    assert {key.split(".")[0] for key in moved_weights(model, student)} == {"layer2", "layer3"}


def test_rmu_trains_its_stages_alone() -> None:
    model = original()
    student = forgotten(model, "rmu")
    assert {key.split(".")[0] for key in moved_weights(model, student)} == {"layer1", "layer2", "layer3"}


def moved_weights(before: VisionModel, after: VisionModel) -> set[str]:
    old = dict(before.named_parameters())
    return {key for key, p in after.named_parameters() if not torch.equal(p, old[key])}


def test_a_model_that_was_unlearned_can_be_read_and_unlearned_again() -> None:
    """Frozen normalisation is the run's own: the model behaves as any other afterwards."""
    student = forgotten(original(), "scrub")
    again = forgotten(student, "scrub_bio")
    assert embeddings(again, DATA.pixels).shape == (len(DATA.labels), again.fc.in_features)


PLANS = [
    # objective, epochs, batch, repeat -> Plan, of 14 pictures to forget and 28 to retain
    ("npo(FORGET) + nll(RETAIN)", 2.0, 12, 10, Plan(28, 10, 2)),
    ("npo(FORGET) + nll(RETAIN)", 2.0, 6, 1, Plan(14, 2, 4)),
    ("npo(FORGET) + nll(RETAIN)", 1.0, 42, 1, Plan(1, 14, 28)),
    ("npo(FORGET) + nll(RETAIN)", 0.5, 6, 1, Plan(4, 2, 4)),
    ("-nll(FORGET)", 3.0, 4, 2, Plan(21, 4, 0)),
    ("-nll(FORGET)", 3.0, 100, 1, Plan(3, 14, 0)),
    ("nll(RETAIN)", 3.0, 7, 5, Plan(12, 0, 7)),
    ("nll(RETAIN)", 3.0, 100, 1, Plan(3, 0, 28)),
    ("nll(RETAIN)", 0.001, 7, 1, Plan(1, 0, 7)),
]


@pytest.mark.parametrize(("text", "epochs", "batch", "repeat", "plan"), PLANS)
def test_a_batch_mixes_as_an_epoch_does(text: str, epochs: float, batch: int, repeat: int, plan: Plan) -> None:
    method, _ = setting("npo", epochs=epochs, batch=batch, repeat=repeat)
    assert plan_of(parse_objective(text), method, 14, 28) == plan


@pytest.mark.parametrize(
    ("text", "batch", "repeat", "forget", "retain"),
    [
        ("npo(FORGET) + nll(RETAIN)", 9, 1, 14, 28),
        ("npo(FORGET) + nll(RETAIN)", 12, 10, 14, 28),
        ("npo(FORGET) + nll(RETAIN)", 128, 10, 96, 408),
        ("-nll(FORGET)", 8, 3, 14, 28),
        ("-nll(FORGET)", 80, 1, 14, 28),
        ("nll(RETAIN)", 80, 1, 14, 28),
        ("npo(FORGET) + nll(RETAIN)", 256, 1, 14, 28),
        ("npo(FORGET) + nll(RETAIN)", 256, 5, 96, 408),
        ("npo(FORGET) + nll(RETAIN)", 24, 20, 4, 40),
        ("-nll(FORGET)", 80, 3, 14, 28),
    ],
)
def test_epochs_show_every_picture_as_often_as_asked(
    text: str, batch: int, repeat: int, forget: int, retain: int
) -> None:
    """Four epochs: each picture to retain four times, each to forget 4 x repeat times; to a tenth, by rounding."""
    method, _ = setting("npo", epochs=4.0, batch=batch, repeat=repeat)
    plan = plan_of(parse_objective(text), method, forget, retain)
    assert plan.forget + plan.retain <= batch and plan.forget <= forget and plan.retain <= retain
    if plan.forget:
        assert plan.steps * plan.forget / forget == pytest.approx(4 * repeat, rel=0.1)
    if plan.retain:
        assert plan.steps * plan.retain / retain == pytest.approx(4, rel=0.1)


def test_batches_are_of_the_plan_and_every_picture_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 pictures to forget, shown twice an epoch, 16 to retain: eight steps of 2 and 2 an epoch."""
    seen = watch(monkeypatch, compute=False)
    method, objective = setting("npo", epochs=2.0, batch=4, repeat=2)
    unlearn(original(), FORGET, RETAIN, method, objective, seed=0)
    assert len(seen.batches) == 16
    assert seen.progress == [i / 16 for i in range(16)]
    shown = {"forget": Counter[int](), "retain": Counter[int]()}
    for batch in seen.batches:
        assert batch.view_examples == {"forget": slice(0, 2), "retain": slice(2, 4)}
        for view, rows in batch.view_examples.items():
            shown[view] += Counter(numbers(batch.pixels[rows], batch.labels[rows]))
    assert shown["forget"] == dict.fromkeys(range(CUT), 4)
    assert shown["retain"] == dict.fromkeys(range(CUT, len(DATA.labels)), 2)


def numbers(pixels: Tensor, labels: Tensor | None = None) -> list[int]:
    """Which pictures of DATA these are, their labels being right."""
    every = normalise(DATA.pixels).flatten(1)
    found = torch.cdist(pixels.flatten(1), every).argmin(1)
    assert torch.equal(every[found], pixels.flatten(1))
    assert labels is None or torch.equal(DATA.labels[found], labels)
    return found.tolist()


@pytest.mark.parametrize("people", [slice(0, CUT), slice(4, CUT)], ids=["of six", "of two"])
def test_a_random_answer_is_any_other_identity(people: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch, compute=False)
    method, objective = setting("llmu", epochs=20.0, batch=6)
    unlearn(original(), FORGET, RETAIN, method, objective, seed=0)
    answers: dict[int, set[int]] = {}
    for batch in seen.batches:
        forget, other = batch.view_examples["forget"], batch.view_examples["random"]
        assert torch.equal(batch.pixels[forget], batch.pixels[other])
        for truth, label in zip(batch.labels[forget].tolist(), batch.labels[other].tolist(), strict=True):
            answers.setdefault(truth, set()).add(label)
    assert answers == {truth: set(range(6)) - {truth} for truth in (0, 1)}


def test_the_reference_sees_other_augmentations_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch, compute=False)
    method, objective = setting("twins", repeat=1, batch=24, epochs=2.0)
    unlearn(original(), FORGET, RETAIN, method, objective, seed=0)
    first, second = seen.batches
    assert first.reference_pixels is not None and second.reference_pixels is not None
    one, two = first.reference_pixels["augmented"], second.reference_pixels["augmented"]
    assert one.shape == two.shape == (CUT, 3, 16, 16) and not torch.equal(one, two)
    assert not torch.equal(one, first.pixels[first.view_examples["augmented"]])
    numbers(first.pixels, first.labels)  # the student's are as they are


@pytest.mark.parametrize("view", ["SAFE", "GUIDE", "PRIVATE"])
def test_views_that_pictures_do_not_have_are_refused(view: str) -> None:
    method, _ = setting("npo")
    with pytest.raises(ConfigError, match=f"^{view}: .*a vision model has no such view; it has AUGMENTED, FORGET"):
        plan_of(parse_objective(f"nll(RETAIN) - nll({view})"), method, 8, 16)


def test_a_run_is_watched_to_its_end() -> None:
    read: list[tuple[float, dict[str, Tensor], bool]] = []

    def reading(done: float, model: VisionModel) -> None:
        read.append((done, copied(model), model.training))
        embeddings(model.eval() if done else model, DATA.pixels)  # whoever looks may leave it so

    method, objective = setting("npo", epochs=3.0, batch=6)
    model = original()
    watched = unlearn(model, FORGET, RETAIN, method, objective, seed=1, on_epoch=reading)
    assert [done for done, _, _ in read] == [0.0, 1.0, 2.0, 3.0]
    assert same(read[0][1], copied(model)) and same(read[-1][1], copied(watched))
    assert all(training for _, _, training in read)
    unseen = unlearn(model, FORGET, RETAIN, method, objective, seed=1)
    assert same(copied(unseen), copied(watched)), "watching changes nothing"


def test_a_run_of_two_epochs_ends_at_two() -> None:
    done: list[float] = []
    method, objective = setting("npo", epochs=2.0, batch=10)
    unlearn(original(), FORGET, RETAIN, method, objective, seed=1, on_epoch=lambda at, _: done.append(at))
    assert done[-1] == pytest.approx(2.0)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("name", ["gd", "scrub_bio", "rmu"])
def test_weights_that_are_no_numbers_are_said(name: str) -> None:
    with pytest.raises(UserError, match=r"no longer finite; lower the learning rate \(1e\+30\)"):
        forgotten(original(), name, lr=1e30, epochs=4.0)


@pytest.mark.parametrize(
    ("steps", "epochs", "expected"),
    [
        (28, 2.0, {14: 1.0, 28: 2.0}),
        (7, 2.5, {3: 1.0, 6: 2.0, 7: 2.5}),
        (1, 3.0, {1: 3.0}),
        (500, 500.0, {20 * k: 20.0 * k for k in range(1, 26)}),
    ],
)
def test_moments_at_which_a_run_is_read(steps: int, epochs: float, expected: dict[int, float]) -> None:
    assert marks(steps, epochs) == expected
