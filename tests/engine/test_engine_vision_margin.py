"""Objectives on an AM-softmax head equal their equations, with the margin in what is of a label and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from vision_support import CLASSES, RETAIN, batch_of, gradients, models, step_of

from clear_dist import methods as m
from clear_dist.engine.totals import Totals
from clear_dist.engine.vision import VisionBatch, VisionStep, vision_loss_of
from clear_dist.engine.vision_update import vision_backward
from clear_dist.errors import ConfigError
from clear_dist.methods import FORGET, IDK, RANDOM, Needs, Objective
from clear_dist.models.resnet import VisionModel, new_resnet
from clear_dist.types import View

R = m.RETAIN
SCALE, MARGIN = 4.0, 0.4
TOTALS = {View(v): Totals(s.stop - s.start, 0) for v, s in batch_of().view_examples.items()}


class Hand:
    """log p of pictures by the definition: s (cos - m [label]), picture by picture and class by class."""

    def __init__(self, step: VisionStep, batch: VisionBatch) -> None:
        assert step.reference is not None
        self.student, self.reference, self.batch = step.student, step.reference, batch

    def rows(self, model: VisionModel, view: View, margin: bool) -> Tensor:
        """[n, K] log-probabilities."""
        part = self.batch.view_examples[view]
        e, w = model.embedding(self.batch.pixels[part]), model.fc.weight
        rows = []
        for i, label in enumerate(self.batch.labels[part].tolist()):
            cosines = [(e[i] @ w[k]) / ((e[i] @ e[i]).sqrt() * (w[k] @ w[k]).sqrt()) for k in range(CLASSES)]
            z = torch.stack([SCALE * (c - MARGIN * (margin and k == label)) for k, c in enumerate(cosines)])
            rows.append(z - z.exp().sum().log())
        return torch.stack(rows)

    def logp(self, view: View, margin: bool = True) -> Tensor:
        y = self.batch.labels[self.batch.view_examples[view]]
        return self.rows(self.student, view, margin)[torch.arange(len(y)), y]

    @torch.no_grad()
    def logq(self, view: View, margin: bool = True) -> Tensor:
        y = self.batch.labels[self.batch.view_examples[view]]
        return self.rows(self.reference, view, margin)[torch.arange(len(y)), y]

    def ratio(self, view: View) -> Tensor:
        return self.logp(view) - self.logq(view)

    def plain(self, view: View) -> tuple[Tensor, Tensor]:
        """log p and log q of the whole distribution, without margin."""
        with torch.no_grad():
            q = self.rows(self.reference, view, False)
        return self.rows(self.student, view, False), q

    def kl(self, view: View) -> Tensor:
        p, q = self.plain(view)
        return (p.exp() * (p - q)).sum(-1).mean()

    def kl_forward(self, view: View) -> Tensor:
        p, q = self.plain(view)
        return (q.exp() * (q - p)).sum(-1).mean()

    def entropy(self, view: View) -> Tensor:
        p, _ = self.plain(view)
        return -(p.exp() * p).sum(-1).mean()

    def cosine(self, view: View) -> Tensor:
        pixels = self.batch.pixels[self.batch.view_examples[view]]
        e = self.student.embedding(pixels)
        with torch.no_grad():
            e_ref = self.reference.embedding(pixels)
        return ((e * e_ref).sum(-1) / (e.norm(dim=-1) * e_ref.norm(dim=-1))).mean()

    def l2(self, view: View) -> Tensor:
        pixels = self.batch.pixels[self.batch.view_examples[view]]
        with torch.no_grad():
            e_ref = self.reference.embedding(pixels)
        return ((self.student.embedding(pixels) - e_ref) ** 2).sum(-1).mean()

    def satimp(self, view: View, b1: float, b2: float) -> Tensor:
        p = self.logp(view).exp().detach()
        return (p**b1 * (1 - p) ** b2 * self.logp(view)).mean()


Equation = Callable[[Hand], Tensor]
CASES: dict[str, tuple[Objective, Equation]] = {
    "nll": (m.nll(R), lambda t: -t.logp(R).mean()),
    "npo": (m.npo(FORGET, beta=0.5), lambda t: (4.0 * torch.log(1 + (0.5 * t.ratio(FORGET)).exp())).mean()),
    "dpo": (
        m.dpo(RANDOM, FORGET, beta=0.5),
        lambda t: torch.log(1 + torch.exp(-0.5 * (t.ratio(RANDOM) - t.ratio(FORGET)))).mean(),
    ),
    "satimp": (m.satimp(FORGET, beta1=2.0, beta2=1.0), lambda t: t.satimp(FORGET, 2.0, 1.0)),
    "kl": (m.kl(R), lambda t: t.kl(R)),
    "entropy": (m.entropy(FORGET), lambda t: t.entropy(FORGET)),
    "uniform": (m.nll(IDK), lambda t: -t.plain(IDK)[0].mean()),
    "dpo to uniform": (
        m.dpo(IDK, FORGET, beta=0.5),
        lambda t: torch.log(
            1 + torch.exp(-0.5 * ((t.plain(IDK)[0] - t.plain(IDK)[1]).mean(-1) - t.ratio(FORGET)))
        ).mean(),
    ),
    "of a label and of all, in one view": (
        m.nll(R) + m.kl(R) - 0.5 * m.entropy(R),
        lambda t: -t.logp(R).mean() + t.kl(R) - 0.5 * t.entropy(R),
    ),
    "scrub": (
        m.kl(R, direction="forward") - m.kl(FORGET, direction="forward") + m.nll(R),
        lambda t: t.kl_forward(R) - t.kl_forward(FORGET) - t.logp(R).mean(),
    ),
    "embeddings as they are": (m.l2(R) - m.cosine(FORGET), lambda t: t.l2(R) - (1 - t.cosine(FORGET))),
}


@pytest.mark.parametrize("name", CASES)
def test_equation(name: str) -> None:
    objective, equation = CASES[name]
    step, batch = step_of(head="am_softmax"), batch_of()
    got = vision_loss_of(objective, step(batch, objective.needs), batch, TOTALS, 0.0)[0]
    want = equation(Hand(step, batch))
    assert got.dtype == torch.float64
    assert float(got.detach()) == pytest.approx(float(want.detach()), rel=1e-10)
    for mine, theirs in zip(gradients(got, step.student), gradients(want, step.student), strict=True):
        if mine is None or theirs is None:
            assert mine is theirs
            continue
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


def test_every_statistic_of_a_label() -> None:
    """Those that few objectives ask for: 1 - p, 1 - q and what the reference says beside the label."""
    step, batch = step_of(head="am_softmax"), batch_of()
    hand, y = Hand(step, batch), batch.labels[3:7]
    with torch.no_grad():
        logp, logq = hand.logp(R), hand.logq(R)
        p, q = hand.rows(hand.student, R, True), hand.rows(hand.reference, R, True).exp()
    rest = torch.ones(RETAIN, CLASSES, dtype=torch.bool).scatter_(1, y[:, None], False)
    cross = -(q / (1 - q[torch.arange(RETAIN), y])[:, None] * p).where(rest, torch.zeros(())).sum(-1)
    expected = {
        "logp": logp,
        "log1mp": torch.log1p(-logp.exp()),
        "logp_ref": logq,
        "log1mp_ref": torch.log1p(-logq.exp()),
        "log_ratio": logp - logq,
        "cross_rest": cross,
        # Whom the model names has no margin in it.
        "top1": (hand.rows(hand.student, R, False).argmax(-1) == y).double(),
    }
    found = step(batch, Needs((R,), {R: frozenset(expected)}, frozenset({R})))[R]
    for name, value in expected.items():
        torch.testing.assert_close(found[name].detach(), value.detach(), rtol=1e-9, atol=1e-12, msg=name)


def test_retain_is_learned_by_the_loss_the_original_is_trained_by() -> None:
    step, batch = step_of(head="am_softmax"), batch_of()
    loss, _ = vision_backward(step, m.nll(R), batch)
    student = step.student
    assert student.label_margin == pytest.approx(SCALE * MARGIN)
    expected = student.classification_loss(student.embedding(batch.pixels[3:7]), batch.labels[3:7])
    torch.testing.assert_close(loss, expected.detach())
    for p, g in zip(student.parameters(), gradients(expected, student), strict=True):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("head", ["softmax", "am_softmax"])
def test_under_autocast_the_head_is_fp32(head: str) -> None:
    """The student's embedding is in bf16 then; what follows is as exact as from the same embedding in fp32."""
    step, batch = step_of(torch.float32, head), batch_of()  # pyright: ignore[reportArgumentType]
    with torch.autocast("cpu", torch.bfloat16):
        objective = m.nll(R) + m.kl(R)
        values = step(batch, objective.needs)[R]
        e, e_ref = (model.embedding(batch.pixels[3:7]).detach().float() for model in models_of(step))
    logits, logits_ref = (model.logits_of(x) for model, x in zip(models_of(step), (e, e_ref), strict=True))
    expected = -torch.stack(
        [step.student.classification_loss(e[i : i + 1], batch.labels[3 + i : 4 + i]) for i in range(RETAIN)]
    )
    p, q = logits.log_softmax(-1), logits_ref.log_softmax(-1)
    assert values["logp"].dtype == values["kl_reverse"].dtype == torch.float32
    torch.testing.assert_close(values["logp"], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(values["kl_reverse"], (p.exp() * (p - q)).sum(-1), rtol=1e-4, atol=1e-6)


def models_of(step: VisionStep) -> tuple[VisionModel, VisionModel]:
    assert step.reference is not None
    return step.student, step.reference


def test_terms_that_would_mix_two_distributions_are_refused() -> None:
    objective = m.ce_u(FORGET, skip=0)
    with pytest.raises(ConfigError, match=r"^FORGET: entropy is without the margin"):
        step_of(head="am_softmax")(batch_of(), objective.needs)
    step_of()(batch_of(), objective.needs)  # a softmax head has one


def test_a_reference_of_another_head_is_refused() -> None:
    student, _ = models()
    with pytest.raises(ConfigError, match="another network than the student"):
        VisionStep(student, new_resnet(CLASSES, "tiny", head="am_softmax").double())
