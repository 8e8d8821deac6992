"""Ask models about every set, score the answers, and write records, summary and report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from clear_dist.config import EvaluateConfig
from clear_dist.data.clear import cache_directory
from clear_dist.data.images import decode
from clear_dist.data.load import Dataset
from clear_dist.data.prompts import INFORMATION_QUESTION
from clear_dist.data.views import open_queries
from clear_dist.engine.predict import ModelPredictor
from clear_dist.engine.world import World, barrier, close_world, gather, init_world
from clear_dist.evaluation.control import shuffle_pictures
from clear_dist.evaluation.distributed import merge, shard
from clear_dist.evaluation.predict import MAX_NEW_TOKENS, evaluate
from clear_dist.evaluation.records import write_records
from clear_dist.evaluation.summary import summarise, write_summary
from clear_dist.metrics.record import Record, control_name, read_records
from clear_dist.models import ModelInfo, inspect_model, load_model, weights_digest
from clear_dist.services.progress import console, say, task
from clear_dist.services.rundir import write_run
from clear_dist.types import Example, SetName

from .common import Stopwatch, check_examples, claim, limited, model_dir, only_on_main, open_data, release_claim, spells

PICTURE_SIDE = 192  # pixels, of the pictures kept for the report
PICTURES_KEPT = 400  # of each set
OPEN_QUERIES = 100  # pictures asked the open query where none is unseen


def run(config: EvaluateConfig) -> None:
    """``clear-dist evaluate``."""
    folders: dict[str, str | Path] = {}
    if config.original:
        folders["original"] = config.original
    folders[config.name] = config.model
    if config.gold:
        folders["gold"] = config.gold
    flags = {"original": "--original", "gold": "--gold"} | {config.name: "--model"}
    infos = [inspect_model(model_dir(folder, flags[name])) for name, folder in folders.items()]
    world = init_world()
    data = open_data(config, world)
    for info in infos:
        check_examples(limited(data.sets, config.eval_limit), info, config.max_length)
    out = config.run_dir()
    claim(config, world, out)
    if world.main:
        write_run(out, config, finished=False, seeds={"seed": config.seed}, data_digest=data.digest)
    seconds = Stopwatch()
    compare(
        folders,
        data,
        world,
        out,
        limit=config.eval_limit,
        max_length=config.max_length,
        max_new_tokens=config.max_new_tokens,
        watch=seconds,
    )
    if world.main:
        write_run(
            out, config, finished=True, seeds={"seed": config.seed}, data_digest=data.digest, seconds=seconds.seconds
        )
    release_claim(out)
    close_world()


def compare(
    folders: Mapping[str, str | Path],
    data: Dataset,
    world: World,
    out: Path,
    *,
    limit: int | None = None,
    max_length: int = 512,
    max_new_tokens: int = MAX_NEW_TOKENS,
    watch: Stopwatch | None = None,
) -> None:
    """Evaluate models side by side into ``out``: records.jsonl, summary.json, pictures/, index.html, report.md.

    Every rank asks its share of the questions of a whole model. Records of models that do not change (original,
    gold) are kept in the cache under digests of model, data and settings.
    """
    sets = limited(data.sets, limit)
    infos = [inspect_model(model_dir(folder, f"--{name}")) for name, folder in folders.items()]
    sets["forget"] = [*sets.get("forget", []), *open_queries_of(sets.get("forget", []), infos)]
    watch = watch or Stopwatch()
    records: list[Record] = []
    with watch("evaluate"):
        for name in sorted(folders, key=_ORDER.index if set(folders) <= set(_ORDER) else str):
            records += _records_of(name, folders[name], sets, data.digest, world, max_length, max_new_tokens)
    if world.main:
        # Only rank 0 draws: matplotlib is slow to import.
        from clear_dist.report.build import report
        from clear_dist.report.tables import compare_table

        write_records(out / "records.jsonl", records)
        summary = summarise(records, forget=sets["forget"], seconds=watch.seconds)
        write_summary(out / "summary.json", summary)
        _keep_pictures(sets, out / "pictures")
        report(out)
        console.print(compare_table(summary))
        say(f"report: {out / 'index.html'}")
    barrier(world)


def open_queries_of(forget: Sequence[Example], infos: Sequence[ModelInfo]) -> list[Example]:
    """PUBG's open query on forget pictures (unseen ones where there are any), if every model can read it."""
    if not all(spells(INFORMATION_QUESTION, info) for info in infos):
        return []
    captions = [e for e in forget if e.kind == "caption" and e.picture is not None]
    asked = [e for e in captions if not e.seen] or captions[:OPEN_QUERIES]
    return [replace(q, kind="describe") for q in open_queries(asked)]


_ORDER = ("original", "gold", "unlearned")


def _records_of(
    name: str,
    folder: str | Path,
    sets: Mapping[SetName, list[Example]],
    data_digest: str,
    world: World,
    max_length: int,
    max_new_tokens: int,
) -> list[Record]:
    info = inspect_model(model_dir(folder, f"--{name}"))
    settings = json.dumps([data_digest, max_length, max_new_tokens, {k: [e.id for e in v] for k, v in sets.items()}])
    weights = only_on_main(world, lambda: weights_digest(info.adapter or info.path))
    key = hashlib.sha256(f"{name}\n{weights}\n{info.path}\n{settings}".encode()).hexdigest()
    cache = cache_directory() / "records" / f"{name}-{key[:24]}.jsonl"
    if only_on_main(world, cache.is_file):
        say(f"evaluating {name}: from the cache", world.main)
        return list(read_records(cache)) if world.main else []

    model = load_model(info, device=world.device)
    questions = dict(sets)
    control: dict[SetName, list[Example]] = {}
    if name == "original":  # is the picture looked at? names must fail on other people's pictures
        people: dict[SetName, list[Example]] = {
            k: [e for e in v if e.kind == "name"] for k, v in sets.items() if k in ("forget", "retain")
        }
        control = shuffle_pictures(people) if any(people.values()) else {}
    mine, mine_control = shard(questions, world.rank, world.size), shard(control, world.rank, world.size)
    total = sum(map(len, mine.values())) + sum(map(len, mine_control.values()))
    with task(f"evaluating {name}", 2 * total, world.main) as bar:
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            if bar is not None:
                bar.update(min(done, 2 * total - 1))

        predictor = ModelPredictor(model, max_length=max_length, on_progress=tick)
        share = evaluate(predictor, mine, model=name, max_new_tokens=max_new_tokens)
        shuffled = evaluate(predictor, mine_control, model=control_name(name), max_new_tokens=max_new_tokens)
        if bar is not None:
            bar.update(2 * total)
    records = merge(gather(world, share), questions)
    if control:
        records += merge(gather(world, shuffled), control)
    if world.main and name in ("original", "gold"):
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_records(cache, records)
    return records if world.main else []


def _keep_pictures(sets: Mapping[SetName, list[Example]], folder: Path) -> None:
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
