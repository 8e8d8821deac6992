"""What each rank of the reference cache's test runs: jobs that ask the reference, keep what it says, and train on it.

usage: worker_cache.py MODEL_DIR JOBS.json OUT. Rank 0 leaves OUT/NAME.states.safetensors (what is read back from the
cache), OUT/NAME.safetensors (trained tensors) and OUT/NAME/metrics.jsonl. A ``copy`` job trains against a frozen second
model instead; a ``sick`` one has a picture that rank 1 alone is given to read, and every rank leaves its message.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from clear_dist.engine.export import release, trainable_tensors
from clear_dist.engine.loop import TrainSettings, train
from clear_dist.engine.reference_build import build_reference_cache, passes
from clear_dist.engine.reference_cache import ReferenceCache
from clear_dist.engine.reference_key import reference_key
from clear_dist.engine.step import StepModule
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.engine.world import World, barrier, close_world, init_world
from clear_dist.methods import FORGET, GUIDE, RETAIN, Objective, kl, match, nll, npo
from clear_dist.models import add_lora, freeze_tower, load_model
from clear_dist.types import Example, Picture, SetName, UserError, View

BATCH = {FORGET: 3, RETAIN: 5, GUIDE: 3}
TOKENS = 90  # of a pass: several for each rank, and some ranks have none of a view


@dataclass(frozen=True)
class Job:
    """deep: only the first block is run; sick: a picture cannot be read; copy: a second model, no cache."""

    stage: int
    full: bool = False
    deep: bool = False
    copy: bool = False
    sick: bool = False
    offload: bool = False

    @property
    def objective(self) -> Objective:
        if self.deep:
            return match(RETAIN, layer=0) + match(FORGET, layer=0, images=True)
        whole = kl(RETAIN, tokens="sequence") + match(RETAIN, layer=1)
        return npo(FORGET) + kl(RETAIN) + whole + kl(GUIDE, direction="forward") - 0.5 * nll(FORGET)

    @property
    def ds_config(self) -> dict[str, Any]:
        # A threshold of 0 makes ZeRO-3 partition even the smallest parameter; otherwise a tiny model proves nothing.
        extra: dict[str, Any] = {"stage3_param_persistence_threshold": 0} if self.stage == 3 else {}
        if self.offload:
            extra |= {"offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "cpu"}}
        return {"gradient_clipping": 0.0, "zero_optimization": {"stage": self.stage, **extra}}


JOBS = {
    "z0": Job(0),
    "z0_full": Job(0, full=True),
    "z0_full_copy": Job(0, full=True, copy=True),
    "z0_deep": Job(0, deep=True),
    "z1": Job(1),
    "z2_full": Job(2, full=True),
    "z3": Job(3),
    "z3_full": Job(3, full=True),
    "z3_full_offload": Job(3, full=True, offload=True),
    "z3_deep": Job(3, deep=True),
    "z3_sick": Job(3, full=True, sick=True),
}


def _picture(number: int) -> Picture:
    pixels = torch.randint(0, 256, (48, 48, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    data = buffer.getvalue()
    return Picture(hashlib.sha256(data).hexdigest(), f"people[{number}].image", lambda: data)


def _examples(name: SetName, first: int, last: int) -> list[Example]:
    return [
        Example(
            f"{name}/{i}",
            name,
            "qa",
            "Who is this person?",
            f"This is {'so ' * i}Anna.",
            _picture(i) if i % 2 else None,
        )
        for i in range(first, last)
    ]


POOLS: dict[View, list[Example]] = {FORGET: _examples("forget", 1, 7), RETAIN: _examples("retain", 3, 13)}
POOLS[GUIDE] = POOLS[FORGET]
TOLD = {GUIDE: [replace(e, question=f"Describe this image. {e.question}") for e in POOLS[GUIDE]]}
BAD = Picture("0" * 64, "people[99].image", lambda: b"no picture")


def stream_of(processor: Any, job: Job, rank: int, ranks: int) -> Stream:
    views = job.objective.needs.views
    pools = {v: list(POOLS[v]) for v in views}
    settings = StreamSettings({v: BATCH[v] for v in views}, 0, 1, max_length=64, row_length=64, accumulation=1)
    told = {v: e for v, e in TOLD.items() if v in views}
    needs = job.objective.needs
    stream = Stream(pools, processor, settings, rank, ranks, needs=needs, reference=told)
    if job.sick:
        # The last rank's first picture: found where its passes are, put back in its place.
        asked = {v: range(len(pools[v])) for v in needs.views if v in needs.reference}
        mine = passes(stream, asked, ranks, TOKENS)[-1]
        view, i = next((v, i) for chosen in mine for v, rows in chosen.items() for i in rows if pools[v][i].picture)
        stream.encoded(view, reference=True)[i] = replace(stream.encoded(view, reference=True)[i], picture=BAD)
    return stream


def flat(cache: ReferenceCache) -> dict[str, Tensor]:
    """All a cache holds, of the examples in order."""
    out: dict[str, Tensor] = {}
    for view in cache.key.kept:
        states = cache.states(view, range(len(POOLS[view])))
        named = {"logp": states.logp, "hidden": states.hidden, **{f"layer{k}": t for k, t in states.layers.items()}}
        out |= {f"{view}.{n}": t.clone() for n, t in named.items() if t is not None}
    head = cache.head()
    return out if head is None else {**out, "head": head.clone()}


def one(model_dir: str, name: str, job: Job, out: Path, world: World) -> None:
    model = load_model(model_dir, dtype="fp32", device="cpu")
    copy = load_model(model_dir, dtype="fp32", device="cpu").module.requires_grad_(False) if job.copy else None
    if job.full:
        freeze_tower(model.family, model.module)
    else:
        model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():  # a cache of the adapted model would be noticed
            for p in model.module.parameters():
                if p.requires_grad:
                    p.add_(0.05 * torch.randn(p.shape, generator=generator))
    module = StepModule(model.module, model.family, copy)
    stream, needs = stream_of(model.processor, job, world.rank, world.size), job.objective.needs
    folder = out / f"{name}.cache"

    def prepare(engine: Any) -> None:
        if job.copy:
            return
        key = reference_key("model", "tokenizer", stream, needs, torch.float32, head_moves=job.full)
        made: list[tuple[int, int]] = []
        cache = build_reference_cache(
            engine,
            stream,
            needs,
            folder,
            key=key,
            world=world,
            tokens_per_pass=TOKENS,
            progress=lambda done, total: made.append((done, total)),
        )
        assert len(made) > 1 and made[-1] == (len(made), len(made)), made
        again = build_reference_cache(None, stream, needs, folder, key=key, world=world)
        assert again.key.digest == cache.key.digest
        stream.cache = again
        head = cache.head()
        module.reference_head = [] if head is None else [head]
        if world.rank == world.size - 1:  # any rank reads what all have written
            save_file(flat(cache), out / f"{name}.states.safetensors")

    settings = TrainSettings(
        run_dir=out / name,
        total_steps=3,
        lr=0.02,
        weight_decay=0.0,
        warmup=0.0,
        schedule="constant",
        bf16=False,
        global_batch=3,
        accumulation=1,
        ds_config=job.ds_config,
        ds_source="test",
        optimizer="sgd",
    )
    try:
        trained = train(module, job.objective, stream, settings, world, prepare=prepare)
    except UserError as error:
        assert job.sick, error
        (out / f"{name}.{world.rank}.txt").write_text(str(error))
        barrier(world)
        return
    assert not job.sick
    tensors = trainable_tensors(trained, world)
    if world.main:
        save_file({n: t.float() for n, t in tensors.items()}, out / f"{name}.safetensors")
    release(trained)
    barrier(world)


def main() -> None:
    world = init_world()
    for name in json.loads(Path(sys.argv[2]).read_text()):
        one(sys.argv[1], name, JOBS[name], Path(sys.argv[3]), world)
    close_world()


if __name__ == "__main__":
    main()
