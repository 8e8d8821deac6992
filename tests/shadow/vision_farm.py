"""A farm small enough for tests: striped pictures, a tiny network, tasks of a second or less."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import torch

from clear_dist.data.identities import Identities, digest_of
from clear_dist.data.identity_cache import write_identities
from clear_dist.shadow.folder import create_farm, opened
from clear_dist.shadow.plan import Layout, layout_of, tasks_of
from clear_dist.shadow.presets import PRESETS, methods_of
from clear_dist.shadow.results import head_of
from clear_dist.shadow.settings import FarmSettings, Network, Training, to_json
from clear_dist.shadow.sidecars import Done, read_sidecars
from clear_dist.shadow.task import RunnerRef, Task
from clear_dist.shadow.worker import work

SIDE, PEOPLE, PICTURES = 16, 14, 7
RUNNER = "clear_dist.shadow.run:make_runner"


def identities(people: int = PEOPLE, pictures: int = PICTURES, seed: int = 0, alike: int | None = None) -> Identities:
    """Every person is a pattern, every picture of them that pattern under noise; those of ``alike`` are the same."""
    g = torch.Generator().manual_seed(seed)
    patterns = torch.rand(people, 3, SIDE, SIDE, generator=g)
    noise = torch.rand(people, pictures, 3, SIDE, SIDE, generator=g)
    if alike is not None:
        noise[alike] = noise[alike, :1]
    pixels = (255 * (0.7 * patterns[:, None] + 0.3 * noise)).to(torch.uint8).flatten(0, 1)
    labels = torch.arange(people).repeat_interleave(pictures)
    names = tuple(f"p{i:02d}" for i in range(people))
    ids = tuple(f"p{i:02d}/{j}.png" for i in range(people) for j in range(pictures))
    return Identities(pixels, labels, names, ids, digest_of(pixels, labels, names, ids), "stripes")


def settings(data: Identities, methods: tuple[str, ...] = ("retain_ft", "npo"), **changes: object) -> FarmSettings:
    preset = PRESETS["mini"]
    # Rates for a dozen pictures, whatever the preset's are: larger ones push embeddings to the ends of the scale.
    chosen = {
        name: replace(m, epochs=1.0, batch=16, lr=min(m.lr, 0.01), repeat=1)
        for name, m in methods_of(methods, preset).items()
    }
    base = FarmSettings(
        images=data.source,
        digest=data.digest,
        size=SIDE,
        models=4,
        forget=2,
        holdout=2,
        pretrain=3,
        shadow=Training(2, 0.05, 16),
        pretraining=Training(1, 0.05, 16, augment="shift"),
        methods=chosen,
        network=Network(size="tiny"),
        enrol=2,
    )
    return replace(base, **changes)  # pyright: ignore[reportArgumentType]


def planned(data: Identities, chosen: FarmSettings) -> tuple[Layout, list[Task]]:
    layout = layout_of(chosen, len(data.names))
    return layout, tasks_of(chosen, layout)


def make_farm(folder: Path, data: Identities, chosen: FarmSettings, pretrain: Identities | None = None) -> Path:
    """A planned farm in ``folder``, its pictures (and those of ``pretrain``) in a cache beside it."""
    arguments: dict[str, str | None] = {"digest": data.digest, "weights": chosen.weights}
    for name, pictures in (("cache", data), ("pretrain_cache", pretrain)):
        file = folder.with_name(f"{folder.name}.{name}.safetensors")
        if pictures is not None:
            write_identities(pictures, file)
        arguments[name] = None if pictures is None else str(file)
    layout, tasks = planned(data, chosen)
    create_farm(folder, head_of(to_json(chosen), data, layout), RunnerRef(RUNNER, arguments), tasks)
    return folder


def run_farm(folder: Path, limit: int | None = None) -> int:
    """Do what is left (or so many tasks of it) in this process; how many were done."""
    left = itertools.repeat(False) if limit is None else itertools.chain(itertools.repeat(False, limit), [True])
    with opened(folder):
        return work(folder, "here", lambda: next(left), idle=0.01)


def finished(folder: Path) -> dict[str, Done]:
    """What is done, by the names of tasks."""
    return {done.name: done for done in read_sidecars(folder).values()}


def hashes(folder: Path) -> dict[str, tuple[str, str | None]]:
    """Task -> SHA-256 of its result, and of its weights where they are kept."""
    return {n: (d.result.sha256, d.weights.sha256 if d.weights else None) for n, d in finished(folder).items()}
