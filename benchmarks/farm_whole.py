"""The farm from nothing to results, in a process of its own: plan, decode, start workers, train, read, keep.

    python -m benchmarks.farm_whole FOLDER OUT JSON

prints one line of JSON. Shadow models only, so that every model sees as many pictures as one of ``farm_plain``.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.farm_plain import LR
from clear_dist.data.identities import load_identities
from clear_dist.errors import UserError
from clear_dist.shadow.folder import create_farm
from clear_dist.shadow.local import run_local
from clear_dist.shadow.plan import layout_of, tasks_of
from clear_dist.shadow.results import head_of
from clear_dist.shadow.settings import FarmSettings, Network, Training, to_json
from clear_dist.shadow.sidecars import read_sidecars
from clear_dist.shadow.task import RunnerRef


@dataclass(frozen=True)
class Whole:
    """models: how many. people: identities each learns, half of those there are. gpu: share the first GPU."""

    size: int
    models: int
    people: int
    epochs: float
    batch: int
    network: str
    enrol: int
    workers: int
    gpu: bool = False


def whole_farm(pictures: Path, out: Path, whole: Whole) -> dict[str, Any]:
    """Make a farm in ``out``, which must be empty: no picture is decoded before.

    Raises:
        UserError: a task failed.
    """
    began = time.perf_counter()
    data = load_identities(pictures, whole.size, cache=out / "cache")
    decoded = time.perf_counter() - began
    training = Training(whole.epochs, LR, whole.batch, schedule="constant", warmup=0.0)
    settings = FarmSettings(
        images="pictures",
        digest=data.digest,
        size=whole.size,
        models=whole.models,
        forget=max(1, whole.people // 4),
        holdout=max(1, whole.people // 4),
        identities=whole.people,
        pretrain=0,
        shadow=training,
        pretraining=training,
        methods={},
        network=Network(size=whole.network),  # pyright: ignore[reportArgumentType]
        enrol=whole.enrol,
    )
    layout = layout_of(settings, len(data.names))
    tasks = [task for task in tasks_of(settings, layout) if task.kind == "shadow"]
    runner = RunnerRef("clear_dist.shadow.run:make_runner", {"cache": str(data.file), "digest": data.digest})
    create_farm(out / "farm", head_of(to_json(settings), data, layout), runner, tasks)
    status = run_local(out / "farm", whole.workers, devices=["0"] if whole.gpu else ())
    if not status.finished:
        raise UserError(f"the farm did not finish: {[failed.error for failed in status.quarantined[:1]]}")
    done = list(read_sidecars(out / "farm").values())
    images = [float(d.metrics["steps"] or 0) * whole.batch for d in done]
    return {
        "seconds": time.perf_counter() - began,
        "decoded": decoded,
        "model": median(d.seconds for d in done),
        "models": len(done),
        "images": median(images),
    }


def main(arguments: list[str]) -> int:
    pictures, out, text = arguments
    print(json.dumps(whole_farm(Path(pictures), Path(out), Whole(**json.loads(text)))))
    return 0


def whole_json(whole: Whole) -> str:
    return json.dumps(asdict(whole))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
