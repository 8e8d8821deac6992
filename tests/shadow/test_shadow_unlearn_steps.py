"""Unlearning's steps against equations written out here: where a method stands still, and what one step of it is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from unlearn_world import CUT, DATA, FORGET, RETAIN, copied, original, setting, watch

from clear_dist.data.augment_batch import normalise
from clear_dist.models.resnet import VisionModel
from clear_dist.models.resnet_settings import Head
from clear_dist.shadow.presets import VISION_METHODS
from clear_dist.shadow.unlearn import unlearn

WHOLE = {"epochs": 1.0, "batch": len(DATA.labels), "repeat": 1}  # all pictures in one step
F64 = torch.float64


def first_gradient(monkeypatch: pytest.MonkeyPatch, name: str, **changes: object) -> float:
    """The largest component of the first step's gradient, in float64."""
    seen = watch(monkeypatch)
    method, objective = setting(name, **(WHOLE | changes))
    unlearn(original(dtype=F64), FORGET, RETAIN, method, objective, seed=0)
    return max(float(g.abs().max()) for g in seen.gradients[0].values())


def test_a_method_that_compares_embeddings_starts_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """cos(e, e_o) is at its top where e = e_o: without a push, scrub_bio on frozen statistics would never leave."""
    still = first_gradient(monkeypatch, "scrub_bio", batchnorm="frozen")
    pushed = first_gradient(monkeypatch, "scrub_bio", batchnorm="frozen", perturb=0.05)
    by_the_batch = first_gradient(monkeypatch, "scrub_bio", batchnorm="train")
    assert still < 1e-12 and pushed > 1e-4 and by_the_batch > 1e-4


def test_scrub_starts_with_its_retain_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both divergences are 0 and at rest where p = q."""
    seen = watch(monkeypatch)
    for name in ("scrub", "retain_ft", "scrub"):
        push = 0.0 if len(seen.gradients) < 2 else 0.05
        method, objective = setting(name, **WHOLE, batchnorm="frozen", perturb=push)
        unlearn(original(dtype=F64), FORGET, RETAIN, method, objective, seed=0)
    scrub, retain, pushed = seen.gradients
    scale = max(float(g.abs().max()) for g in retain.values())
    assert scale > 1e-4
    assert all(float((scrub[n] - retain[n]).abs().max()) < 1e-10 * scale for n in retain)
    assert any(float((pushed[n] - retain[n]).abs().max()) > 1e-2 * scale for n in retain)


def test_the_push_is_a_share_of_each_matrix() -> None:
    model = original()
    start: list[dict[str, Tensor]] = []
    for seed in (0, 0, 1):
        method, objective = setting("scrub_bio", perturb=0.05)
        unlearn(
            model,
            FORGET,
            RETAIN,
            method,
            objective,
            seed=seed,
            on_epoch=lambda done, student: None if done else start.append(copied(student)),
        )
    before = copied(model)
    for name, weight in before.items():
        push = start[0][name].double() - weight.double()
        if weight.ndim > 1:
            share = float(push.std() / weight.double().std())
            assert share == pytest.approx(0.05, rel=5 / weight.numel() ** 0.5), name
            assert torch.equal(start[0][name], start[1][name]) and not torch.equal(start[0][name], start[2][name])
        else:
            assert not push.any(), "scales, shifts and statistics stay"


def logits(model: VisionModel, pixels: Tensor, labels: Tensor | None, head: Head) -> Tensor:
    """[n, K], under the margin where labels are given."""
    e, w = model.embedding(pixels), model.fc.weight
    if head == "softmax":
        return e @ w.t() + model.fc.bias
    cosine = (e / e.square().sum(1, keepdim=True).sqrt()) @ (w / w.square().sum(1, keepdim=True).sqrt()).t()
    if labels is not None:
        cosine = cosine - 0.4 * torch.eye(len(w), dtype=F64)[labels]
    return 30.0 * cosine


def logp(model: VisionModel, pixels: Tensor, labels: Tensor, head: Head) -> Tensor:
    """[n] log p(label)."""
    z = logits(model, pixels, labels, head)
    return z[torch.arange(len(z)), labels] - torch.logsumexp(z, 1)


def written_out(
    name: str, head: Head, student: VisionModel, reference: VisionModel, augmented: tuple[Tensor, Tensor] | None
) -> Tensor:
    """The losses of gd, npo (beta 1) and twins on all pictures; augmented: what student and reference see."""
    forget, retain = normalise(DATA.pixels[:CUT]).to(F64), normalise(DATA.pixels[CUT:]).to(F64)
    theirs, ours = DATA.labels[:CUT], DATA.labels[CUT:]
    if name == "gd":
        return logp(student, forget, theirs, head).mean() - logp(student, retain, ours, head).mean()
    if name == "npo":
        ratio = (logp(student, forget, theirs, head) - logp(reference, forget, theirs, head)).exp()
        return 2 * (1 + ratio).log().mean() - logp(student, retain, ours, head).mean()
    assert name == "twins" and augmented is not None
    seen, instead = augmented
    far = (student.embedding(seen) - reference.embedding(instead)).square().sum(1).mean()
    return far + (student.embedding(retain) - reference.embedding(retain)).square().sum(1).mean()


@pytest.mark.parametrize("name", VISION_METHODS)
def test_each_weight_moves_by_its_own_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights lie as in the farm, channels last: penalties and rules must not leave gradients that lie otherwise."""
    one_step(name, torch.channels_last, monkeypatch)


def test_a_model_may_be_laid_out_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    one_step("gd", torch.contiguous_format, monkeypatch)


def one_step(name: str, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    lr, decay = 0.125, 0.01
    method, objective = setting(name, **WHOLE, lr=lr, weight_decay=decay)
    start: list[dict[str, Tensor]] = []
    model = original(dtype=F64).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    found = unlearn(
        model,
        FORGET,
        RETAIN,
        method,
        objective,
        seed=5,
        on_epoch=lambda done, student: None if done else start.append(copied(student)),
    )
    assert len(seen.gradients) == 1 and len(seen.gradients[0]) > 20
    after = copied(found)
    for key, g in seen.gradients[0].items():
        torch.testing.assert_close(after[key], start[0][key] - lr * (g + decay * start[0][key]), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("head", ["am_softmax", "softmax"])
@pytest.mark.parametrize("name", ["gd", "npo", "twins"])
def test_a_step_is_sgd_on_the_equation(name: str, head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """w <- w - lr (gradient + decay w), from a student that was pushed away from the original."""
    seen = watch(monkeypatch)
    lr, decay = 0.125, 0.01
    method, objective = setting(name, **WHOLE, batchnorm="frozen", perturb=0.05, lr=lr, weight_decay=decay)
    reference = original(head, dtype=F64).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    start: list[VisionModel] = []
    found = unlearn(
        reference,
        FORGET,
        RETAIN,
        method,
        objective,
        seed=5,
        on_epoch=lambda done, student: None if done else start.append(copy.deepcopy(student).eval()),
    )
    assert len(seen.batches) == 1
    batch, student = seen.batches[0], start[0]
    augmented = None
    if name == "twins":
        assert batch.reference_pixels is not None
        augmented = (
            batch.pixels[batch.view_examples["augmented"]].to(F64),
            batch.reference_pixels["augmented"].to(F64),
        )
    loss = written_out(name, head, student, reference, augmented)
    weights = dict(student.named_parameters())
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    after = dict(found.named_parameters())
    for (key, p), g in zip(weights.items(), gradients, strict=True):
        if g is None:  # the head, which embeddings do not pass
            assert key.startswith("fc.") and name == "twins" and torch.equal(after[key], p)
            continue
        assert float(g.abs().max()) > 1e-9
        torch.testing.assert_close(after[key], p - lr * (g + decay * p), rtol=1e-8, atol=1e-11)
