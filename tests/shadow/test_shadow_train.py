"""Training: seeded, every picture seen, learns; refuses to go on without a finite loss."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from vision_farm import identities

from clear_dist.errors import UserError
from clear_dist.models.resnet import ResNetSettings, VisionModel, initialised
from clear_dist.models.resnet_files import state_of
from clear_dist.shadow.order import batches, steps_of
from clear_dist.shadow.settings import Training
from clear_dist.shadow.train import train_classifier

DATA = identities()
SHORT = Training(3, 0.05, 32)


def network(seed: int = 0) -> VisionModel:
    return initialised(ResNetSettings(size="tiny", classes=len(DATA.names), head="am_softmax"), seed)


def trained(training: Training = SHORT, seed: int = 1, autocast: torch.dtype | None = torch.bfloat16) -> VisionModel:
    model = network()
    model.autocast = autocast
    train_classifier(model, DATA.pixels, DATA.labels, training, seed=seed)
    return model


def same(a: VisionModel, b: VisionModel) -> bool:
    return all(torch.equal(x, y) for x, y in zip(state_of(a).values(), state_of(b).values(), strict=True))


@pytest.mark.parametrize(("count", "size"), [(10, 4), (10, 10), (10, 3), (5, 8), (1, 1)])
def test_a_stream_of_permutations(count: int, size: int) -> None:
    order = batches(count, size, 12, seed=0)
    assert order.shape == (12, min(size, count))
    flat = order.flatten().tolist()
    for start in range(0, len(flat) - count + 1, count):
        assert sorted(flat[start : start + count]) == list(range(count)), "every pass shows each picture once"
    assert max(Counter(flat).values()) - min(Counter(flat).values()) <= 1
    assert torch.equal(order, batches(count, size, 12, seed=0))
    if count > 1:
        assert not torch.equal(order, batches(count, size, 12, seed=1))


def test_steps_of_an_epoch() -> None:
    assert steps_of(100, 10, 3) == 30
    assert steps_of(100, 1000, 3) == 3
    assert steps_of(100, 30, 0.01) == 1


def test_the_same_seed_gives_the_same_weights() -> None:
    first = trained()
    assert same(first, trained())
    assert not same(first, trained(seed=2))
    assert not same(first, trained(replace(SHORT, augment="shift")))
    assert not same(first, trained(autocast=None))
    assert not first.training


def test_augmentation_is_seeded_too() -> None:
    moved = replace(SHORT, augment="photo")
    assert same(trained(moved), trained(moved))


def test_it_learns() -> None:
    model = trained(Training(30, 0.05, 32))
    from clear_dist.data.augment_batch import normalise

    with torch.no_grad():
        right = model.logits(normalise(DATA.pixels)).argmax(1) == DATA.labels
    assert float(right.float().mean()) > 0.95


def test_every_step_is_reported_and_the_loss_is_that_of_the_end() -> None:
    seen: list[tuple[int, int]] = []
    model = network()
    out = train_classifier(model, DATA.pixels, DATA.labels, SHORT, seed=0, on_step=lambda *a: seen.append(a))
    assert seen == [(i + 1, out.steps) for i in range(out.steps)]
    longer = train_classifier(network(), DATA.pixels, DATA.labels, Training(30, 0.05, 32), seed=0)
    assert longer.loss < out.loss


def test_a_step_is_sgd_with_momentum_and_weight_decay() -> None:
    """Two steps on all pictures at once, against the update written out."""
    training = Training(2, 0.125, len(DATA.labels), weight_decay=0.01, momentum=0.5, schedule="constant", warmup=0.0)
    from clear_dist.data.augment_batch import normalise

    mine, ours = network(), network()
    mine.double()
    ours.double()
    train_classifier(ours, DATA.pixels, DATA.labels, training, seed=0)
    mine.train()
    order = batches(len(DATA.labels), len(DATA.labels), 2, 0)
    speed = [torch.zeros_like(p) for p in mine.parameters()]
    for i in range(2):
        x = normalise(DATA.pixels[order[i]])
        loss = mine.classification_loss(mine.embedding(x), DATA.labels[order[i]])
        gradients = torch.autograd.grad(loss, list(mine.parameters()))
        with torch.no_grad():
            for n, (p, g) in enumerate(zip(mine.parameters(), gradients, strict=True)):
                speed[n] = 0.5 * speed[n] + g + 0.01 * p if i else g + 0.01 * p
                p.sub_(0.125 * speed[n])
    for p, q in zip(mine.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_loss_that_is_no_number_is_said() -> None:
    with pytest.raises(UserError, match="lower the learning rate"):
        train_classifier(network(), DATA.pixels, DATA.labels, Training(3, 1e30, 32, warmup=0.0), seed=0)
