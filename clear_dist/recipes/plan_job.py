"""From what is asked to the planner's job: the model as it trains, tokens, pictures and reference of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from clear_dist.config import PlanConfig, UnlearnConfig
from clear_dist.errors import ConfigError
from clear_dist.methods import Objective
from clear_dist.models import add_lora, freeze_but_blocks
from clear_dist.models.meta import meta_model
from clear_dist.planner.hardware import Gpu
from clear_dist.planner.job import Job
from clear_dist.planner.shape import Shape, shape_of
from clear_dist.types import View

from .training import MICRO_TOKENS, ROW_BOUNDS
from .unlearn import objective_of

Reference = Literal["none", "adapter", "cache", "copy"]


@dataclass(frozen=True)
class Load:
    """One micro-batch of one rank: tokens that are no padding, the rows they are packed in, answer tokens, pictures;
    micro-batches a step, and ``Job.share``."""

    tokens: int
    rows: int
    scored: int
    pictures: int
    accumulation: int
    share: float


def planned_objective(config: PlanConfig) -> Objective:
    """The objective of ``--method`` with ``--set``, as the paper has it, or of ``--objective``. Raises ConfigError."""
    given = {k: getattr(config, k) for k in ("method", "objective", "set", "full") if getattr(config, k)}
    return objective_of(UnlearnConfig(preset="paper", **given))


def examples_per_step(config: PlanConfig, objective: Objective) -> dict[View, int]:
    """view -> examples of a step, as ``unlearn`` draws them."""
    batch = {view: config.global_batch for view in objective.needs.views}
    if View.RETAIN in batch and len(batch) > 1:
        batch[View.RETAIN] = max(1, round(config.global_batch * config.retain_ratio))
    return batch


def load_of(config: PlanConfig, batch: Mapping[View, int], shape: Shape) -> Load:
    """The largest micro-batch of a rank, every example being an average one."""
    pictured = config.pictures if shape.image_tokens else 0.0
    length = config.tokens + pictured * shape.image_tokens
    total = sum(batch.values())
    micro = config.micro_batch or max(1, int(MICRO_TOKENS / length))
    accumulation = -(-total // (micro * config.gpus))
    examples = -(-total // (accumulation * config.gpus))
    tokens = round(examples * length)
    longest = config.tokens + (shape.image_tokens if pictured else 0)
    row = max(min(max(shape.hidden, ROW_BOUNDS[0]), ROW_BOUNDS[1]), longest)
    share = min(1.0, total * length / (config.gpus * accumulation * tokens))
    return Load(
        tokens, -(-tokens // row), examples * config.scored, math.ceil(examples * pictured), accumulation, share
    )


def reference_kind(objective: Objective, *, asked: str, full: bool, other_model: bool = False) -> Reference:
    """Where the reference comes from, as ``recipes.reference`` chooses it."""
    if not objective.needs.reference:
        return "none"
    if other_model or asked == "copy":
        return "copy"
    if asked == "adapter" or (asked == "auto" and not full):
        return "adapter"
    return "cache"


def planned_shape(
    model: str, name: str, *, full: bool, lora_r: int, objective: Objective, layers: tuple[int, ...] | None = None
) -> Shape:
    """The model as a run trains it: LoRA, or all of the language model, on the blocks that the objective or ``layers``
    names.

    Raises:
        UserError: an unknown model. ConfigError: a layer it does not have.
    """
    layers = layers or objective.train_layers
    if layers is None and objective.needs.depth is not None:
        layers = tuple(range(objective.needs.depth))
    module, config, family = meta_model(model, lora_r=None if full or layers else lora_r, full=full)
    _check_layers((*objective.needs.layers, *(layers or ())), len(family.blocks(module)), name)
    if layers is not None and full:
        freeze_but_blocks(family, module, layers)
    elif layers is not None:
        with torch.device("meta"):
            module = add_lora(module, lora_r, 2.0 * lora_r, family, layers=layers)
    return shape_of(module, config, name)


def _check_layers(layers: Sequence[int], blocks: int, name: str) -> None:
    wrong = [layer for layer in layers if layer >= blocks]
    if wrong:
        raise ConfigError(
            f"the objective looks at layer {wrong[0]}, but {name} has {blocks} decoder blocks (0 to {blocks - 1}): set "
            f"another, e.g. --set layer={blocks // 2}."
        )


def job_of(config: PlanConfig, objective: Objective, shape: Shape, gpu: Gpu) -> Job:
    """The job at ZeRO stage 0."""
    load = load_of(config, examples_per_step(config, objective), shape)
    return Job(
        shape=shape,
        gpus=config.gpus,
        gpus_per_node=min(config.gpus, config.gpus_per_node),
        full=config.full,
        bf16=config.dtype == "bf16" or (config.dtype == "auto" and gpu.name != "cpu"),
        checkpointing=config.gradient_checkpointing == "on",
        tokens=load.tokens,
        rows=load.rows,
        scored=load.scored,
        pictures=load.pictures,
        accumulation=load.accumulation,
        share=load.share,
        reference=reference_kind(objective, asked=config.reference, full=config.full),
        depth=objective.needs.depth,
        attention="flash" if config.attention == "flash_attention_2" else "sdpa",
        frozen_tower_cached=config.tower_cache == "on",
        nf4=config.base_weights == "nf4",
    )
