"""Unlearn people: original -> unlearned, compared with gold, reported. The main job."""

from __future__ import annotations

import inspect
from pathlib import Path

from clear_dist.config import UnlearnConfig
from clear_dist.data.conversations import idk_examples
from clear_dist.data.load import Dataset
from clear_dist.engine.world import World, barrier, close_world, init_world
from clear_dist.errors import nearest
from clear_dist.methods import METHODS, Objective, build, l1, parse_objective
from clear_dist.models import ModelInfo, inspect_model, weights_digest
from clear_dist.services.progress import say
from clear_dist.services.rundir import write_run
from clear_dist.types import Example, UserError, View

from .common import (
    Stopwatch,
    check_before_loading,
    check_examples,
    claim,
    is_finished,
    limited,
    model_dir,
    open_data,
    release_claim,
)
from .evaluate import compare
from .finetune import cached, derived
from .training import export, fit, frozen_copy, make_plan, prepare_model

MONITORED = 256  # examples of each set that --eval-every asks about


def run(config: UnlearnConfig) -> None:
    """``clear-dist unlearn`` and ``launchers/unlearn.py``."""
    objective = objective_of(config)
    trains_gold = config.gold_model is None and config.wants_gold
    if trains_gold and config.original is not None and config.model == "tiny" and config.data != "clear-mini":
        raise UserError(
            "--gold with --original needs --model: the base that the original was made from, to train gold on the "
            "retain set alone. Name it, or give a finished gold model with --gold-model."
        )
    check_before_loading(config, base=config.original is None or trains_gold)
    given = {"original": config.original, "gold": config.gold_model}
    for name, folder in given.items():
        if folder is not None:
            inspect_model(model_dir(folder, f"--{name.replace('gold', 'gold-model')}"))
    world = init_world()
    seconds = Stopwatch()

    out = config.run_dir()
    if is_finished(out, config):
        say(f"{out}: this run is finished already; its report is {out / 'index.html'}", world.main)
        close_world()
        return
    data = open_data(config, world)
    # Everything that training and evaluation will read goes through the tokenizer now, before a weight is loaded.
    info = inspect_model(model_dir(config.original or config.model, "--original" if config.original else "--model"))
    plan, _ = make_plan(config, info, objective, *views_of(config, objective, data), world)
    check_examples(
        {**data.train, **{f"{k}, asked": v for k, v in limited(data.sets, config.eval_limit).items()}},
        info,
        config.max_length,
    )
    if config.dry_run:
        say("\n".join(plan.lines(config, world)), world.main)
        close_world()
        return
    resume = claim(config, world, out)

    with seconds("original"):
        original = config.original or cached(derived(config, "all"), data_of(config, data, world), world)
    gold: Path | None = config.gold_model
    if trains_gold:
        with seconds("gold"):
            gold = cached(derived(config, "retain"), data_of(config, data, world), world)

    info = inspect_model(model_dir(original, "--original"))
    facts: dict[str, object] = {"seeds": {"seed": config.seed}, "ranks": world.size, "data_digest": data.digest}
    if world.main:
        facts |= {"objective": str(objective), "original": str(original), "gold": str(gold) if gold else None}
        facts |= {"original_weights": weights_digest(info.adapter or info.path), "people": data.people}
        facts |= {"leaks": {"count": len(data.leaks), "first": data.leaks[:20]}}
        write_run(out, config, finished=False, **facts)
    barrier(world)

    with seconds("unlearn"):
        unlearned = unlearn(config, data, objective, info, out, world, resume=resume)

    folders: dict[str, str | Path] = {"original": original, "unlearned": unlearned}
    if gold is not None:
        folders["gold"] = gold
    compare(folders, data, world, out, limit=config.eval_limit, max_length=config.max_length, watch=seconds)
    if world.main:
        write_run(out, config, finished=True, seconds=seconds.seconds, **facts)
    release_claim(out)
    close_world()


def unlearn(
    config: UnlearnConfig,
    data: Dataset,
    objective: Objective,
    info: ModelInfo,
    out: Path,
    world: World,
    *,
    resume: bool,
) -> Path:
    """Train the objective from the original; returns the folder to load the unlearned model from."""
    pools, batch = views_of(config, objective, data)
    plan, stream = make_plan(config, info, objective, pools, batch, world)
    say("\n".join(f"  {line}" for line in plan.lines(config, world)), world.main)
    model = prepare_model(config, info, plan.bf16)
    reference = None
    if objective.needs.reference and (config.full or config.reference == "copy"):
        reference = frozen_copy(config, info, plan.bf16)
    monitored = limited(data.train, MONITORED)
    trained = fit(
        config,
        out,
        f"unlearning with {config.method_name or 'an objective'}",
        plan,
        stream,
        model,
        world,
        resume=resume,
        reference=reference,
        monitored=monitored,
    )
    return export(config, out, trained, model, info, world, merge=config.merge)


def objective_of(config: UnlearnConfig) -> Objective:
    """The objective of ``--objective`` or of ``--method`` with ``--set``, plus ``--l1``.

    Raises:
        UserError: unknown method or hyperparameter, with the nearest valid name.
    """
    if config.objective:
        if config.set:
            raise UserError("--set belongs to --method; write the numbers into --objective itself.")
        objective = parse_objective(config.objective)
    else:
        name = config.method_name or ""
        if name not in METHODS:
            raise UserError(
                f"--method {name}: unknown{nearest(name, METHODS, quoted=True)}; known: {', '.join(METHODS)}."
            )
        known = inspect.signature(METHODS[name]).parameters
        for key in config.set:
            if key not in known:
                raise UserError(
                    f"--set {key}: {name} has no such hyperparameter{nearest(key, known, quoted=True)}; "
                    f"it has: {', '.join(known) or 'none'}."
                )
        try:
            objective = build(name, config.set)
        except ValueError as error:
            raise UserError(f"--set: {error}") from None
    return objective + config.l1 * l1("lora") if config.l1 else objective


def views_of(
    config: UnlearnConfig, objective: Objective, data: Dataset
) -> tuple[dict[View, list[Example]], dict[View, int]]:
    """(view -> examples, view -> examples per step) for the views the objective looks at."""
    pools: dict[View, list[Example]] = {}
    batch: dict[View, int] = {}
    for view in objective.needs.views:
        if view is View.RETAIN:
            pools[view] = data.train["retain"]
            alone = objective.needs.views == (View.RETAIN,)
            batch[view] = config.global_batch if alone else max(1, round(config.global_batch * config.retain_ratio))
        elif view is View.IDK:
            pools[view] = idk_examples(data.train["forget"], seed=config.seed)
            batch[view] = config.global_batch
        elif view is View.FORGET:
            pools[view] = data.train["forget"]
            batch[view] = config.global_batch
        else:
            raise UserError(f"the objective looks at {view.name}, which this command cannot supply yet.")
    if config.retain_ratio == 0 and View.RETAIN in batch and len(batch) > 1:
        raise UserError("--retain-ratio 0 leaves the objective's retain terms without examples; drop them or raise it.")
    return pools, batch


def data_of(config: UnlearnConfig, data: Dataset, world: World) -> Dataset:
    """The data the original learned: both halves, whichever is to be forgotten."""
    source = derived(config, "retain")
    return data if source.modality == config.modality else open_data(source, world)
