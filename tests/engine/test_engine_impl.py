"""Which implementation of the ops runs changes no loss and no gradient, and no statistic is swept twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_support import FORGET, MAX_LENGTH, RETAIN, stir
from torch import Tensor

from clear_dist.data.encode import encode
from clear_dist.data.packing import PixelCache, pack
from clear_dist.engine.step import StepModule, Totals, loss_of
from clear_dist.methods import FORGET as F
from clear_dist.methods import RETAIN as R
from clear_dist.methods import Objective, kl, match, misdirect, nll, npo, parse_objective
from clear_dist.models import Model, add_lora, freeze_tower, load_model
from clear_dist.ops.dispatch import VARIABLE
from clear_dist.ops.token_stats import head
from clear_dist.types import View

VIEWS = {"forget": FORGET, "retain": RETAIN}
OBJECTIVES: dict[str, Objective] = {
    "gd": nll(R) - nll(F),
    "kl": kl(R) - nll(F),
    "scrub": kl(R, direction="forward") - kl(F, direction="forward") + nll(R),
    "npo": npo(F, beta=0.5) + nll(R) + kl(R, direction="forward"),
    "rmu": misdirect(F, layer=1, scale=5.0) + match(R, layer=1),
    "undial": parse_objective("undial(FORGET) + nll(RETAIN)"),
    "ce_u": parse_objective("ce_u(FORGET) + satimp(FORGET) + entropy(RETAIN)"),
    "others": parse_objective("cosine(RETAIN) + l2(RETAIN) + bounded_nll(FORGET) - wga(FORGET)"),
    "everywhere": parse_objective("kl(RETAIN, tokens=sequence) + vocabulary_npo(FORGET, beta=0.5)"),
}


def step(model: Model, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, gradients of everything that is trained)."""
    encoded = {v: [encode(e, model.processor, MAX_LENGTH) for e in rows] for v, rows in VIEWS.items()}
    batch = pack(encoded, model.processor, row_length=128, pixels=PixelCache(model.processor), sequences=True)
    reference = None if hasattr(model.module, "disable_adapter") else model.module
    module = StepModule(model.module, model.family, reference).train()
    module.zero_grad()
    totals = {
        View(v): Totals(
            len(rows),
            len(batch.targets[batch.view_tokens[v]]),
            0 if batch.sequence_example is None else len(batch.sequence_example[batch.view_sequence[v]]),
        )
        for v, rows in VIEWS.items()
    }
    loss, _ = loss_of(objective, module(batch, objective.needs), batch, totals, 0.0)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("weights", ["lora", "full"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_implementations_are_interchangeable(
    base_dir: Path, name: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(base_dir, dtype="fp32", device="cpu")
    if weights == "lora":
        model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
        stir(model.module, 0.1)
    else:
        freeze_tower(model.family, model.module)
    found = {}
    for impl in ("reference", "native"):
        monkeypatch.setenv(VARIABLE, impl)
        found[impl] = step(model, OBJECTIVES[name])
    (loss, gradients), (other, others) = found["reference"], found["native"]
    assert float(other) == pytest.approx(float(loss), rel=1e-5, abs=1e-5)
    assert gradients.keys() == others.keys() and gradients
    scale = max(float(g.norm()) for g in gradients.values())
    for key, gradient in gradients.items():
        assert float((gradient - others[key]).norm()) <= 1e-4 * float(gradient.norm()) + 1e-5 * scale, key


def test_kl_and_nll_of_the_same_tokens_come_from_one_sweep(base: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    base.module = add_lora(base.module, 4, 8.0, base.family, seed=1)
    stir(base.module, 0.1)
    sweeps: list[int] = []
    plain = head.row_stats

    def counted(*arguments: Any) -> tuple[Tensor, Tensor]:
        sweeps.append(arguments[3])
        return plain(*arguments)

    monkeypatch.setattr(head, "row_stats", counted)
    step(base, nll(R) + kl(R, direction="forward") + kl(R) - nll(F))
    assert sorted(bin(want).count("1") for want in sweeps) == [1, 3]  # forget: logp; retain: logp and two KLs at once
