"""Doing a run of a sweep: an ordinary unlearning, or original and gold, made once and measured as they are."""

from __future__ import annotations

import shutil

from clear_dist.config import DataFields, EvaluateConfig, ModelFields, SweepConfig
from clear_dist.data.order import Order
from clear_dist.engine.world import World, joined
from clear_dist.models import inspect_model, with_base_weights
from clear_dist.services.rundir import CHECKPOINTS
from clear_dist.types import View

from . import evaluate, unlearn
from .common import model_dir, open_data, release_claim
from .finetune import cached, derived
from .sweep_plan import Job, base_of


def equal_steps(config: SweepConfig, world: World) -> int:
    """Steps of every run with an equal budget: the epochs of the base, counted over the forget set."""
    base = base_of(config)
    order = Order(
        open_data(base, world).train["forget"],
        seed=base.seed,
        view=str(View.FORGET),
        questions_per_picture=base.questions_per_picture,
        one_run_per_picture=True,  # as the stream of a run
    )
    return base.epochs * max(1, -(-order.examples_per_epoch // base.global_batch))


def execute(job: Job) -> None:
    """Do one run, on every rank of the group, and leave its directory free, however it ends."""
    try:
        if job.anchor:
            _anchor(job)
        else:
            unlearn.run(job.config)
            shutil.rmtree(job.out / CHECKPOINTS, ignore_errors=True)  # a finished run is not gone on with
    finally:
        release_claim(job.out)


def _anchor(job: Job) -> None:
    """Make (or find) original or gold, and evaluate it: a run directory of ``clear-dist evaluate``."""
    config = job.config
    folder = config.original if job.method == "original" else config.gold_model
    with joined(deterministic=config.deterministic) as world:
        if folder is None:
            source = derived(config, "all" if job.method == "original" else "retain")
            folder = cached(source, open_data(derived(config, "retain"), world), world)
        if world.main:
            shutil.rmtree(job.out, ignore_errors=True)  # begun and not finished: its records are not cached either
        shared = {name: getattr(config, name) for name in (*DataFields.model_fields, *ModelFields.model_fields)}
        if config.original is not None:  # as the runs beside it
            known = inspect_model(model_dir(config.original, "--original"))
            shared["base_weights"] = with_base_weights(known, config.base_weights).base_weights
        values = {**shared, "model": str(folder), "name": job.method, "eval_limit": config.eval_limit, "out": job.out}
        evaluate.run(EvaluateConfig(**values))
