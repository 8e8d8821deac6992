"""From an objective to the examples of its views, and whether model and data can supply what it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clear_dist.config import UnlearnConfig
from clear_dist.data.load import Dataset
from clear_dist.data.prompts import IDK_ANSWERS, instruction_for
from clear_dist.data.views import TAUGHT, Taught, build_pools, private_examples
from clear_dist.engine.stream import leader
from clear_dist.engine.world import World
from clear_dist.errors import ConfigError
from clear_dist.methods import Objective
from clear_dist.metrics.leak import private_of
from clear_dist.models import ModelInfo
from clear_dist.types import Example, View

from .teacher import leaks_of, teach


@dataclass(frozen=True)
class Views:
    """pools: view -> what the student reads; reference: what the reference reads instead, where that differs;
    batch: view -> examples a step."""

    pools: dict[View, list[Example]]
    reference: dict[View, list[Example]]
    batch: dict[View, int]


def views_of(
    config: UnlearnConfig, objective: Objective, data: Dataset, taught: Sequence[Taught] | None = None
) -> Views:
    """The views the objective looks at. ``taught``: the teacher's safe answers; None while there is no original yet
    (refusals stand in, so that sizes and lengths can be checked)."""
    needed = objective.needs.views
    asked = bool(TAUGHT & set(needed))
    leaks = leaks_of(private_of([*data.train["forget"], *data.sets.get("forget", [])]))
    if taught is None and asked:
        stand_in = tuple(IDK_ANSWERS[:1]) * config.guide_samples
        private = private_examples(data.train["forget"], leaks)
        taught = [Taught(e, e.question, stand_in) for e in private if e.picture is not None]
    pools = build_pools(
        needed,
        data.train,
        seed=config.seed,
        leaks=leaks,
        taught=taught or (),
        idk_answers=config.idk_answers or IDK_ANSWERS,
    )
    batch = {view: config.global_batch for view in needed}
    if View.RETAIN in batch and len(batch) > 1:
        batch[View.RETAIN] = max(1, round(config.global_batch * config.retain_ratio))
        if config.retain_ratio == 0:
            raise ConfigError(
                "--retain-ratio 0 leaves the objective's retain terms without examples; drop them or raise it."
            )
    reference = {view: pool.reference for view, pool in pools.items() if pool.reference is not None}
    return Views({view: pool.examples for view, pool in pools.items()}, reference, batch)


def taught_by(
    config: UnlearnConfig, objective: Objective, data: Dataset, original: ModelInfo, world: World
) -> Sequence[Taught]:
    """The teacher's safe answers where the objective looks at them: made once by the original, kept in the cache."""
    if not TAUGHT & set(objective.needs.views):
        return ()
    taught, _ = teach(
        data,
        original,
        world,
        instruction=config.guide_instruction,
        samples=config.guide_samples,
        seed=config.seed,
    )
    return taught


def check_objective(config: UnlearnConfig, objective: Objective, info: ModelInfo) -> tuple[int, ...] | None:
    """The decoder blocks to update (None: all), after checking the objective against model and flags.

    Raises:
        ConfigError: a layer the model does not have, views that are not bound example by example, a LoRA penalty
            without LoRA, a reference that cannot be had.
    """
    needs = objective.needs
    if TAUGHT & set(needs.views):
        instruction_for(config.data, config.guide_instruction)
    blocks = int(info.family.text_config(info.config).num_hidden_layers)
    _check_layers(needs.layers, blocks, "the objective looks at layer", "set another, e.g. --set layer=1")
    for pair in needs.pairs:
        if len({leader(view) for view in pair}) > 1:
            names = " and ".join(view.name for view in pair)
            raise ConfigError(
                f"--objective: {names} are not bound example by example, so they cannot be paired. "
                "Pairs: FORGET with IDK or RANDOM, PRIVATE with SAFE."
            )
    if config.full and any(p.parameters == "lora" for p in objective.penalties):
        raise ConfigError("--objective: l1(LORA) needs LoRA, and --full trains all weights: write l1(ALL).")
    if config.reference_model is not None and not needs.reference:
        raise ConfigError("--reference-model: the objective compares with no reference; drop the flag.")
    if needs.reference and View.GUIDE in needs.reference and needs.sequences:
        wants = [w for w in needs.wants[View.GUIDE] if not isinstance(w, str) or w.startswith("sequence:")]
        if wants:
            raise ConfigError("--objective: on GUIDE prompts differ, so only answer tokens can be compared.")
    layers = config.train_layers or objective.train_layers
    if config.train_layers:
        _check_layers(config.train_layers, blocks, "--train-layers", "name blocks the model has")
    if layers is None and needs.depth is not None:
        layers = tuple(range(needs.depth))
    if layers is not None and needs.depth is not None and min(layers) >= needs.depth:
        raise ConfigError(
            f"--train-layers {min(layers)}: the objective looks at nothing above block {needs.depth - 1}, so no "
            "gradient would reach it. Name a block at or below that."
        )
    return layers


def _check_layers(layers: Sequence[int], blocks: int, what: str, hint: str) -> None:
    wrong = [layer for layer in layers if layer >= blocks]
    if wrong:
        raise ConfigError(f"{what} {wrong[0]}, but the model has {blocks} decoder blocks (0 to {blocks - 1}): {hint}.")
