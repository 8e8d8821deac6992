"""For tests of the command shadow-farm: a folder of pictures, and the farm run in this process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from shadow.vision_farm import identities

from clear_dist import cli
from clear_dist.shadow.folder import opened
from clear_dist.shadow.status import Status, read_status
from clear_dist.shadow.worker import work

TASKS = 17  # of the farm below: pretraining, 8 shadow models, 4 gold ones, retain_ft 4 times
NUMBERS = ("--size", "16", "--forget", "2", "--holdout", "2", "--enrol", "2", "--epochs", "2", "--batch", "16")
FARM = (*NUMBERS, "--models", "8", "--pretrain-identities", "3", "--pretrain-epochs", "1", "--precision", "fp32")
METHOD = ("--methods", "retain_ft", "--tune", "retain_ft.epochs=1", "--tune", "retain_ft.batch=16")


def write_pictures(folder: Path, each: int = 7) -> Path:
    """14 people with 7 pictures each (or the first of them), as PNG."""
    data = identities()
    for n, (name, pixels) in enumerate(zip(data.ids, data.pixels, strict=True)):
        if n % 7 < each:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)
    return folder


def farm_command(images: Path, out: Path, *more: object) -> list[str]:
    return ["shadow-farm", "--images", str(images), *FARM, *map(str, more), "--out", str(out)]


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def in_this_process(
    folder: Path,
    workers: int,
    on_status: Callable[[Status], None] = lambda status: None,
    *,
    devices: Sequence[str] = (),
    time_limit: float | None = None,
    limit: int | None = None,
) -> Status:
    """What ``run_local`` does, without starting a process."""
    del workers, devices, time_limit
    left = itertools.repeat(False) if limit is None else itertools.chain(itertools.repeat(False, limit), [True])
    with opened(folder):
        work(folder, "here", lambda: next(left), idle=0.01)
    status = read_status(folder)
    on_status(status)
    return status


def written(farm: Path) -> dict[str, int]:
    """Every result, weight and sidecar, and when it was written."""
    return {
        f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns
        for folder in ("objects", "tasks")
        for path in (farm / folder).iterdir()
    }
