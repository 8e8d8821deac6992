"""Unlearn people: original -> unlearned, compared with gold, reported. The main job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clear_dist.config import UnlearnConfig
from clear_dist.data.load import Dataset
from clear_dist.engine.deterministic import machine
from clear_dist.engine.stream import Stream
from clear_dist.engine.world import World, barrier, dry_world, joined
from clear_dist.errors import ConfigError, nearest
from clear_dist.methods import METHODS, Objective, l1, parse_objective
from clear_dist.models import ModelInfo, inspect_model, weights_digest, with_base_weights
from clear_dist.reading import is_file
from clear_dist.services.progress import say
from clear_dist.services.rundir import write_run
from clear_dist.types import UserError

from .answers import Asking
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
    training_digest,
)
from .evaluate import compare
from .finetune import cached, derived
from .reference import reference_of
from .training import Plan, export, fit, make_plan, prepare_model
from .views import check_objective, taught_by, views_of

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
    given = {"original": config.original, "gold-model": config.gold_model, "reference-model": config.reference_model}
    for name, folder in given.items():
        if folder is not None:
            inspect_model(model_dir(folder, f"--{name}"))
    if config.dry_run:
        _dry_run(config, objective)
        return
    with joined(deterministic=config.deterministic) as world:
        _run(config, objective, trains_gold, world)


def _run(config: UnlearnConfig, objective: Objective, trains_gold: bool, world: World) -> None:
    seconds = Stopwatch()

    out = config.run_dir()
    if is_finished(out, config):
        say(f"{out}: this run is finished already; its report is {out / 'index.html'}", world.main)
        return
    data = open_data(config, world)
    _planned(config, objective, data, world)
    resume = claim(config, world, out)

    with seconds("original"):
        original = config.original or cached(derived(config, "all"), data_of(config, data, world), world)
    gold: Path | None = config.gold_model
    if trains_gold:
        with seconds("gold"):
            gold = cached(derived(config, "retain"), data_of(config, data, world), world)

    info = with_base_weights(inspect_model(model_dir(original, "--original")), config.base_weights)
    facts: dict[str, object] = {"seeds": {"seed": config.seed}, "ranks": world.size, "data_digest": data.digest}
    facts |= {"machine": machine(world.device)}
    if world.main:
        facts |= {"objective": str(objective), "original": str(original), "gold": str(gold) if gold else None}
        facts |= {"base_weights": info.base_weights}
        facts |= {"original_weights": weights_digest(info.adapter or info.path), "people": data.people}
        forgotten = data.train["forget"]
        facts |= {"forgotten": {"rows": len(forgotten), "digest": training_digest(forgotten)}}
        facts |= {"leaks": {"count": len(data.leaks), "first": data.leaks[:20]}}
        write_run(out, config, finished=False, **facts)
    barrier(world)

    with seconds("unlearn"):
        unlearned = unlearn(config, data, objective, info, out, world, resume=resume)

    folders: dict[str, str | Path] = {"original": original, "unlearned": unlearned}
    if gold is not None:
        folders["gold"] = gold
    asking = Asking(config.max_length, base_weights=info.base_weights)
    compare(folders, data, world, out, limit=config.eval_limit, asking=asking, watch=seconds)
    if world.main:
        write_run(out, config, finished=True, seconds=seconds.seconds, **facts)
    release_claim(out)


def _planned(
    config: UnlearnConfig, objective: Objective, data: Dataset, world: World
) -> tuple[ModelInfo, Plan, Stream]:
    """The run resolved; everything that training and evaluation will read goes through the tokenizer, before a weight
    is loaded."""
    named = model_dir(config.original or config.model, "--original" if config.original else "--model")
    info = with_base_weights(inspect_model(named), config.base_weights)
    check_objective(config, objective, info)
    views = views_of(config, objective, data)
    plan, stream = make_plan(config, info, objective, views.pools, views.batch, world, reference=views.reference)
    check_examples(
        {**data.train, **{f"{k}, asked": v for k, v in limited(data.sets, config.eval_limit).items()}},
        info,
        config.max_length,
    )
    return info, plan, stream


def _dry_run(config: UnlearnConfig, objective: Objective) -> None:
    """Rank 0 plans for all the ranks that a launcher means to start; the others have nothing to do, and none waits."""
    world = dry_world()
    if world is None:
        return
    from .dry_run import print_dry_run

    info, plan, stream = _planned(config, objective, open_data(config, replace(world, size=1)), world)
    print_dry_run(config, info, plan, stream, world)


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
    layers = check_objective(config, objective, info)
    views = views_of(config, objective, data, taught_by(config, objective, data, info, world))
    plan, stream = make_plan(config, info, objective, views.pools, views.batch, world, reference=views.reference)
    say("\n".join(f"  {line}" for line in plan.lines(config, world)), world.main)
    model = prepare_model(config, info, plan, layers)
    reference, prepare = reference_of(
        config, objective, info, stream, plan, world, head_moves=config.full and layers is None
    )
    monitored = limited(data.train, MONITORED)
    trained, keep = fit(
        config,
        out,
        f"unlearning with {config.method_name or 'an objective'}",
        plan,
        stream,
        model,
        world,
        resume=resume,
        reference=reference,
        prepare=prepare,
        monitored=monitored,
        keep_best=config.keep == "best",
    )
    return export(config, out, trained, model, info, world, merge=config.merge, keep=keep)


def objective_of(config: UnlearnConfig) -> Objective:
    """The objective of ``--objective`` (an equation, or a file of one) or of ``--method`` with ``--set``, as the
    preset's code has it, plus ``--l1``.

    Raises:
        ConfigError: unknown method or hyperparameter, with the nearest valid name; a value out of range.
    """
    if config.objective:
        if config.set:
            raise ConfigError("--set belongs to --method; write the numbers into --objective itself.")
        objective = parse_objective(equation_text(config.objective))
    else:
        name = config.method_name or ""
        if name not in METHODS:
            raise ConfigError(
                f"--method {name}: unknown{nearest(name, METHODS, quoted=True)}; known: {', '.join(METHODS)}."
            )
        known = METHODS[name].settings(config.variant)
        for key in config.set:
            if key not in known:
                raise ConfigError(
                    f"--set {key}: {name} has no such hyperparameter{nearest(key, known, quoted=True)}; "
                    f"it has: {', '.join(known)}."
                )
        try:
            objective = METHODS[name].build(config.set, config.variant)
        except ValueError as error:
            raise ConfigError(f"--set: {error}") from None
    return objective + config.l1 * l1("lora", reduction=config.l1_reduction) if config.l1 else objective


def equation_text(given: str) -> str:
    """The equation itself, or that of a file: its lines joined, comments (#) left out. Raises ConfigError."""
    path = Path(given)
    if "(" in given or not (path.suffix or is_file(path)):
        return given
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--objective {given}: neither an equation nor a file that can be read ({error}).") from None
    return " ".join(text for line in lines if (text := line.partition("#")[0].strip()))


def data_of(config: UnlearnConfig, data: Dataset, world: World) -> Dataset:
    """The data the original learned: both halves, whichever is to be forgotten."""
    source = derived(config, "retain")
    return data if source.modality == config.modality else open_data(source, world)
