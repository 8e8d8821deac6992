"""A farm of shadow models: read the pictures once, plan the tasks, let workers do them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch

from clear_dist.config import ShadowFarmConfig
from clear_dist.data.identities import Identities, load_identities
from clear_dist.errors import UserError
from clear_dist.methods import parse_objective
from clear_dist.models.resnet_files import load_resnet
from clear_dist.services.progress import say, task
from clear_dist.services.rundir import read_run, write_run
from clear_dist.shadow.folder import create_farm, retry_quarantined
from clear_dist.shadow.local import run_local
from clear_dist.shadow.plan import Layout, layout_of, tasks_of
from clear_dist.shadow.presets import PRESETS
from clear_dist.shadow.ranks import ranks, run_ranks
from clear_dist.shadow.results import head_of
from clear_dist.shadow.settings import FarmSettings, Network, to_json
from clear_dist.shadow.status import Status
from clear_dist.shadow.task import RunnerRef, Task
from clear_dist.shadow.unlearn import plan_of as steps_of

from .farm_status import Watch, show_status
from .shadow_settings import settings_of

RUNNER = "clear_dist.shadow.run:make_runner"
FAILED = 1
FACTS = ("settings", "skipped", "left_out")  # in run.json from the beginning
LISTED = 5  # of what is left out; run.json has all of it


@dataclass(frozen=True)
class Plan:
    """A farm before anything is trained."""

    settings: FarmSettings
    layout: Layout
    tasks: list[Task]
    runner: RunnerRef
    data: Identities


def run(config: ShadowFarmConfig) -> int:
    """``clear-dist shadow-farm`` and ``launchers/shadow_farm.py``; exit status 1 if a task failed for good."""
    me = ranks()
    if me is not None:
        if config.executor != "local":
            raise UserError(f"--executor {config.executor}: under a launcher its ranks are the workers; leave it out")
        if config.dry_run:
            return _list(plan_of(config)) if me.rank == 0 else 0
        watch = Watch(show=me.rank == 0)
        with watch:
            status = run_ranks(config.out, me, lambda: _create(config, plan_of(config)), watch)
        return _conclude(config, status, me.rank == 0)
    plan = plan_of(config)
    if config.dry_run:
        return _list(plan)
    _create(config, plan)
    with Watch() as watch:
        status = _execute(config, watch)
    return _conclude(config, status, True)


def plan_of(config: ShadowFarmConfig) -> Plan:
    """Read the pictures, deal the identities, list the tasks; nothing is written but the cache of pictures.

    Raises:
        UserError: pictures, numbers or methods that do not go together.
    """
    size = config.size or PRESETS[config.preset].size
    data = _load(config, config.images, size, config.enrol + 1)
    other = None if config.pretrain is None else _load(config, config.pretrain, size, 2)
    settings = settings_of(config, data, other)
    layout = layout_of(settings, len(data.names))
    for name in settings.methods:
        check_method(settings, name, layout, data)
    if config.weights is not None:
        check_weights(config.weights, settings.network)
    # Absolute: workers may live in other directories.
    caches = [None if found is None or found.file is None else str(found.file.absolute()) for found in (data, other)]
    arguments = {"cache": caches[0], "digest": data.digest, "pretrain_cache": caches[1], "weights": config.weights}
    return Plan(settings, layout, tasks_of(settings, layout), RunnerRef(RUNNER, arguments), data)


def check_weights(source: str, network: Network) -> None:
    """A network to start from that does not fit is refused before anything is trained."""
    found = load_resnet(source).settings
    wanted = (network.size, network.stem, network.embedding_size)
    if (found.size, found.stem, found.embedding_size) != wanted:
        raise UserError(
            f"--weights {source}: settings and weights do not belong together: a ResNet of size {found.size} with "
            f"a {found.stem} stem; give --network {found.size} --stem {found.stem}, or other weights"
        )


def check_method(settings: FarmSettings, name: str, layout: Layout, data: Identities) -> None:
    """A method that pictures cannot serve is refused before anything is trained; raises ConfigError."""
    method = settings.methods[name]
    model = next(m for m in range(settings.models) if layout.forgets(m))
    per_identity = len(data.labels) // len(data.names)
    steps_of(
        parse_objective(method.objective),
        method,
        per_identity * len(layout.forgets(model)),
        per_identity * max(1, len(layout.keeps(model))),
    )


def share_of_gpus(config: ShadowFarmConfig) -> float:
    """``--gpus``, or its default."""
    return config.gpus if config.gpus is not None else float(torch.cuda.is_available())


def default_workers(gpus: float) -> int:
    """As many as this machine's GPUs have room for, or a worker a core."""
    if gpus and torch.cuda.is_available():
        return max(1, int(torch.cuda.device_count() / gpus + 1e-9))
    return len(os.sched_getaffinity(0))


def _load(config: ShadowFarmConfig, source: str, size: int, least: int) -> Identities:
    with task(f"pictures of {source}", 1) as bar:

        def progress(done: int, total: int) -> None:
            if bar is not None:
                bar.total = max(total, 1)
                bar.update(done)

        data = load_identities(source, size, on_bad=config.on_bad_data, on_progress=progress, min_images=least)
    say(f"{source}: {len(data.labels)} pictures of {len(data.names)} identities, {size} px")
    for kind, listed in (("pictures left out", data.skipped), ("identities left out", data.left_out)):
        if listed:
            shown = "; ".join(f"{name} ({why})" for name, why in listed[:LISTED])
            say(f"  {len(listed)} {kind}: {shown}{'; ...' if len(listed) > LISTED else ''}")
    for note in data.notes:
        say(f"  {note}")
    return data


def _create(config: ShadowFarmConfig, plan: Plan) -> None:
    settings = to_json(plan.settings)
    create_farm(config.out, head_of(settings, plan.data, plan.layout), plan.runner, plan.tasks)
    write_run(
        config.out,
        config,
        settings=settings,
        skipped=[list(pair) for pair in plan.data.skipped],
        left_out=[list(pair) for pair in plan.data.left_out],
        finished=False,
    )
    retry_quarantined(config.out)


def _execute(config: ShadowFarmConfig, watch: Watch) -> Status:
    gpus = share_of_gpus(config)
    workers = config.workers or default_workers(gpus)
    limit = None if config.task_minutes is None else 60 * config.task_minutes
    if config.executor == "ray":
        from clear_dist.shadow.ray_farm import run_ray

        return run_ray(config.out, workers, watch, address=config.ray_address, gpus_per_worker=gpus, time_limit=limit)
    if config.executor == "slurm":
        from clear_dist.shadow.slurm import run_slurm

        return run_slurm(
            config.out,
            workers,
            watch,
            minutes=config.slurm_minutes,
            gpus=math.ceil(workers * gpus),
            partition=config.slurm_partition,
            time_limit=limit,
        )
    devices = [str(i) for i in range(torch.cuda.device_count())] if gpus and torch.cuda.is_available() else []
    return run_local(config.out, workers, watch, devices=devices, time_limit=limit)


def _conclude(config: ShadowFarmConfig, status: Status, main: bool) -> int:
    if main:
        show_status(status)
        known = read_run(config.out) or {}
        write_run(config.out, config, **{k: known.get(k) for k in FACTS}, finished=status.finished)
        if status.finished:
            say(f"done. Next: clear-dist attack --farm {config.out} --out {config.out}-attack")
        else:
            say("the same command goes on, and tries what failed again")
    return 0 if status.finished else FAILED


def _list(plan: Plan) -> int:
    say("\n".join(f"{t.name}: {_about(t)}" for t in plan.tasks))
    return 0


def _about(task: Task) -> str:
    training = task.spec.get("training") or task.spec.get("method") or {}
    what = f", {training['objective']}" if "objective" in training else ""
    people = len(task.spec.get("identities") or ())
    length = f"{training['epochs']:g} epochs in batches of {training['batch']}, lr {training['lr']:g}"
    return f"{people or 'all'} identities, {length}{what}"
