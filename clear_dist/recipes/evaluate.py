"""Ask models about every set, score the answers, and write records, summary and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from clear_dist.config import EvaluateConfig
from clear_dist.data.images import decode
from clear_dist.data.load import Dataset
from clear_dist.data.prompts import INFORMATION_QUESTION
from clear_dist.data.views import open_queries
from clear_dist.engine.deterministic import machine
from clear_dist.engine.ds_config import check_ds_config, load_ds_config
from clear_dist.engine.world import World, barrier, joined
from clear_dist.evaluation.aftermath import with_labels
from clear_dist.evaluation.clip import with_clip_scores
from clear_dist.evaluation.records import write_records
from clear_dist.evaluation.summary import summarise, write_summary
from clear_dist.metrics.record import Record
from clear_dist.metrics.truth_ratio import Mean
from clear_dist.models import ModelInfo, inspect_model, with_base_weights
from clear_dist.models.clip import inspect_clip, load_clip
from clear_dist.services.progress import console, say
from clear_dist.services.rundir import write_run
from clear_dist.types import Example, SetName

from .answers import Asking, records_of
from .common import (
    Stopwatch,
    check_examples,
    claim,
    is_finished,
    limited,
    model_dir,
    open_data,
    release_claim,
    spells,
)

PICTURE_SIDE = 192  # pixels, of the pictures kept for the report
PICTURES_KEPT = 400  # of each set
OPEN_QUERIES = 100  # pictures asked the open query where none is unseen


def run(config: EvaluateConfig) -> None:
    """``clear-dist evaluate`` and ``launchers/evaluate.py``."""
    folders: dict[str, str | Path] = {}
    if config.original:
        folders["original"] = config.original
    folders[config.name] = config.model
    if config.gold:
        folders["gold"] = config.gold
    flags = {"original": "--original", "gold": "--gold"} | {config.name: "--model"}
    infos = {name: inspect_model(model_dir(folder, flags[name])) for name, folder in folders.items()}
    kept = with_base_weights(infos[config.name], config.base_weights).base_weights  # alike, for all of them
    check_ds_config(load_ds_config(config.ds), f"--ds {config.ds}")
    if config.clip is not None:
        inspect_clip(config.clip)
    with joined(deterministic=config.deterministic) as world:
        _evaluate(config, folders, infos, kept, world)


def _evaluate(
    config: EvaluateConfig, folders: dict[str, str | Path], infos: dict[str, ModelInfo], kept: str, world: World
) -> None:
    out = config.run_dir()
    if is_finished(out, config):
        say(f"{out}: this evaluation is finished already; its report is {out / 'index.html'}", world.main)
        return
    data = open_data(config, world)
    for info in infos.values():
        check_examples(limited(data.sets, config.eval_limit), info, config.max_length)
    claim(config, world, out)
    facts: dict[str, object] = {"seeds": {"seed": config.seed}, "ranks": world.size, "data_digest": data.digest}
    facts |= {"machine": machine(world.device)}
    facts |= {"models": {name: str(folder) for name, folder in folders.items()}, "people": data.people}
    if world.main:
        write_run(out, config, finished=False, **facts)
    seconds = Stopwatch()
    compare(
        folders,
        data,
        world,
        out,
        limit=config.eval_limit,
        asking=Asking(config.max_length, config.max_new_tokens, config.ds, config.pass_tokens, kept),
        truth_ratio=config.truth_ratio,
        clip=config.clip,
        watch=seconds,
    )
    if world.main:
        write_run(out, config, finished=True, seconds=seconds.seconds, **facts)
    release_claim(out)


def compare(
    folders: Mapping[str, str | Path],
    data: Dataset,
    world: World,
    out: Path,
    *,
    limit: int | None = None,
    asking: Asking | None = None,
    truth_ratio: Mean = "geometric",
    clip: str | None = None,
    watch: Stopwatch | None = None,
) -> None:
    """Evaluate models side by side into ``out``: records.jsonl, summary.json, pictures/, index.html, report.md.

    Every rank asks its share of the questions, of a whole model or of one cut into shards (``Asking``). What is on disk
    already, from an evaluation that was stopped, is not asked again; records of models that do not change (original,
    gold) are kept in the cache under digests of model, data and settings.
    """
    sets = asked_sets(data, folders, limit)
    watch = watch or Stopwatch()
    records: list[Record] = []
    with watch("evaluate"):
        for name in sorted(folders, key=_ORDER.index if set(folders) <= set(_ORDER) else str):
            records += records_of(name, folders[name], sets, data.digest, world, out, asking or Asking())
    if world.main:
        if clip is not None:
            with watch("clip"):
                records = with_clip_scores(records, sets, load_clip(clip, device=world.device))
        records = with_labels(records, sets)
        write_records(out / "records.jsonl", records)
        keep_pictures(sets, out / "pictures")
        conclude(out, records, sets["forget"], truth_ratio=truth_ratio, seconds=watch.seconds)
    barrier(world)


def conclude(
    out: Path,
    records: Sequence[Record],
    forget: Sequence[Example],
    *,
    truth_ratio: Mean = "geometric",
    seconds: Mapping[str, float] | None = None,
) -> None:
    """``summary.json``, the report, and a table on the terminal; on rank 0."""
    # Only here: matplotlib is slow to import.
    from clear_dist.report.build import report
    from clear_dist.report.tables import compare_table

    summary = summarise(records, forget=forget, truth_ratio=truth_ratio, seconds=seconds)
    write_summary(out / "summary.json", summary)
    report(out)
    console.print(compare_table(summary))
    say(f"report: {out / 'index.html'}")


def asked_sets(data: Dataset, folders: Mapping[str, str | Path], limit: int | None) -> dict[SetName, list[Example]]:
    """What every model is asked: the sets, and the open query on forget pictures if all models can read it."""
    sets = limited(data.sets, limit)
    infos = [inspect_model(model_dir(folder, f"--{name}")) for name, folder in folders.items()]
    sets["forget"] = [*sets.get("forget", []), *open_queries_of(sets.get("forget", []), infos)]
    return sets


def open_queries_of(forget: Sequence[Example], infos: Sequence[ModelInfo]) -> list[Example]:
    """PUBG's open query on forget pictures (unseen ones where there are any), if every model can read it."""
    if not all(spells(INFORMATION_QUESTION, info) for info in infos):
        return []
    captions = [e for e in forget if e.kind == "caption" and e.picture is not None]
    asked = [e for e in captions if not e.seen] or captions[:OPEN_QUERIES]
    return [replace(q, kind="describe") for q in open_queries(asked)]


_ORDER = ("original", "gold", "unlearned")


def keep_pictures(sets: Mapping[SetName, list[Example]], folder: Path) -> None:
    """Small PNGs named by digest, for the report."""
    folder.mkdir(parents=True, exist_ok=True)
    for examples in sets.values():
        kept = 0
        for example in examples:
            if example.picture is None or kept >= PICTURES_KEPT:
                continue
            path = folder / f"{example.picture.digest}.png"
            if not path.exists():
                image = decode(example.picture).convert("RGB")
                image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
                image.save(path)
                kept += 1
