"""What is measured during training: word-for-word answers against the model's own greedy choice, and kinds apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_support import FORGET, MAX_LENGTH, RETAIN, metrics, run
from torch import Tensor

from clear_dist.data.packing import PixelCache
from clear_dist.engine.loop import Trained
from clear_dist.engine.monitor import PER_BATCH, Monitor
from clear_dist.engine.step import StepModule
from clear_dist.engine.world import World
from clear_dist.methods import nll
from clear_dist.models import Model
from clear_dist.types import Batch, Example, View


class Knows:
    """An engine by hand: every answer token has log-probability ``logp``; of the examples of ``missed`` the last token
    is not the likeliest."""

    def __init__(self, logp: float, missed: set[str]) -> None:
        self.logp, self.missed, self.training, self.passes = logp, missed, True, 0

    def train(self) -> None:
        self.training = True

    def eval(self) -> None:
        self.training = False

    def __call__(self, batch: Batch, needs: Any) -> Mapping[View, dict[str, Tensor]]:
        assert not self.training
        self.passes += 1
        owner = batch.token_example
        last = torch.ones(len(owner), dtype=torch.bool)
        last[:-1] = owner[1:] != owner[:-1]
        missed = torch.tensor([batch.example_ids[i] in self.missed for i in owner.tolist()], dtype=torch.bool)
        return {View.RETAIN: {"logp": torch.full((len(owner),), self.logp), "top1": 1.0 - (last & missed).float()}}


def test_one_wrong_token_is_a_wrong_answer_and_kinds_are_apart(base: Model, world: World) -> None:
    sets = {"forget": FORGET, "retain": RETAIN}
    monitor = Monitor(sets, base.processor, 96, MAX_LENGTH, world)
    missed = {"forget/0/name", "forget/1/name", "forget/0/qa", "retain/3/caption"}
    engine = Knows(-0.5, missed)
    figures = monitor.measure(engine, 0)
    assert engine.training, "left in training mode"
    p = pytest.approx(0.60653066, rel=1e-6)  # exp(-0.5), whatever the answer's length
    # Of 8 forget examples (4 a person) 3 are missed; of 16 retain examples 1, neither a name nor a fact.
    assert figures == {
        "probability/forget": p,
        "exact/forget": 5 / 8,
        "name/forget": 0.0,
        "fact/forget": 0.5,
        "probability/retain": p,
        "exact/retain": 15 / 16,
        "name/retain": 1.0,
        "fact/retain": 1.0,
    }


def test_several_passes_add_up_and_absent_kinds_have_no_figure(base: Model, world: World) -> None:
    names = [e for e in FORGET if e.kind == "name"]
    many = [replace(names[i % 2], id=f"name/{i}") for i in range(2 * PER_BATCH + 3)]
    monitor = Monitor({"forget": many, "nobody": []}, base.processor, 96, MAX_LENGTH, world)
    engine = Knows(0.0, {"name/0", f"name/{2 * PER_BATCH + 2}"})  # in the first pass, and in the last
    figures = monitor.measure(engine, 0)
    share = pytest.approx((2 * PER_BATCH + 1) / (2 * PER_BATCH + 3))
    assert figures == {"probability/forget": pytest.approx(1.0), "exact/forget": share, "name/forget": share}
    assert engine.passes == 3


def greedy_hits(model: Model, example: Example) -> bool:
    """Whether the model's own forward, of this example alone, finds every answer token likeliest."""
    processor = model.processor
    prefix, rest = processor.encode_prompt(example.question, example.picture is not None)
    answer = processor.encode_answer(example.answer)
    ids = torch.tensor([[*prefix, *rest, *answer]])
    inputs: dict[str, Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if example.picture is not None:
        inputs["pixel_values"] = PixelCache(processor)(example.picture)[None]
    with torch.no_grad():
        logits = model.module.eval()(**inputs).logits[0, -len(answer) - 1 : -1]
    return logits.argmax(-1).tolist() == answer


def test_packed_and_sharded_as_each_example_alone(base: Model, world: World, tmp_path: Path) -> None:
    """After some training, so that the model finds some answers and misses others."""
    sets = {"forget": FORGET, "retain": RETAIN}
    monitor = Monitor(sets, base.processor, 96, MAX_LENGTH, world)
    module = StepModule(base.module, base.family)
    trained: Trained = run(
        module, base, nll(View.FORGET), world, tmp_path, steps=25, lr=8e-3, eval_every=25, on_eval=monitor.measure
    )
    first, last = (line["eval"] for line in metrics(tmp_path) if "eval" in line)
    hits = {name: [greedy_hits(base, e) for e in examples] for name, examples in sets.items()}
    assert first["exact/forget"] == 0.0 < last["exact/forget"]
    assert 0 < sum(hits["forget"]) + sum(hits["retain"]) < len(FORGET) + len(RETAIN), "a test of all or nothing"
    for name, examples in sets.items():
        assert last[f"exact/{name}"] == sum(hits[name]) / len(examples)
        facts = [hit for hit, e in zip(hits[name], examples, strict=True) if e.kind == "qa"]
        assert last[f"fact/{name}"] == sum(facts) / len(facts)
    assert trained.steps == 25
