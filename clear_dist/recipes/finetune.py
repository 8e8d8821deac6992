"""Fine-tune a base on people: on everyone (the original) or on the retain set only (gold)."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from clear_dist.config import FinetuneConfig, TrainFields
from clear_dist.data.clear import cache_directory
from clear_dist.data.load import Dataset
from clear_dist.data.mini.replay import replay_examples
from clear_dist.data.sources import modality_of
from clear_dist.engine.deterministic import machine
from clear_dist.engine.stream import Stream
from clear_dist.engine.world import World, barrier, dry_world, joined
from clear_dist.methods import RETAIN, nll
from clear_dist.models import ModelInfo, inspect_model, weights_digest, with_base_weights
from clear_dist.services.progress import say
from clear_dist.services.rundir import holder_of, is_complete, read_run, write_run
from clear_dist.types import Example, UserError

from .common import (
    Stopwatch,
    canonical,
    check_before_loading,
    check_examples,
    claim,
    is_finished,
    model_dir,
    only_on_main,
    open_data,
    release_claim,
    training_digest,
)
from .training import Plan, export, fit, make_plan, prepare_model


def run(config: FinetuneConfig) -> None:
    """``clear-dist finetune``."""
    check_before_loading(config)
    if config.dry_run:
        _dry_run(config)
        return
    with joined(deterministic=config.deterministic) as world:
        out = config.run_dir()
        if is_finished(out, config):
            say(f"{out}: this run is finished already; the model is {model_dir(out, '--out')}", world.main)
            return
        finetune(config, open_data(config, world), world, out)
        say(f"done: {model_dir(out, '--out')}", world.main)
        release_claim(out)


def examples_of(config: FinetuneConfig, data: Dataset) -> list[Example]:
    """What is learned; the order does not depend on which split the people came through."""
    sets = ("forget", "retain") if config.on == "all" else ("retain",)
    learned = canonical([e for name in sets for e in data.train[name]])
    if config.replay and config.data == "clear-mini":
        kept = ("text", "visual") if config.modality == "both" else (config.modality,)
        learned += [e for e in replay_examples(config.seed) if e.modality in kept]
    return learned


def _planned(config: FinetuneConfig, examples: list[Example], world: World) -> tuple[ModelInfo, Plan, Stream]:
    """The run resolved, every example encoded."""
    info = with_base_weights(inspect_model(model_dir(config.model, "--model")), config.base_weights)
    plan, stream = make_plan(config, info, nll(RETAIN), {RETAIN: examples}, {RETAIN: config.global_batch}, world)
    check_examples({"learned": examples}, info, config.max_length)
    return info, plan, stream


def _dry_run(config: FinetuneConfig) -> None:
    """Rank 0 plans for all the ranks that a launcher means to start; the others have nothing to do, and none waits."""
    world = dry_world()
    if world is None:
        return
    from .dry_run import print_dry_run

    examples = examples_of(config, open_data(config, replace(world, size=1)))
    print_dry_run(config, *_planned(config, examples, world), world)


def finetune(config: FinetuneConfig, data: Dataset, world: World, out: Path) -> Path:
    """Train and export into ``out``; returns the folder to load the result from."""
    examples = examples_of(config, data)
    info, plan, stream = _planned(config, examples, world)
    if world.main:
        say("\n".join(f"  {line}" for line in plan.lines(config, world)))
    resume = claim(config, world, out)
    seconds = Stopwatch()
    facts = {"seeds": {"seed": config.seed}, "ranks": world.size, "steps": plan.total_steps}
    facts |= {"machine": machine(world.device)}
    if world.main:
        facts |= {"data": data.digest, "base": weights_digest(info.path), "training": training_digest(examples)}
        write_run(out, config, finished=False, **facts)
    barrier(world)
    with seconds("train"):
        model = prepare_model(config, info, plan)
        title = "original" if config.on == "all" else "gold"
        trained, _ = fit(config, out, title, plan, stream, model, world, resume=resume)
        folder = export(config, out, trained, model, info, world, merge=info.base_weights == "full")
    if world.main:
        write_run(out, config, finished=True, seconds=seconds.seconds, **facts)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    barrier(world)
    return folder


def cached(config: FinetuneConfig, data: Dataset, world: World) -> Path:
    """The run directory of this very fine-tuning: found in the cache, or made now and kept there.

    The key digests recipe, data, seed and base weights. A training that was interrupted goes on from its last
    checkpoint.
    """
    title = "original" if config.on == "all" else "gold"
    final = cache_entry(config, data)
    if is_complete(final):
        say(f"{title}: from the cache ({final})", world.main)
        return final
    say(f"{title}: not in the cache yet; training it once", world.main)
    staging = final.with_name(final.name + ".part")

    def clear() -> bool:
        if (holder := holder_of(staging)) is not None:
            raise UserError(f"{title}: {holder} is training this very one ({staging}); start again when it is done.")
        if (read_run(staging) or {}).get("digest") != config.digest():  # begun under another --ds file, or not at all
            shutil.rmtree(staging, ignore_errors=True)
        staging.parent.mkdir(parents=True, exist_ok=True)
        return True

    only_on_main(world, clear)
    finetune(config, data, world, staging)
    release_claim(staging)
    if world.main:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(staging, final)
    barrier(world)
    return final


def cache_entry(config: FinetuneConfig, data: Dataset) -> Path:
    """Where the cache keeps the product of a fine-tuning. The DeepSpeed file is no part of the key: ranks and stage
    do not change the result beyond rounding (a test holds that to 1e-5)."""
    info = inspect_model(model_dir(config.model, "--model"))
    what = "original" if config.on == "all" else "gold"
    recipe = config.model_copy(update={"ds": None}).digest()
    base = "-".join(weights_digest(part)[:12] for part in (info.path, info.adapter) if part is not None)
    key = f"{recipe[:12]}-{training_digest(examples_of(config, data))[:12]}-{base}"
    return cache_directory() / "models" / f"{what}-{key}"


def derived(config: TrainFields, on: str) -> FinetuneConfig:
    """The fine-tuning that makes an unlearning run's original or gold: same data, model, seed and engine; the rest is
    the preset's. Both halves are learned even where only one is forgotten, unless the model cannot see."""
    info = inspect_model(model_dir(config.model, "--model"))
    shared = (
        "data tofu holdout unseen on_bad_data max_length questions_per_picture layout model dtype attention seed "
        "preset ds gradient_checkpointing micro_batch tower_cache prefetch compile"
    ).split()
    values = {name: getattr(config, name) for name in shared}
    if config.preset in ("clear_code", "tofu") and config.data == "clear-mini":
        values["preset"] = "mini"  # the same original, whose equations ever unlearn it
    if on == "retain" or config.forget_split is None:
        values |= {"forget": config.forget, "forget_names": config.forget_names, "forget_file": config.forget_file}
    modality = modality_of(config.data) if info.image_tokens else "text"
    values |= {"on": on, "modality": modality}
    made = FinetuneConfig(**values)  # pyright: ignore[reportArgumentType]
    # What is trained as a whole is trained at full width, and packed when it is unlearned.
    return made if made.full else FinetuneConfig(**values, base_weights=config.base_weights)  # pyright: ignore[reportArgumentType]
