"""Heads of the vision model: AM-softmax by its definition, really normalised; one product for every loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode

from clear_dist.models.resnet import VisionModel, new_resnet

CLASSES = 7
LABELS = torch.tensor([0, 3, 6, 3])


def head_of(kind: str, **settings: Any) -> tuple[VisionModel, Tensor]:
    """A model in float64, and embeddings [4, D] to be classified."""
    model = new_resnet(CLASSES, "tiny", head=kind, **settings).double()  # pyright: ignore[reportArgumentType]
    embedding = torch.randn(4, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model, embedding.requires_grad_(True)


def by_definition(model: VisionModel, embedding: Tensor, s: float, m: float) -> float:
    """L = -1/N sum log( e^{s (cos_y - m)} / (e^{s (cos_y - m)} + sum_{k != y} e^{s cos_k}) ), arXiv 1801.05599 (5)."""
    rows, weight = embedding.detach().tolist(), model.fc.weight.detach().tolist()
    total = 0.0
    for e, y in zip(rows, LABELS.tolist(), strict=True):
        cosines = [sum(a * b for a, b in zip(e, w, strict=True)) / (math.hypot(*e) * math.hypot(*w)) for w in weight]
        label = math.exp(s * (cosines[y] - m))
        total -= math.log(label / (label + sum(math.exp(s * c) for k, c in enumerate(cosines) if k != y)))
    return total / len(rows)


@pytest.mark.parametrize(("scale", "margin"), [(30.0, 0.4), (4.0, 0.0), (10.0, 0.35)])
def test_am_softmax_is_its_definition(scale: float, margin: float) -> None:
    model, embedding = head_of("am_softmax", scale=scale, margin=margin)
    loss = model.classification_loss(embedding, LABELS)
    assert float(loss.detach()) == pytest.approx(by_definition(model, embedding, scale, margin), rel=1e-12)


def test_the_margin_is_training_s_alone() -> None:
    model, embedding = head_of("am_softmax")
    cosines = F.cosine_similarity(embedding[:, None], model.fc.weight[None], dim=-1)
    torch.testing.assert_close(model.logits_of(embedding), 30 * cosines)
    loss = model.classification_loss(embedding, LABELS)
    assert bool(loss > F.cross_entropy(model.logits_of(embedding), LABELS))


def test_am_softmax_gradients() -> None:
    """Finite differences, of embeddings and of the head."""
    model, embedding = head_of("am_softmax", scale=5.0)

    def loss(e: Tensor, w: Tensor) -> Tensor:
        return torch.func.functional_call(model, {"fc.weight": w}, (e,), strict=False)

    model.forward = lambda e: model.classification_loss(e, LABELS)  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.autograd.gradcheck(loss, (embedding, model.fc.weight), fast_mode=True)


def test_lengths_say_nothing() -> None:
    """Neither of embeddings nor of rows: logits and loss stay, and gradients are across, not along."""
    model, embedding = head_of("am_softmax")
    logits, loss = model.logits_of(embedding), model.classification_loss(embedding, LABELS)
    g_embedding, g_weight = torch.autograd.grad(loss, (embedding, model.fc.weight))
    for gradient, of in ((g_embedding, embedding), (g_weight, model.fc.weight)):
        assert float(gradient.norm()) > 0
        assert float((gradient * of.detach()).sum(-1).abs().max()) < 1e-12
    with torch.no_grad():
        model.fc.weight.mul_(torch.linspace(0.1, 20, CLASSES, dtype=torch.float64)[:, None])
        longer = embedding * torch.tensor([0.01, 1.0, 3.0, 100.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(model.logits_of(longer), logits)
    torch.testing.assert_close(model.classification_loss(longer, LABELS), loss)


def test_softmax_is_linear() -> None:
    model, embedding = head_of("softmax")
    logits = F.linear(embedding, model.fc.weight, model.fc.bias)
    assert model.label_margin == 0
    torch.testing.assert_close(model.logits_of(embedding), logits)
    torch.testing.assert_close(model.classification_loss(embedding, LABELS), F.cross_entropy(logits, LABELS))


@pytest.mark.parametrize(("kind", "columns"), [("softmax", (65, 65)), ("am_softmax", (64, 64 + CLASSES))])
def test_head_inputs_are_the_logits(kind: str, columns: tuple[int, int]) -> None:
    model, embedding = head_of(kind)
    for labels, width in zip((None, LABELS), columns, strict=True):
        h, weight = model.head_inputs(embedding, labels)
        assert h.shape == (4, width) and weight.shape == (CLASSES, width)
        logits = model.logits_of(embedding)
        if labels is not None and kind == "am_softmax":
            logits = logits - 30 * 0.4 * F.one_hot(LABELS, CLASSES)
        torch.testing.assert_close(h @ weight.t(), logits)


@pytest.mark.parametrize("kind", ["softmax", "am_softmax"])
def test_the_head_is_at_least_fp32(kind: str) -> None:
    model, embedding = head_of(kind)
    exact = model.classification_loss(embedding, LABELS)
    model.bfloat16()
    loss = model.classification_loss(embedding.bfloat16(), LABELS)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=0.05)


def test_a_dead_embedding_has_a_finite_loss() -> None:
    """All features behind a ReLU may be 0: every cosine is 0 then, and nothing is NaN."""
    model, _ = head_of("am_softmax")
    dead = torch.zeros(4, 64, dtype=torch.float64, requires_grad=True)
    loss = model.classification_loss(dead, LABELS)
    expected = -math.log(math.exp(-12) / (math.exp(-12) + CLASSES - 1))
    assert float(loss.detach()) == pytest.approx(expected)
    gradients = torch.autograd.grad(loss, (dead, model.fc.weight))
    assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("kind", ["softmax", "am_softmax"])
def test_nothing_in_the_loss_depends_on_values(kind: str) -> None:
    """A CUDA graph can hold it: on tensors without values, looking at one (item, a boolean index) raises."""
    model = new_resnet(CLASSES, "tiny", head=kind).train()  # pyright: ignore[reportArgumentType]
    with FakeTensorMode(allow_non_fake_inputs=True):
        loss = model.classification_loss(model.embedding(torch.zeros(4, 3, 32, 32)), torch.zeros(4, dtype=torch.int64))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert loss.shape == () and all(g.shape == p.shape for g, p in zip(gradients, model.parameters(), strict=True))
