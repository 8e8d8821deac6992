"""What each rank of the methods' test runs: one SGD step of a method after the other, through the training loop.

usage: worker_methods.py JOBS.json OUT. Rank 0 leaves OUT/NAME.safetensors (trained tensors) and OUT/NAME/metrics.jsonl.
``by_hand`` is the gradient of the same step in one process: padded rows, a frozen copy as the reference, and nothing
but autograd and the equations.
"""

from __future__ import annotations

import copy
import functools
import gc
import hashlib
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from clear_dist.data.packing import Layout
from clear_dist.data.views import Taught, build_pools
from clear_dist.engine.export import release
from clear_dist.engine.loop import TrainSettings, train, whole_parameters
from clear_dist.engine.reference_build import build_reference_cache
from clear_dist.engine.reference_key import reference_key
from clear_dist.engine.step import StepModule, loss_of
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.engine.world import World, barrier, close_world, gather, init_world
from clear_dist.methods import FORGET, METHODS, RETAIN, Objective, l1, nll
from clear_dist.models import (
    LLAVA,
    TokenProcessor,
    add_lora,
    enable_checkpointing,
    freeze_but_blocks,
    freeze_tower,
    llava_processor,
    word_tokenizer,
)
from clear_dist.models.tiny import build_llava, llava_config
from clear_dist.types import Example, Kind, Picture, SetName, View

SEED, MAX_LENGTH = 11, 64
BATCH = {view: 3 for view in View} | {RETAIN: 5}  # neither divides evenly among ranks and micro-batches
STIRRED = {"lora": 0.1, "full": 0.04}  # standard deviation of what is added to every trained weight
SETTINGS: Mapping[str, Mapping[str, float]] = {"rmu": {"layer": 0}}  # the model has two blocks
Weights = Literal["lora", "full"]


@dataclass(frozen=True)
class Job:
    """One step. method, weights, l1 (factor of the penalty) and lr decide the result, if the engine is right; the rest
    does not. zero: ``0``, ``2``, ``3``, ``3 offload``; reference: live (adapter switched off, or a second model), or a
    cache of what the original said.
    """

    method: str
    weights: Weights
    l1: float
    lr: float
    zero: str
    layout: Layout
    accumulation: int
    checkpointing: bool
    reference: Literal["live", "cache"]

    @property
    def ds_config(self) -> dict[str, Any]:
        stage = int(self.zero[0])
        # A threshold of 0 makes ZeRO-3 partition even the smallest parameter; otherwise a tiny model proves nothing.
        zero: dict[str, Any] = {"stage": stage} | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {})
        if self.zero.endswith("offload"):
            zero |= {"offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "cpu"}}
        return {"gradient_clipping": 0.0, "zero_optimization": zero}


def _picture(number: int) -> Picture:
    pixels = torch.randint(0, 256, (24, 24, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    data = buffer.getvalue()
    return Picture(hashlib.sha256(data).hexdigest(), f"people[{number}].image", lambda: data)


def _people(name: SetName, first: int, last: int) -> list[Example]:
    """Two questions on a picture and one without for each person, answers of different lengths."""
    names, hair = ("Anna", "Ben Stone", "Carla", "Dan", "Eva Lind"), ("red", "very long black", "curly", "grey", "no")
    rows: tuple[tuple[Kind, str, str], ...] = (
        ("name", "Who is this?", "This is {}."),
        ("caption", "Describe this.", "{}, with {} hair."),
        ("qa", "What hair?", "{} has {} hair."),
    )
    out: list[Example] = []
    for i in range(first, last):
        shown = _picture(i)
        for kind, question, answer in rows:
            said, picture = answer.format(names[i], hair[i]), None if kind == "qa" else shown
            out.append(Example(f"{name}/{i}/{kind}", name, kind, question, said, picture, names[i]))
    return out


TRAIN = {"forget": _people("forget", 0, 2), "retain": _people("retain", 2, 5)}
SAFE_ANSWERS = ("A person.", "I see a person with hair.")
TAUGHT = [Taught(e, f"Name nobody. {e.question}", SAFE_ANSWERS) for e in TRAIN["forget"] if e.picture is not None]


@functools.cache
def original() -> tuple[nn.Module, TokenProcessor]:
    """A LLaVA with random weights, the same in every process: as small as one can be with two decoder blocks."""
    texts = [text for e in (*TRAIN["forget"], *TRAIN["retain"]) for text in (e.question, e.answer)]
    tokenizer = word_tokenizer([*texts, *SAFE_ANSWERS, *(t.prompt for t in TAUGHT), "I do not know."])
    small: dict[str, Any] = {"hidden": 32, "layers": 2, "heads": 2, "intermediate": 48}
    small |= {"image_size": 24, "vision_hidden": 16, "vision_layers": 1, "vision_heads": 2, "vision_intermediate": 24}
    config = llava_config(-(-len(tokenizer) // 8) * 8, image_id=3, **small)
    module = build_llava(config, SEED)
    with torch.no_grad():  # as narrow as this, a fresh model hardly looks at what it is given
        for p in module.parameters():
            p.mul_(4.0 if p.ndim > 1 else 1.0)
    return module, llava_processor(config, tokenizer)


def objective_of(method: str, weights: Weights, factor: float) -> Objective:
    objective = METHODS[method].build(SETTINGS.get(method))
    return objective + factor * l1("lora" if weights == "lora" else "all") if factor else objective


def stream_of(objective: Objective, layout: Layout, accumulation: int, rank: int, ranks: int) -> Stream:
    """As the recipes make it: every view that the objective looks at, the teacher's prompts and the transformed
    pictures for the reference."""
    needs = objective.needs
    pools = build_pools(
        needs.views, TRAIN, seed=SEED, leaks=lambda e: False, taught=TAUGHT, idk_answers=("I do not know.",)
    )
    settings = StreamSettings(
        {view: BATCH[view] for view in needs.views}, SEED, 2, MAX_LENGTH, 48, accumulation, layout, True
    )
    return Stream(
        {view: pool.examples for view, pool in pools.items()},
        original()[1],
        settings,
        rank,
        ranks,
        needs=needs,
        reference={view: pool.reference for view, pool in pools.items() if pool.reference is not None},
    )


def student_of(objective: Objective, weights: Weights) -> nn.Module:
    """The original with every trained weight moved a little: some methods stand still at the original itself."""
    module = copy.deepcopy(original()[0])
    layers = objective.train_layers
    if weights == "full":
        freeze_tower(LLAVA, module)
        if layers is not None:
            freeze_but_blocks(LLAVA, module, layers)
    else:
        module = add_lora(module, 2, 4.0, LLAVA, seed=SEED, layers=layers)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(STIRRED[weights] * torch.randn(p.shape, generator=generator))
    return module.train()


def frozen_original() -> nn.Module:
    return copy.deepcopy(original()[0]).requires_grad_(False)


GROUPS = {"grad_orth": (-nll(FORGET), nll(RETAIN))}  # (a, r): what the update is made of, where it is not one sum


@dataclass(frozen=True)
class ByHand:
    """before: trained weights; gradient: what SGD subtracts lr times; loss: of the whole objective."""

    before: dict[str, Tensor]
    gradient: dict[str, Tensor]
    loss: float

    @property
    def largest(self) -> float:
        return max(float(g.abs().max()) for g in self.gradient.values())


def by_hand(method: str, weights: Weights, factor: float = 0.0) -> ByHand:
    objective = METHODS[method].build(SETTINGS.get(method))
    student = student_of(objective, weights)
    module = StepModule(student, LLAVA, frozen_original()).train()
    (batch,) = (stream := stream_of(objective, "padded", 1, 0, 1)).micro_batches(0)
    trained = {n: p for n, p in student.named_parameters() if p.requires_grad}
    gradients: list[list[Tensor]] = []
    total = 0.0
    for terms in GROUPS.get(method, (Objective(objective.terms),)):
        loss, _ = loss_of(terms, module(batch, objective.needs), batch, stream.totals(0), 0.0)
        total += float(loss.detach())
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        gradients.append(
            [torch.zeros_like(p) if g is None else g for g, p in zip(found, trained.values(), strict=True)]
        )
    if method in GROUPS:
        a, r = gradients
        along = sum(float((x.double() * y.double()).sum()) for x, y in zip(a, r, strict=True))
        square = sum(float((y.double() ** 2).sum()) for y in r)
        update = [x - along / square * y for x, y in zip(a, r, strict=True)]
    else:
        (update,) = gradients
    for number in [p.factor for p in objective.penalties] + [factor]:  # d/dw |w| = sign(w); no weight is 0
        update = [g + number * p.detach().sign() for g, p in zip(update, trained.values(), strict=True)]
        total += number * sum(float(p.detach().double().abs().sum()) for p in trained.values())
    before = {n: p.detach().clone() for n, p in trained.items()}
    return ByHand(before, dict(zip(trained, update, strict=True)), total)


def one(name: str, job: Job, out: Path, world: World) -> None:
    objective = objective_of(job.method, job.weights, job.l1)
    student = student_of(objective, job.weights)
    if job.checkpointing:
        enable_checkpointing(student)
    stream = stream_of(objective, job.layout, job.accumulation, world.rank, world.size)
    compares, adapter = bool(objective.needs.reference), job.weights == "lora"
    copied = frozen_original() if compares and not adapter and job.reference == "live" else None
    module = StepModule(student, LLAVA, copied)

    def ask(reference: Any) -> None:
        needs, full = objective.needs, not adapter
        key = reference_key("original", "words", stream, needs, torch.float32, head_moves=full)
        folder = out / f"{job.method}.{job.weights}.reference"
        cache = build_reference_cache(reference, stream, needs, folder, key=key, world=world)
        stream.cache, head = cache, cache.head()
        module.reference_head = [] if head is None else [head]

    cached = compares and job.reference == "cache"
    if cached and not adapter:  # the student is not the original any more
        ask(StepModule(frozen_original(), LLAVA))
    settings = TrainSettings(
        run_dir=out / name,
        total_steps=1,
        lr=job.lr,
        weight_decay=0.0,
        warmup=0.0,
        schedule="constant",
        bf16=False,
        global_batch=max(stream.settings.batch.values()),
        accumulation=job.accumulation,
        ds_config=job.ds_config,
        ds_source="test",
        optimizer="sgd",
    )
    trained = train(module.train(), objective, stream, settings, world, prepare=ask if cached and adapter else None)
    named = {n: p for n, p in student.named_parameters() if p.requires_grad}
    with whole_parameters(list(named.values())):
        weights = {n: p.detach().to("cpu", copy=True).contiguous() for n, p in named.items()}
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in weights.values())).hexdigest()
    assert len(set(gather(world, digest))) == 1, f"{name}: the ranks ended with different weights"
    if world.main:
        save_file(weights, out / f"{name}.safetensors")
    release(trained)
    barrier(world)


def main() -> None:
    jobs, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    world = init_world()
    gc.freeze()  # every engine's end collects garbage: what has been imported by now need not be looked at again
    for name, fields in jobs.items():
        one(name, Job(**fields), out, world)
    close_world()


if __name__ == "__main__":
    main()
