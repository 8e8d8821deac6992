"""How many shadow models an hour does the farm make, beside a plain PyTorch loop, and what makes the difference?

The plain loop (``farm_plain.py``) is what public code mostly does: picture files decoded whenever they are shown,
fp32, NCHW, ``torch.optim.SGD`` and all threads by default, one process a model. The farm is the farm:
``train_classifier`` in its workers, and for whole models ``create_farm`` and ``run_local`` from nothing, with start-up,
decoding and reading. Same network, pictures, batch and steps; before anything is timed, both must reach the same loss
from the same weights in the same order. Everything takes turns, round by round.

    python benchmarks/bench_farm.py                     # two cores: about 8 minutes
    python benchmarks/bench_farm.py --device cuda       # 64 and 224 px, CUDA graph, 1, 2 and 4 workers on the GPU
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.common import RESULTS, device_of, machine, write_results
from benchmarks.farm_crew import Crew, Variant, crews, farm_of, speeds, variants_of, whole_models
from benchmarks.farm_rows import Row, best_plain, draw, markdown, model_rows, phase_rows, start_up_row, training_rows
from benchmarks.farm_ways import Case, Job, difference
from benchmarks.farm_whole import Whole
from clear_dist.data.identities import load_identities
from clear_dist.data.identity_source import list_source
from clear_dist.errors import UserError
from clear_dist.shadow.order import steps_of
from clear_dist.shadow.run import Resident

# fp32 and the same weights, but sums in another order, TF32 on a GPU, and pictures shrunk by another filter.
TOLERANCE = 0.02
ENROL = 5


@dataclass(frozen=True)
class Scale:
    """people: identities a model learns (there are twice as many). pictures: of each. side: of the files, pixels.
    steps: of a measurement at the first size, fewer at larger ones. warm: steps before each."""

    sizes: tuple[int, ...]
    people: int
    pictures: int
    side: int
    batch: int
    steps: int
    warm: int
    models: int


SCALES = {
    "cpu": Scale((32, 64), people=20, pictures=8, side=128, batch=128, steps=10, warm=1, models=8),
    "cuda": Scale((64, 224), people=100, pictures=10, side=256, batch=256, steps=200, warm=10, models=8),
}


def write_pictures(source: str, people: int, pictures: int, side: int, out: Path) -> None:
    """The first ``pictures`` of each of ``people`` identities as ``out/0000/0000.png``; drawn: of ``side`` pixels.

    Raises:
        UserError: too few identities with that many pictures.
    """
    listing = list_source(source, 2)
    rows: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(listing.names):
        rows[name].append(i)
    chosen = [name for name in rows if len(rows[name]) >= pictures][:people]
    if len(chosen) < people:
        raise UserError(
            f"{source}: {len(chosen)} identities with at least {pictures} pictures; expected {people}. Lower --people "
            "(half of that) or --pictures"
        )
    at = {row: f"{n:04d}/{j:04d}.png" for n, name in enumerate(chosen) for j, row in enumerate(rows[name][:pictures])}
    for i, open_picture in listing.pictures(side):
        if i in at:
            file = out / at[i]
            file.parent.mkdir(parents=True, exist_ok=True)
            open_picture().save(file)


@dataclass(frozen=True)
class Setting:
    """What all sizes have in common."""

    scale: Scale
    device: str
    cores: int
    rounds: int
    epochs: float
    network: Any
    folder: Path

    @property
    def workers(self) -> int:
        """Of the farm where whole models are made."""
        return 1 if self.device == "cuda" else self.cores


def bench_size(setting: Setting, size: int, whole_too: bool) -> list[Row]:
    """All rows of one size.

    Raises:
        UserError: the two loops do not train the same thing; nothing is timed then.
    """
    scale = setting.scale
    data = load_identities(setting.folder, size, cache=setting.folder.parent / "cache")
    enrol = min(ENROL, scale.pictures - 1)
    case = Case(
        folder=str(setting.folder),
        cache=str(data.file),
        size=size,
        people=scale.people,
        batch=scale.batch,
        network=setting.network,
        device=setting.device,
        enrol=enrol,
        warm=scale.warm,
    )
    gap = difference(case, Resident(data, torch.device(setting.device)))
    if not gap <= TOLERANCE:
        raise UserError(f"{size} px: the losses of the plain loop and the farm differ by {gap:.1%}; nothing was timed")
    shown = scale.people * scale.pictures
    steps = max(4, round(scale.steps * (scale.sizes[0] / size) ** 2))
    whole_steps = steps_of(shown, scale.batch, setting.epochs)
    images = whole_steps * min(scale.batch, shown)
    variants = variants_of(setting.device, setting.cores)
    about: Row = {
        "batch": min(scale.batch, shown),
        "network": setting.network,
        "rounds": setting.rounds,
        "steps": steps,
        "loss_difference": gap,
    }
    say(f"{size} px: {len(variants)} variants x {setting.rounds} rounds")
    with crews(case, variants) as made:
        found = speeds(variants, made, steps, setting.rounds)
        rows = training_rows(case, variants, farm_of(variants, setting.device), found, about)
        parts = [] if setting.device == "cuda" or not whole_too else _phases(made[True], whole_steps, setting)
    if whole_too:
        say(f"{size} px: start-up and whole models, {setting.rounds} rounds")
        starts = [_start_up(case, setting.workers) for _ in range(setting.rounds)]
        farm = farm_of(variants, setting.device)
        rows.append(start_up_row(case, starts, found[farm], setting.workers, images, about))
        rows += _whole_rows(setting, case, variants, best_plain(found), parts, about)
    return rows


def say(text: str) -> None:
    """What is measured now, and when it began."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _phases(crew: Crew, steps: int, setting: Setting) -> list[dict[str, float]]:
    """One model's parts in every round, while the other workers do the same."""
    jobs = [Job({}, steps, 1, seed, "phases") for seed in range(setting.workers)]
    return [crew.do(setting.workers, jobs)[0] for _ in range(setting.rounds)]


def _start_up(case: Case, workers: int) -> float:
    """Seconds until so many new workers are ready."""
    crew = Crew(case, workers, tuned=True)
    crew.close()
    return crew.start_up


def _whole_rows(
    setting: Setting,
    case: Case,
    variants: Sequence[Variant],
    plain: str,
    parts: list[dict[str, float]],
    about: Row,
) -> list[Row]:
    """Whole models, and the parts of one with its share of the decoding."""
    whole = Whole(
        size=case.size,
        models=setting.scale.models,
        people=case.people,
        epochs=setting.epochs,
        batch=case.batch,
        network=case.network,
        enrol=case.enrol,
        workers=setting.workers,
        gpu=case.device == "cuda",
    )
    loaders = next(v.way.loaders for v in variants if v.name == plain)
    found = [whole_models(case, whole, loaders, setting.cores, seed) for seed in range(setting.rounds)]
    rows = model_rows(case, setting.workers, found, about)
    decoding = f"decoding, 1/{whole.models} of all pictures'"
    shares = [{decoding: r["farm"]["decoded"] / whole.models, **part} for r, part in zip(found, parts, strict=False)]
    return rows + (phase_rows(case, shares) if shares else [])


def intro(setting: Setting, source: str, rows: Sequence[Row]) -> str:
    scale = setting.scale
    drawn = f" of {scale.side} px" if source.startswith("clear-mini") else ""
    gap = max(r["loss_difference"] for r in rows if "loss_difference" in r)
    return (
        f"ResNet-{setting.network} with an AM-softmax head on {source}: {scale.people} identities a model, "
        f"{scale.pictures} pictures each, PNG files{drawn}, no augmentation. Median (least-most) of {setting.rounds} "
        "rounds in turns; a ratio is that of two medians, in brackets that of single rounds. Before timing, the "
        f"losses of both loops after 2 equal steps in fp32 differed by {gap:.1e}."
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="identities, as of clear-dist shadow-farm (default: drawn people)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the GPU if any")
    parser.add_argument(
        "--sizes", type=int, nargs="+", help="pixels; whole models at the first (default: 32 64; GPU 64 224)"
    )
    parser.add_argument("--network", choices=("18", "tiny"), default="18", help="default: %(default)s")
    parser.add_argument("--people", type=int, help="identities a model learns (default: 20; GPU 100)")
    parser.add_argument("--pictures", type=int, help="of each identity (default: 8; GPU 10)")
    parser.add_argument("--side", type=int, help="pixels of drawn picture files (default: 128; GPU 256)")
    parser.add_argument("--batch", type=int, help="pictures a step (default: 128; GPU 256)")
    parser.add_argument("--steps", type=int, help="of a measurement at the first size (default: 10; GPU 200)")
    parser.add_argument("--epochs", type=float, default=20, help="of a whole model (default: %(default)s)")
    parser.add_argument("--models", type=int, help="the farm makes, at least 4, even (default: 8)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="cores to use (default: those there are)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go (default: benchmarks/results)")
    return parser.parse_args(arguments)


def scale_of(args: argparse.Namespace, device: str) -> Scale:
    """The device's scale with what was given on the command line."""
    usual = SCALES[device]
    return Scale(
        sizes=tuple(args.sizes or usual.sizes),
        people=args.people or usual.people,
        pictures=args.pictures or usual.pictures,
        side=args.side or usual.side,
        batch=args.batch or usual.batch,
        steps=args.steps or usual.steps,
        warm=usual.warm,
        models=args.models or usual.models,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    device = device_of(args.device)
    scale = scale_of(args, device.type)
    cores = args.threads or len(os.sched_getaffinity(0))
    if args.threads:
        torch.set_num_threads(args.threads)
    info = machine(device)
    source = args.images or f"clear-mini:{2 * scale.people}x{scale.pictures}"
    work = Path(tempfile.mkdtemp(prefix="bench-farm-"))
    try:
        setting = Setting(scale, device.type, cores, args.rounds, args.epochs, args.network, work / "pictures")
        write_pictures(source, 2 * scale.people, scale.pictures, scale.side, setting.folder)
        rows: list[Row] = []
        for size in scale.sizes:
            rows += bench_size(setting, size, whole_too=size == scale.sizes[0])
    except UserError as error:
        print(f"bench_farm: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text = markdown(rows, intro(setting, Path(source).name, rows))
    print(text)
    for path in write_results("bench_farm", args.out, info, rows, text, partial(draw, rows)):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
