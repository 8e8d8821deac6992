"""Objectives on a vision classifier equal their equations, written out on its logits, embeddings and feature maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vision_support import CLASSES, RETAIN, SIDE, STAGE, batch_of, gradients, step_of

from clear_dist import methods as m
from clear_dist.engine.totals import Totals
from clear_dist.engine.vision import VisionBatch, VisionStep, vision_loss_of
from clear_dist.errors import ConfigError
from clear_dist.methods import AUGMENTED, FORGET, IDK, PRIVATE, RANDOM, Objective, build
from clear_dist.models.resnet import VisionModel, freeze_batchnorm, new_resnet
from clear_dist.types import Hidden, View

R = m.RETAIN
TOTALS = {View(v): Totals(s.stop - s.start, 0) for v, s in batch_of().view_examples.items()}


def loss_of(step: VisionStep, objective: Objective, batch: VisionBatch) -> Tensor:
    return vision_loss_of(objective, step(batch, objective.needs), batch, TOTALS, 0.0)[0]


class Hand:
    """Every quantity straight from pictures: student (p, f, h) and reference (q, f_o, h_o)."""

    def __init__(self, step: VisionStep, batch: VisionBatch) -> None:
        assert step.reference is not None
        self.student, self.reference, self.batch = step.student, step.reference, batch

    def x(self, view: View) -> Tensor:
        return self.batch.pixels[self.batch.view_examples[view]]

    def y(self, view: View) -> Tensor:
        return self.batch.labels[self.batch.view_examples[view]]

    def p(self, view: View) -> Tensor:
        return torch.softmax(self.student.logits(self.x(view)), -1)

    @torch.no_grad()
    def q(self, view: View) -> Tensor:
        return torch.softmax(self.reference.logits(self.x(view)), -1)

    def logp(self, view: View) -> Tensor:
        return self.p(view)[torch.arange(len(self.y(view))), self.y(view)].log()

    def logq(self, view: View) -> Tensor:
        return self.q(view)[torch.arange(len(self.y(view))), self.y(view)].log()

    def nll(self, view: View) -> Tensor:
        return -self.logp(view).mean()

    def cross_entropy_to_uniform(self) -> Tensor:
        return -(self.p(IDK).log() / CLASSES).sum(-1).mean()

    def kl(self, view: View, direction: str) -> Tensor:
        p, q = self.p(view), self.q(view)
        a, b = (p, q) if direction == "reverse" else (q, p)
        return (a * (a / b).log()).sum(-1).mean()

    def entropy(self, view: View) -> Tensor:
        return -(self.p(view) * self.p(view).log()).sum(-1).mean()

    def dpo(self, win: Tensor, lose: Tensor, beta: float) -> Tensor:
        return -torch.log(1 / (1 + torch.exp(-beta * (win - lose)))).mean()

    def embeddings(self, view: View) -> tuple[Tensor, Tensor]:
        instead = (self.batch.reference_pixels or {}).get(view, self.x(view))
        with torch.no_grad():
            reference = self.reference.embedding(instead)
        return self.student.embedding(self.x(view)), reference

    def cos(self, view: View) -> Tensor:
        a, b = self.embeddings(view)
        return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))

    def l2(self, view: View) -> Tensor:
        a, b = self.embeddings(view)
        return ((a - b) ** 2).sum(-1).mean()

    def misdirect(self, view: View, c: float) -> Tensor:
        h = self.student.stage(self.x(view), STAGE)  # [n, C, H, W]
        u = torch.rand(h.shape[1], generator=torch.Generator().manual_seed(0))
        target = (c * (u / u.norm())).double()[None, :, None, None]  # fp32, as it is handed out
        return ((h - target) ** 2).sum(1).mean((1, 2)).mean()

    def match(self, view: View) -> Tensor:
        with torch.no_grad():
            target = self.reference.stage(self.x(view), STAGE)
        return ((self.student.stage(self.x(view), STAGE) - target) ** 2).sum(1).mean((1, 2)).mean()


Equation = Callable[[Hand], Tensor]
CASES: dict[str, tuple[Objective, Equation]] = {
    "retain_ft": (build("retain_ft"), lambda t: t.nll(R)),
    "ga": (build("ga"), lambda t: -t.nll(FORGET)),
    "ga_entropy": (-m.entropy(FORGET), lambda t: -t.entropy(FORGET)),
    "gd": (m.nll(R) - m.nll(FORGET), lambda t: t.nll(R) - t.nll(FORGET)),
    "kl": (m.kl(R) - m.nll(FORGET), lambda t: t.kl(R, "reverse") - t.nll(FORGET)),
    "idk": (m.nll(R) + m.nll(IDK), lambda t: t.nll(R) + t.cross_entropy_to_uniform()),
    "dpo to uniform": (
        m.dpo(IDK, FORGET, beta=0.5),
        lambda t: t.dpo(t.p(IDK).log().mean(-1) - t.q(IDK).log().mean(-1), t.logp(FORGET) - t.logq(FORGET), 0.5),
    ),
    "dpo to another": (
        m.nll(RANDOM) + m.dpo(RANDOM, FORGET, beta=0.5),
        lambda t: t.nll(RANDOM) + t.dpo(t.logp(RANDOM) - t.logq(RANDOM), t.logp(FORGET) - t.logq(FORGET), 0.5),
    ),
    "npo": (
        m.npo(FORGET, beta=0.5),
        lambda t: (2 / 0.5 * torch.log(1 + (t.logp(FORGET) - t.logq(FORGET)).exp() ** 0.5)).mean(),
    ),
    "scrub": (
        build("scrub"),
        lambda t: t.kl(R, "forward") - t.kl(FORGET, "forward") + t.nll(R),
    ),
    "llmu": (
        m.nll(RANDOM) - m.nll(FORGET) + m.kl(R),
        lambda t: t.nll(RANDOM) - t.nll(FORGET) + t.kl(R, "reverse"),
    ),
    "rmu": (
        m.misdirect(FORGET, layer=STAGE, scale=3.0) + 0.5 * m.match(R, layer=STAGE),
        lambda t: t.misdirect(FORGET, 3.0) + 0.5 * t.match(R),
    ),
    "rmu, averaged": (
        m.misdirect(FORGET, layer=STAGE, scale=3.0, average=True),
        lambda t: t.misdirect(FORGET, 3.0) / 64,
    ),
    "rmu beside nll": (
        m.misdirect(FORGET, layer=STAGE, scale=3.0) + m.nll(FORGET),
        lambda t: t.misdirect(FORGET, 3.0) + t.nll(FORGET),
    ),
    "twins": (m.l2(AUGMENTED) + m.l2(R), lambda t: t.l2(AUGMENTED) + t.l2(R)),
    "scrub_bio": (m.cosine(R) - m.cosine(FORGET), lambda t: t.cos(FORGET).mean() - t.cos(R).mean()),
    "whole sequence": (m.kl(R, tokens="sequence"), lambda t: t.kl(R, "reverse")),
    "satimp": (
        m.satimp(FORGET, beta1=2.0, beta2=1.0),
        lambda t: (t.logp(FORGET).exp().detach() ** 2 * (1 - t.logp(FORGET).exp().detach()) * t.logp(FORGET)).mean(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equation(name: str) -> None:
    objective, equation = CASES[name]
    step, batch = step_of(), batch_of()
    got, want = loss_of(step, objective, batch), equation(Hand(step, batch))
    assert got.dtype == torch.float64
    assert float(want.detach()) != 0
    assert float(got.detach()) == pytest.approx(float(want.detach()), rel=1e-10)
    for mine, theirs in zip(gradients(got, step.student), gradients(want, step.student), strict=True):
        if mine is None or theirs is None:
            assert mine is theirs
            continue
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_are_fp32(dtype: torch.dtype) -> None:
    step, batch = step_of(dtype), batch_of()
    objective = m.npo(FORGET) + m.nll(IDK) + m.l2(R) + m.match(R, layer=STAGE)
    values, exact = step(batch, objective.needs), step_of()(batch, objective.needs)
    for view, found in values.items():
        for want, value in found.items():
            assert value.dtype == torch.float32, want
            tolerance = 1e-4 if dtype == torch.float32 else 0.15
            assert torch.allclose(value.double(), exact[view][want], rtol=tolerance, atol=tolerance), want


def test_an_objective_of_states_stops_early() -> None:
    """Nothing above the stage runs, in the student and in the reference, and the values are those of a full pass."""
    step, batch = step_of(), batch_of()
    ran: list[str] = []
    assert step.reference is not None
    for who, model in (("student", step.student), ("reference", step.reference)):
        for index, stage in enumerate(model.stages):
            stage.register_forward_hook(lambda *_, name=f"{who} {index}": ran.append(name))
    objective = m.misdirect(FORGET, layer=1, scale=2.0) + m.match(R, layer=1)
    assert objective.needs.depth == 2
    early = step(batch, objective.needs)
    assert sorted(ran) == ["reference 0", "reference 1", "student 0", "student 1"]
    full = step(batch, replace(objective.needs, depth=None))
    for view in (FORGET, R):
        assert early[view].keys() == full[view].keys()
        assert all(torch.equal(early[view][w], full[view][w]) for w in early[view])
    reached = gradients(loss_of(step, objective, batch), step.student)
    for (name, _), gradient in zip(step.student.named_parameters(), reached, strict=True):
        assert (gradient is None) == any(part in name for part in ("layer3", "layer4", "fc")), name


def test_states_of_every_position() -> None:
    step, batch = step_of(), batch_of()
    want = Hidden(0, "reference")
    needs = m.match(R, layer=0).needs
    values = step(batch, needs)[R][want]
    assert values.shape == (RETAIN * (SIDE // 4) ** 2,)
    hand = Hand(step, batch)
    difference = step.student.stage(hand.x(R), 0) - hand.reference.stage(hand.x(R), 0)
    assert torch.allclose(values.view(RETAIN, SIDE // 4, SIDE // 4), (difference**2).sum(1))


def test_redrawn_target_depends_on_the_batch_and_can_be_repeated() -> None:
    step, batch = step_of(), batch_of()
    needs = m.misdirect(FORGET, layer=STAGE, control="redrawn").needs
    (want,) = needs.wants[FORGET]
    first, again = step(batch, needs)[FORGET][want], step(batch, needs)[FORGET][want]
    assert torch.equal(first, again)
    renamed = replace(batch, example_ids=[f"other/{i}" for i in range(10)])
    assert not torch.allclose(first, step(renamed, needs)[FORGET][want])


def test_views_on_the_same_pictures_run_once() -> None:
    step, batch = step_of(), batch_of()
    seen: list[int] = []
    step.student.conv1.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    step(batch, (m.nll(FORGET) + m.nll(IDK) + m.l2(AUGMENTED) + m.nll(RANDOM)).needs)
    step(batch, m.nll(R).needs)
    assert seen == [6, 4]


def test_the_reference_is_only_asked_where_it_is_needed_and_never_trains() -> None:
    step, batch = step_of().train(), batch_of()
    assert step.reference is not None and not step.reference.training and step.student.training
    assert not any(p.requires_grad for p in step.reference.parameters())
    seen: list[int] = []
    step.reference.conv1.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    before = {n: b.clone() for n, b in step.reference.named_buffers()}
    step(batch, (m.nll(FORGET) + m.kl(R)).needs)
    assert seen == [RETAIN]
    assert all(torch.equal(b, before[n]) for n, b in step.reference.named_buffers())


def test_a_student_equal_to_its_reference() -> None:
    model = new_resnet(CLASSES, "tiny").double()
    step, batch = VisionStep(model, new_resnet(CLASSES, "tiny").double()).eval(), batch_of()
    with torch.no_grad():
        values = step(batch, (m.kl(R) + m.l2(R) + m.cosine(R) + m.match(R, layer=STAGE) + m.npo(FORGET)).needs)
    nothing = {w: values[R][w] for w in ("kl_reverse", "l2", Hidden(STAGE, "reference"))}
    assert all(float(value.abs().max()) < 1e-12 for value in nothing.values())
    assert torch.allclose(values[R]["cosine"], torch.ones(RETAIN, dtype=torch.float64))
    assert float(values[FORGET]["log_ratio"].abs().max()) < 1e-12


def part_of(batch: VisionBatch, forget: slice, retain: slice) -> VisionBatch:
    rows = [*range(10)[forget], *range(3, 7)[retain]]
    n = len(range(10)[forget])
    return VisionBatch(
        batch.pixels[rows],
        batch.labels[rows],
        {"forget": slice(0, n), "idk": slice(0, n), "retain": slice(n, len(rows))},
        [batch.example_ids[i] for i in rows],
    )


@pytest.mark.parametrize("train_mode", [False, True])
def test_shares_add_up_to_the_whole(train_mode: bool) -> None:
    """However a batch is cut, one part without retain pictures; in train mode with frozen normalisation."""
    step, batch = step_of(), batch_of()
    freeze_batchnorm(step.student)
    step.train(train_mode)
    objective = m.nll(IDK) + m.misdirect(FORGET, layer=STAGE) + m.kl(R, reduction="token") + m.match(R, layer=STAGE)
    objective = objective + m.kl(FORGET) + m.npo(R)
    whole = loss_of(step, objective, batch)
    parts = [part_of(batch, slice(0, 2), slice(0, 0)), part_of(batch, slice(2, 3), slice(0, 4))]
    total = sum((loss_of(step, objective, part) for part in parts), torch.zeros((), dtype=torch.float64))
    assert float(total.detach()) == pytest.approx(float(whole.detach()), rel=1e-10)
    for a, b in zip(gradients(total, step.student), gradients(whole, step.student), strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_moving_a_batch() -> None:
    moved = batch_of().to("meta")
    assert moved.reference_pixels is not None
    assert {moved.pixels.device.type, moved.labels.device.type} == {"meta"}
    assert moved.reference_pixels["augmented"].device.type == "meta"
    assert replace(batch_of(), reference_pixels=None).to("cpu").reference_pixels is None


def without_reference() -> VisionStep:
    return VisionStep(new_resnet(CLASSES, "tiny"))


@pytest.mark.parametrize(
    ("objective", "step", "message"),
    [
        (m.kl(R) - m.nll(FORGET), without_reference, "^RETAIN: the objective compares with the original"),
        (m.nll(PRIVATE), step_of, "^PRIVATE: .*no such view"),
        (m.misdirect(FORGET, layer=7), step_of, "layer: 7 is not there; the model has 4 stages"),
        (m.misdirect(FORGET, layer=1) + m.match(FORGET, layer=2), step_of, "^FORGET: one stage at a time"),
        (m.match(R, layer=1) + m.kl(R, tokens="sequence"), step_of, "^RETAIN: .*no term over whole sequences"),
        (m.satimp(IDK), step_of, "^IDK: log1mp need an identity"),
    ],
)
def test_what_cannot_be_had(objective: Objective, step: Callable[[], VisionStep], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        step()(batch_of(), objective.needs)


def test_a_student_without_a_reference() -> None:
    model: VisionModel = new_resnet(CLASSES, "tiny")
    found = VisionStep(model)(batch_of(), m.nll(FORGET).needs)[FORGET]["logp"]
    expected = model.logits(batch_of().pixels[:3]).log_softmax(-1)[torch.arange(3), torch.tensor([0, 1, 0])]
    torch.testing.assert_close(found, expected)
