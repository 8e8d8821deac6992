"""What real steps take, told by the allocator: each rank runs short jobs one after the other in one process group.

usage: measure.py JOBS.json OUT. A job: see ``Case``. Rank r writes OUT.r.json: {name: Measured}. The peak of a step
is what was alive before it (weights, states and buffers as DeepSpeed left them after a first step) and what rose
above it.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.step_memory import peak_of
from clear_dist.engine.loop import TrainSettings, _initialize
from clear_dist.engine.step import StepModule, loss_of
from clear_dist.engine.totals import Totals
from clear_dist.engine.world import World, close_world, init_world
from clear_dist.methods import Objective, parse_objective
from clear_dist.models import LLAVA, add_lora, enable_checkpointing, freeze_tower
from clear_dist.models.tiny import build_llava, llava_config
from clear_dist.types import Batch, View

# name -> sizes of a LLaVA; the larger one has 100 million parameters, most of them in blocks.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab": 432},
    "100m": {
        "vocab": 16_000,
        "image_size": 112,
        "patch": 14,
        "vision_hidden": 256,
        "vision_layers": 4,
        "vision_intermediate": 1024,
        "hidden": 640,
        "layers": 14,
        "heads": 10,
        "intermediate": 1728,
        "positions": 2048,
        "feature_layer": -2,
    },
}


@dataclass(frozen=True)
class Case:
    """One job. ds: ``zero_optimization``. answers: scored tokens of each of the two views."""

    name: str
    size: str = "tiny"
    ds: dict[str, Any] = field(default_factory=lambda: {"stage": 0})
    full: bool = False
    bf16: bool = False
    checkpointing: bool = False
    rows: int = 4
    length: int = 128
    answers: int = 32
    pictures: int = 2
    objective: str = "nll(RETAIN) - nll(FORGET)"
    lora_r: int = 8


@dataclass(frozen=True)
class Measured:
    """Bytes of one rank. peak: of a step, all in all; before: alive when it began."""

    weights: int
    gradients: int
    optimizer: int
    before: int
    peak: int


def config_of(size: str) -> Any:
    return llava_config(image_id=3, **SIZES[size])


def student_of(case: Case) -> nn.Module:
    module: nn.Module = build_llava(config_of(case.size), 0)
    if case.bf16:
        module = module.bfloat16()
    if case.full:
        freeze_tower(LLAVA, module)
    else:
        module = add_lora(module, case.lora_r, 2.0 * case.lora_r, LLAVA, seed=0)
    if case.checkpointing:
        enable_checkpointing(module)
    return module.train()


def batch_of(case: Case, rank: int) -> Batch:
    """Rows without padding, each one sequence; pictures at the beginning of the first rows."""
    config = config_of(case.size)
    side, slots = config.vision_config.image_size, config.image_seq_length
    shape = (case.rows, case.length)
    generator = torch.Generator().manual_seed(rank)
    ids = torch.randint(5, config.text_config.vocab_size, shape, generator=generator)
    starts = torch.arange(case.pictures)[:, None] * case.length
    places = torch.arange(case.rows * case.length - 1).flip(0)[: 2 * case.answers].flip(0)
    return Batch(
        input_ids=ids,
        position_ids=torch.arange(case.length).expand(shape).contiguous(),
        visible_until=torch.full(shape, case.length),
        real=torch.ones(shape, dtype=torch.bool),
        pixel_values=torch.zeros(max(case.pictures, 1), 3, side, side),
        image_slots=(starts + torch.arange(slots)).flatten(),
        score_index=places,
        targets=ids.flatten()[places + 1],
        token_example=torch.arange(2).repeat_interleave(case.answers),
        view_examples={View.FORGET: slice(0, 1), View.RETAIN: slice(1, 2)},
        view_tokens={View.FORGET: slice(0, case.answers), View.RETAIN: slice(case.answers, 2 * case.answers)},
        example_ids=["a", "b"],
        real_tokens=case.rows * case.length,
    )


def alive(seen: set[int] | None = None) -> int:
    """Bytes of all storages that Python knows of, but for those in ``seen``."""
    gc.collect()
    return sum(size for key, size in _storages() if seen is None or key not in seen)


def _storages() -> Iterator[tuple[int, int]]:
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if isinstance(thing, Tensor) and thing.device.type == "cpu" and thing.layout == torch.strided:
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return iter(found.items())


def measure(case: Case, world: World, folder: Path) -> Measured:
    gc.collect()
    old = {key for key, _ in _storages()}
    module = StepModule(student_of(case), LLAVA)
    settings = TrainSettings(
        run_dir=folder,
        total_steps=4,
        lr=1e-4,
        weight_decay=0.0,
        warmup=0.0,
        schedule="constant",
        bf16=case.bf16,
        global_batch=world.size,
        accumulation=1,
        ds_config={"zero_optimization": case.ds, "gradient_clipping": 1.0},
        ds_source="test",
    )
    engine, _ = _initialize(module, settings, world)
    batch, objective = batch_of(case, world.rank), parse_objective(case.objective)
    step(engine, objective, batch)
    before = alive(old)
    rise = peak_of(lambda: step(engine, objective, batch), torch.device("cpu"))
    state = state_bytes(engine)
    engine.destroy()
    return Measured(*state, before=before, peak=before + rise)


def step(engine: Any, objective: Objective, batch: Batch) -> None:
    totals = {View(view): Totals(1, rows.stop - rows.start) for view, rows in batch.view_tokens.items()}
    values = engine(batch, objective.needs)
    loss, _ = loss_of(objective, values, batch, totals, 0.0)
    del values
    engine.backward(loss)
    engine.step()


def state_bytes(engine: Any) -> tuple[int, int, int]:
    """(weights, gradients, optimiser) of this rank, from the tensors DeepSpeed keeps them in."""
    parameters = list(engine.module.parameters())
    weights = _bytes([x for p in parameters for x in (getattr(p, "ds_tensor", None), p.data) if x is not None])
    wrapped = engine.optimizer
    plain = getattr(wrapped, "optimizer", wrapped)
    moments = [x for state in plain.state.values() for x in state.values() if isinstance(x, Tensor) and x.numel() > 1]
    trained = {id(p) for p in parameters}
    masters = [p for group in plain.param_groups for p in group["params"] if id(p) not in trained]
    masters += getattr(wrapped, "fp32_partitioned_groups_flat", [])  # ZeRO-3 shows its optimiser one at a time
    flat = getattr(wrapped, "grad_partitions_flat_buffer", None)
    gradients = [flat] if flat is not None else []
    return weights, _bytes(gradients), _bytes([*moments, *masters])


def _bytes(tensors: list[Tensor]) -> int:
    found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(found.values())


def main() -> None:
    torch.set_num_threads(1)
    cases = [Case(**job) for job in json.loads(Path(sys.argv[1]).read_text())]
    out = Path(sys.argv[2])
    world = init_world()
    found: dict[str, Any] = {}
    for case in cases:
        found[case.name] = asdict(measure(case, world, out.parent))
        out.with_suffix(f".{world.rank}.json").write_text(json.dumps(found))
    close_world()


if __name__ == "__main__":
    main()
