"""A rank of a run whose loss stops being a number on rank 1 alone.

usage: worker_nonfinite.py MODEL_DIR OUT. At each stage rank 1's losses are NaN from the third on, and one step may be
left out: every rank must leave out the third, unmoved, and stop at the fourth.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from torch import Tensor

from clear_dist.engine.loop import TrainSettings, train, whole_parameters
from clear_dist.engine.step import StepModule
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.engine.world import World, barrier, close_world, init_world
from clear_dist.methods import FORGET, Objective, Term, Weighted
from clear_dist.models import add_lora, load_model
from clear_dist.types import Example, TokenStats

EXAMPLES = [Example(f"{i}", "forget", "qa", "Who is this person?", f"This is {'so ' * i}Anna.") for i in range(1, 7)]


def sick(world: World) -> Objective:
    """nll(FORGET), which is NaN on rank 1 from the third step on."""
    calls = 0

    def term(stats: TokenStats) -> Tensor:
        nonlocal calls
        calls += 1
        loss = -stats.global_mean(stats.per_example(stats["logp"]))
        return loss * math.nan if world.rank == 1 and calls >= 3 else loss

    return Objective((Weighted(Term("sick(FORGET)", (FORGET,), frozenset({"logp"}), term)),))


def weights(module: StepModule) -> dict[str, Tensor]:
    """Whole trained parameters; a collective under ZeRO-3."""
    named = [(n, p) for n, p in module.student.named_parameters() if p.requires_grad]
    with whole_parameters([p for _, p in named]):
        return {n: p.detach().clone() for n, p in named}


def one(stage: int, world: World) -> None:
    model = load_model(sys.argv[1], dtype="fp32", device="cpu")
    model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    module = StepModule(model.module, model.family)
    seen: list[dict[str, Tensor]] = []

    def on_step(step: int, line: object) -> None:
        seen.append(weights(module))

    batch = StreamSettings({FORGET: 4}, 0, 1, max_length=64, row_length=64, accumulation=1)
    stream = Stream({FORGET: EXAMPLES}, model.processor, batch, world.rank, world.size)
    settings = TrainSettings(
        run_dir=Path(sys.argv[2]) / f"stage{stage}",
        total_steps=5,
        max_skipped=1,
        lr=1e-3,
        weight_decay=0.0,
        warmup=0.0,
        schedule="constant",
        bf16=False,
        global_batch=4,
        accumulation=1,
        ds_config={"gradient_clipping": 0.0, "zero_optimization": {"stage": stage}},
        ds_source="test",
    )
    try:
        train(module, sick(world), stream, settings, world, on_step=on_step)
    except FloatingPointError as error:
        assert "step 4: loss, sick(FORGET) is not finite" in str(error), error
        assert "1 step(s) before it had to be left out" in str(error), error
    else:
        raise AssertionError(f"stage {stage}: rank {world.rank} went on")
    assert len(seen) == 3, len(seen)
    assert all(torch.equal(seen[2][n], seen[1][n]) for n in seen[1]), f"stage {stage}: the third step was taken"
    now = weights(module)
    assert all(torch.equal(now[n], seen[1][n]) for n in now), f"stage {stage}: a step was taken"
    assert any(not torch.equal(seen[0][n], seen[1][n]) for n in now), f"stage {stage}: nothing ever moved"
    print(f"stage {stage}: rank {world.rank} stopped unmoved", flush=True)
    barrier(world)


def main() -> None:
    world = init_world()
    for stage in (0, 1, 2, 3):
        one(stage, world)
    close_world()


if __name__ == "__main__":
    main()
