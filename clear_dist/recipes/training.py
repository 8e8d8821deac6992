"""Training as every recipe does it: model, views and objective in; weights on disk out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clear_dist.config import TrainFields
from clear_dist.data.encode import encode_all
from clear_dist.engine.checkpoint_files import published
from clear_dist.engine.ds_config import RunNumbers
from clear_dist.engine.export import all_tensors, release, trainable_tensors
from clear_dist.engine.loop import Trained, TrainSettings, train
from clear_dist.engine.monitor import Monitor
from clear_dist.engine.step import StepModule
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.engine.world import World, agree, barrier, ranks_per_node
from clear_dist.methods import Objective
from clear_dist.models import (
    Model,
    ModelInfo,
    add_lora,
    check_compile,
    check_nf4,
    check_plain,
    compile_blocks,
    enable_checkpointing,
    freeze_but_blocks,
    freeze_tower,
    load_model,
    parameter_counts,
    save_adapter,
    save_merged,
)
from clear_dist.services.progress import say, task
from clear_dist.types import Example, UserError, View

from .keep import KeepBest
from .plan_run import DsChoice, choose_ds, resolved_ds
from .tower import check_tower, keep_tower, keeps_tower

MICRO_TOKENS = 16_384  # tokens of one forward pass where --micro-batch does not say otherwise
ROW_BOUNDS = (128, 2048)


@dataclass(frozen=True)
class Plan:
    """A training run, resolved: what ``--dry-run`` prints."""

    objective: Objective
    batch: Mapping[View, int]
    steps_per_epoch: int
    total_steps: int
    accumulation: int
    row_length: int
    bf16: bool
    ds: DsChoice

    def numbers(self, config: TrainFields, world: World) -> RunNumbers:
        """What fills the DeepSpeed configuration's gaps."""
        return RunNumbers(
            world_size=world.size,
            global_batch=self.batch[primary_view(self.batch)],
            accumulation=self.accumulation,
            bf16=self.bf16,
            lr=config.lr,
            weight_decay=config.weight_decay,
            device=world.device.type,
            ranks_per_node=ranks_per_node(world),
        )

    def lines(self, config: TrainFields, world: World) -> list[str]:
        views = ", ".join(f"{n} {v}" for v, n in self.batch.items())
        return [
            f"objective      {self.objective}",
            f"examples/step  {views} (over {world.size} rank(s) x {self.accumulation} accumulation)",
            f"steps          {self.total_steps} ({self.steps_per_epoch} an epoch)",
            f"precision      {'bf16' if self.bf16 else 'fp32'} on {world.device.type}",
            f"weights        {'full' if config.full else f'LoRA r={config.lora_r} alpha={config.lora_alpha:g}'}",
            f"DeepSpeed      {self.ds.why}",
        ]


def make_plan(
    config: TrainFields,
    info: ModelInfo,
    objective: Objective,
    pools: Mapping[View, Sequence[Example]],
    batch: Mapping[View, int],
    world: World,
    *,
    reference: Mapping[View, Sequence[Example]] | None = None,
) -> tuple[Plan, Stream]:
    """Resolve batch sizes, steps and rows; encodes every example, so all data errors appear here.

    ``reference``: what the reference reads on views where that is not what the student reads.
    """
    processor = info.processor
    encoded = {view: encode_all(pool, processor, config.max_length) for view, pool in pools.items()}
    lengths = [e.length for pool in encoded.values() for e in pool]
    micro = config.micro_batch or max(1, int(MICRO_TOKENS / (sum(lengths) / len(lengths))))
    accumulation = -(-sum(batch.values()) // (micro * world.size))
    hidden = int(getattr(info.family.text_config(info.config), "hidden_size", ROW_BOUNDS[0]))
    settings = StreamSettings(
        batch=batch,
        seed=config.seed,
        questions_per_picture=config.questions_per_picture,
        max_length=config.max_length,
        row_length=min(max(hidden, ROW_BOUNDS[0]), ROW_BOUNDS[1]),
        accumulation=accumulation,
        layout=config.layout,
        one_run_per_picture=True,
    )
    stream = Stream(
        pools,
        processor,
        settings,
        world.rank,
        world.size,
        encoded=encoded,
        needs=objective.needs,
        reference=reference,
    )
    primary = primary_view(batch)
    steps_per_epoch = max(1, -(-stream.examples_per_epoch(primary) // batch[primary]))
    bf16 = config.dtype == "bf16" or (config.dtype == "auto" and torch.cuda.is_available())
    total = getattr(config, "steps", None) or steps_per_epoch * config.epochs
    ds = choose_ds(config, info, objective, stream, world)
    plan = Plan(objective, dict(batch), steps_per_epoch, total, accumulation, settings.row_length, bf16, ds)
    resolved_ds(ds, plan.numbers(config, world))  # contradictions show before a weight is loaded
    check_tower(config, info)
    stage = int(ds.config.get("zero_optimization", {}).get("stage", 0))
    if config.compile:
        check_compile(stage, world.device)
    if info.base_weights == "nf4":
        check_packed(config, stage)
    if info.adapter is not None and not config.full:
        check_plain(info.adapter)
    return plan, stream


def check_packed(config: TrainFields, stage: int) -> None:
    """Raises UserError where training cannot go on top of 4-bit weights."""
    check_nf4()
    if config.full or getattr(config, "merge", False) or config.compile:
        raise UserError(
            "the original's weights are in 4 bits, as its adapter was made: train with LoRA, and without --full, "
            "--merge and --compile; --base-weights full takes the weights as they are stored"
        )
    if stage == 3:
        raise UserError(
            f"--ds {config.ds}: ZeRO stage 3 does not shard 4-bit weights (--base-weights nf4): use stage 0, 1 or 2; "
            "a quarter of the memory is what they need on every GPU"
        )


def primary_view(batch: Mapping[View, int]) -> View:
    """The view whose passes are counted as epochs: what is to be forgotten, else what is trained on."""
    order = (View.FORGET, View.PRIVATE, View.IDK, View.RANDOM, View.SAFE, View.GUIDE, View.AUGMENTED, View.RETAIN)
    return next(v for v in order if v in batch)


def prepare_model(config: TrainFields, info: ModelInfo, plan: Plan, layers: tuple[int, ...] | None = None) -> Model:
    """The student: LoRA on the language model, or everything but the vision tower; only on decoder blocks ``layers``
    where they are given."""
    model = _load(config, info, plan.bf16)
    if config.full:
        freeze_tower(model.family, model.module)
        if layers is not None:
            freeze_but_blocks(model.family, model.module, layers)
    else:
        model.module = add_lora(
            model.module, config.lora_r, config.lora_alpha, model.family, seed=config.seed, layers=layers
        )
    if plan.ds.recompute:
        enable_checkpointing(model.module)
    if config.compile:
        compile_blocks(model.family, model.module)
    model.module.train()
    return model


def frozen_copy(config: TrainFields, info: ModelInfo, bf16: bool) -> Model:
    """A second, frozen model as the reference (ZeRO-3 shards it with the rest)."""
    model = _load(config, info, bf16)
    model.module.requires_grad_(False)
    return model


def _load(config: TrainFields, info: ModelInfo, bf16: bool) -> Model:
    """Dense packing needs a mask, which flash-attention does not take: attention ``auto`` follows the layout."""
    attention = config.attention
    if attention == "auto" and config.layout != "varlen":
        attention = "sdpa"
    return load_model(info, dtype="bf16" if bf16 else "fp32", attention=attention, device="cpu")


def fit(
    config: TrainFields,
    run_dir: Path,
    title: str,
    plan: Plan,
    stream: Stream,
    model: Model,
    world: World,
    *,
    resume: bool,
    reference: Model | None = None,
    prepare: Callable[[StepModule, Any], None] | None = None,
    monitored: Mapping[str, Sequence[Example]] | None = None,
    keep_best: bool = False,
) -> tuple[Trained, KeepBest | None]:
    """Train, with progress on rank 0; and, with ``keep_best``, the weights the rule of ``keep`` chose among those
    evaluated. ``prepare`` gets the module and its engine before the first step."""
    total, trainable = parameter_counts(model.module)
    say(
        f"{title}: {plan.total_steps} steps, {trainable:,} of {total:,} parameters train on {world.size} rank(s)",
        world.main,
    )
    settings = TrainSettings(
        run_dir=run_dir,
        total_steps=plan.total_steps,
        lr=config.lr,
        weight_decay=config.weight_decay,
        warmup=config.warmup,
        schedule=config.schedule,
        bf16=plan.bf16,
        global_batch=plan.batch[primary_view(plan.batch)],
        accumulation=plan.accumulation,
        ds_config=plan.ds.config,
        ds_source=plan.ds.source,
        resume=resume and agree(world, bool(published(run_dir / "checkpoints"))),
        checkpoint_every=config.checkpoint_every or plan.steps_per_epoch,
        keep_checkpoints=config.keep_checkpoints,
        stop_after=config.max_steps,
        tracker=config.tracker,
        eval_every=config.eval_every,
        prefetch=config.prefetch,
        max_skipped=config.max_skipped_steps,
        hang_seconds=60 * config.hang_minutes,
    )
    module = StepModule(model.module, model.family, None if reference is None else reference.module)
    keeping = keeps_tower(config, module)
    keep = KeepBest(run_dir, module, world) if keep_best else None
    on_eval = monitor = None
    if monitored and config.eval_every:
        asked = monitor = Monitor(monitored, model.processor, plan.row_length, config.max_length, world, config.layout)

        def measure(engine: Any, step: int) -> Mapping[str, float]:
            figures = asked.measure(engine, step)
            if keep is not None:
                keep.on_eval(step, figures)
            return figures

        on_eval = measure
    stop = min(plan.total_steps, config.max_steps or plan.total_steps)
    with ExitStack() as inside, task(title, stop, world.main) as bar:

        def before(engine: Any) -> dict[str, float]:
            spent: dict[str, float] = {}
            if prepare is not None:
                began = time.perf_counter()
                prepare(module, engine)
                spent["reference_seconds"] = time.perf_counter() - began
            if keeping:
                spent |= keep_tower(config, module, engine, stream, monitor, range(stop), world, inside)
            return spent

        def on_step(done: int, line: Mapping[str, Any]) -> None:
            if bar is not None:
                loss = "left out" if "skipped" in line else f"loss {line['loss']:.3f}"
                bar.update(done, f"{loss}  {line['tokens_per_s']:,.0f} tok/s")
            if "skipped" in line:
                say(f"step {done} left out: {line['skipped']}", world.main)

        def on_start(filled: Sequence[str]) -> None:
            for line in filled:
                say(f"  ds: {line}", world.main and config.ds is not None)

        def on_resume(step: int) -> None:
            say(f"{title}: goes on from the checkpoint of step {step}", world.main)
            if bar is not None:
                bar.begin_at(step)

        trained = train(
            module,
            plan.objective,
            stream,
            settings,
            world,
            on_start=on_start,
            prepare=before,
            on_step=on_step,
            on_eval=on_eval,
            on_damage=lambda text: say(f"checkpoint damaged: {text}", world.main),
            on_resume=on_resume,
        )
    return trained, keep


def export(
    config: TrainFields,
    run_dir: Path,
    trained: Trained,
    model: Model,
    info: ModelInfo,
    world: World,
    *,
    merge: bool,
    keep: KeepBest | None = None,
) -> Path:
    """Write ``adapter/`` (LoRA) or ``model/`` (full, or merged on request) and free the engine; returns the folder to
    load the result from. ``keep``: the chosen weights instead of the last. A collective: every rank calls it."""
    lora = not config.full
    adapter, whole = run_dir / "adapter", run_dir / "model"
    state = trainable_tensors(trained, world) if lora and not merge else all_tensors(trained, world)
    if keep is not None and keep.step is not None:
        say(f"kept: the weights of step {keep.step} of {trained.steps}", world.main)
        state |= keep.tensors() or {}
    if world.main:
        if lora:
            names = {n for n, p in model.module.named_parameters() if p.requires_grad}
            kept = {n: t for n, t in state.items() if n in names}
            base, beneath = info.path.resolve(), model.beneath
            save_adapter(model.module, kept, adapter, model.processor, base=base, beneath=beneath)
        if merge or not lora:
            save_merged(model.module, state, whole, model.processor)
    barrier(world)
    release(trained)
    return adapter if lora else whole
