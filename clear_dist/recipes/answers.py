"""What one model says of every set: asked in rounds on all ranks, kept after each, never asked twice.

Rounds are cut from the fixed order of the examples, so an evaluation that was stopped goes on with the first round that
is not whole on disk. Lines of a model are trusted only under the key they were made for: digests of weights, data and
settings, in ``records.keys.json`` beside them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from clear_dist.data.clear import cache_directory
from clear_dist.engine.ds_config import load_ds_config
from clear_dist.engine.predict import ModelPredictor
from clear_dist.engine.shard import shard_model, stage_of
from clear_dist.engine.world import World, agree, gather
from clear_dist.evaluation.control import shuffle_pictures
from clear_dist.evaluation.distributed import merge, shard
from clear_dist.evaluation.predict import MAX_NEW_TOKENS, evaluate
from clear_dist.evaluation.records import RecordWriter, read_records, write_records
from clear_dist.metrics.record import Record, control_name
from clear_dist.models import ModelInfo, inspect_model, load_model, weights_digest, with_base_weights
from clear_dist.reading import json_value
from clear_dist.services.progress import say, task
from clear_dist.types import Example, Predictor, SetName, UserError

from .common import model_dir, only_on_main

ROUND = 512  # examples of a round, for each rank
FORMAT = 2  # of what a cached record holds; older ones are made again
FITS = 0.6  # share of a GPU's memory that whole weights may take
KEPT = ("original", "gold")  # models that other runs ask the same: kept in the cache

Asked = Mapping[SetName, Sequence[Example]]


@dataclass(frozen=True)
class Asking:
    """How models are asked. ds: a DeepSpeed file; with ZeRO stage 3 a model is cut into shards over the ranks (None:
    only where a rank's GPU could not hold it). pass_tokens: tokens of one forward pass (None: by device). base_weights:
    auto, full or nf4, as the flag says.
    """

    max_length: int = 512
    max_new_tokens: int = MAX_NEW_TOKENS
    ds: Path | None = None
    pass_tokens: int | None = None
    base_weights: str = "auto"


def records_of(
    name: str, folder: str | Path, sets: Asked, data_digest: str, world: World, out: Path, asking: Asking
) -> list[Record]:
    """Every record of one model, on rank 0 (other ranks get none); lines go to ``out/records.jsonl`` round by round.

    The original is also asked for names with the pictures shuffled: they must all be wrong.
    """
    info = with_base_weights(inspect_model(model_dir(folder, f"--{name}")), asking.base_weights)
    key = only_on_main(world, lambda: _key(name, info, sets, data_digest, asking))
    cache = cache_directory() / "records" / f"{name}-{key[:24]}.jsonl"
    if only_on_main(world, cache.is_file):
        say(f"evaluating {name}: from the cache", world.main)
        return list(read_records(cache)) if world.main else []
    control = shuffled_names(sets) if name == "original" else {}
    kept = only_on_main(world, lambda: _kept(out, name, key))
    rounds = [(name, part) for part in _rounds(sets, ROUND * world.size)]
    rounds += [(control_name(name), part) for part in _rounds(control, ROUND * world.size)]
    total, done = sum(_size(part) for _, part in rounds), 0
    found: list[Record] = []
    predictor: ModelPredictor | None = None
    with task(f"evaluating {name}", total, world.main) as bar:

        def tick(count: int) -> None:
            nonlocal done
            done += count * world.size  # ranks have about equal shares
            if bar is not None:
                bar.update(min(done, total - 1))

        for model, part in rounds:
            wanted = [(model, s, e.id) for s, rows in part.items() for e in rows]
            if agree(world, world.main and all(k in kept for k in wanted)):
                found += [kept[k] for k in wanted] if world.main else []
                done += len(wanted)
                continue
            predictor = predictor or _predictor(info, world, asking, tick)
            records = ask(predictor, part, model, world, asking.max_new_tokens)
            if world.main:
                with RecordWriter(out / "records.jsonl") as writer:
                    writer.write(records)
            found += records
        if bar is not None:
            bar.update(total)
    if world.main and name in KEPT:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_records(cache, found)
    return found if world.main else []


def ask(predictor: Predictor, examples: Asked, model: str, world: World, max_new_tokens: int) -> list[Record]:
    """Records of one round, in order, on every rank. A mistake that one rank finds is every rank's."""
    records: list[Record] = []
    mistake = None
    try:
        mine = shard(examples, world.rank, world.size)
        records = evaluate(predictor, mine, model=model, max_new_tokens=max_new_tokens)
    except UserError as error:
        mistake = str(error)
    shares = gather(world, (records, mistake))
    for _, text in shares:
        if text is not None:
            raise UserError(text)
    return merge([share for share, _ in shares], examples)


def shuffled_names(sets: Asked) -> dict[SetName, list[Example]]:
    """The questions for names of forget and retain, each with another person's picture."""
    people: dict[SetName, list[Example]] = {
        k: [e for e in v if e.kind == "name"] for k, v in sets.items() if k in ("forget", "retain")
    }
    return shuffle_pictures(people) if any(people.values()) else {}


def _predictor(info: ModelInfo, world: World, asking: Asking, tick: Callable[[int], None]) -> ModelPredictor:
    settings = load_ds_config(asking.ds) if asking.ds is not None else {}
    cut = info.base_weights == "full" and world.size > 1 and (stage_of(settings) == 3 or not _fits(info, world))
    model = load_model(info, attention="sdpa", device=None if cut else world.device)
    return ModelPredictor(
        model,
        max_length=asking.max_length,
        token_budget=asking.pass_tokens,
        on_progress=tick,
        inside=shard_model(model, world, settings) if cut else None,
        world=world,
    )


def _fits(info: ModelInfo, world: World) -> bool:
    if world.device.type != "cuda":
        return True
    return info.bytes < FITS * torch.cuda.get_device_properties(world.device).total_memory


def _key(name: str, info: ModelInfo, sets: Asked, data_digest: str, asking: Asking) -> str:
    ids = {k: [e.id for e in v] for k, v in sets.items()}
    settings = json.dumps([FORMAT, data_digest, asking.max_length, asking.max_new_tokens, ids])
    weights = f"{weights_digest(info.adapter or info.path)}{'' if info.base_weights == 'full' else info.base_weights}"
    return hashlib.sha256(f"{name}\n{weights}\n{info.path}\n{settings}".encode()).hexdigest()


def _kept(out: Path, name: str, key: str) -> dict[tuple[str, str, str], Record]:
    """Lines of this model on disk, if they were made under this very key; others of it are dropped."""
    path, keys = out / "records.jsonl", out / "records.keys.json"
    try:
        known = json_value(keys.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or damaged: nothing is known of the lines there
        known = {}
    known = known if isinstance(known, dict) else {}
    own = f"{name}/"  # its control, and robustness attacks on it
    RecordWriter(path).close()  # cuts off a line that a killed run left half-written
    there = read_records(path)
    mine = [r for r in there if r.model == name or r.model.startswith(own)]
    if known.get(name) != key:
        if mine:
            write_records(path, [r for r in there if r.model != name and not r.model.startswith(own)])
        temporary = keys.with_name(keys.name + ".partial")
        temporary.write_text(json.dumps({**known, name: key}, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, keys)
        return {}
    return {(r.model, r.set, r.id): r for r in mine}


def _size(part: Asked) -> int:
    return sum(map(len, part.values()))


def _rounds(sets: Asked, size: int) -> Iterable[dict[SetName, list[Example]]]:
    """The examples in order, about ``size`` at a time; questions on one picture are not torn apart."""
    part: dict[SetName, list[Example]] = {}
    last: str | None = None
    for name, rows in sets.items():
        for example in rows:
            digest = None if example.picture is None else example.picture.digest
            if _size(part) >= size and (digest is None or digest != last):
                yield part
                part = {}
            part.setdefault(name, []).append(example)
            last = digest
    if part:
        yield part
