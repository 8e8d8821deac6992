"""Workers on many hosts, by Ray: actors hold the runner and what it keeps in memory; this process holds the farm.

Only the driver opens the farm's directory: it leases tasks for its actors, sends them the parents' weights as bytes,
and keeps what they send back. So no host shares a filesystem or a database with another, and results, attempts and
quarantine are those of any other executor. An actor that dies is a failed attempt, and is replaced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clear_dist.errors import UserError

from .folder import FarmFile, opened, read_farm_file
from .local import ROOT, SAY, Losses, worker_environment
from .manifest import LEASE, Lease, Manifest
from .objects import Damaged, decode, encode, get_bytes, put_bytes
from .status import Status, read_status
from .task import Runner, Task, make_runner
from .worker import set_threads

TICK = 0.2  # seconds that the driver waits for its actors before it looks at anything else


@dataclass(frozen=True)
class Reply:
    """What an actor sends back: safetensors bytes, or why there are none."""

    result: bytes = b""
    weights: bytes | None = None
    metrics: Mapping[str, float] | None = None
    seconds: float = 0.0
    error: str | None = None


class Actor:
    """Lives in a process of Ray's. Errors come back as text: a raised one could not be told from an actor's death."""

    def __init__(self) -> None:
        self.runner: Runner | None = None

    def start(self, farm: FarmFile) -> str | None:
        """Make the runner; why that is impossible, or None."""
        try:
            set_threads(farm)
            self.runner = make_runner(farm.runner)
        except UserError as error:
            return str(error)
        except Exception:
            return traceback.format_exc()[-2000:]
        return None

    def do(self, task: Task, parents: Mapping[str, bytes]) -> Reply:
        """One task, from its parents' weights."""
        assert self.runner is not None
        began = time.perf_counter()
        try:
            outcome = self.runner(task, {key: decode(data) for key, data in parents.items()})
            if task.keep_weights and outcome.weights is None:
                raise UserError(f"task {task.name}: its weights are to be kept, and the runner returned none")
            weights = encode(outcome.weights) if task.keep_weights and outcome.weights is not None else None
            result = encode(outcome.tensors)
        except (Exception, SystemExit):
            return Reply(error=traceback.format_exc())
        return Reply(result, weights, dict(outcome.metrics), time.perf_counter() - began)


@dataclass
class _Member:
    """An actor, what it is at (None: idle), and the lease it is at it for (None: it is starting)."""

    name: str
    handle: Any
    future: Any
    lease: Lease | None = None
    began: float = 0.0


def run_ray(
    folder: Path,
    workers: int,
    on_status: Callable[[Status], None] = lambda status: None,
    *,
    address: str | None = None,
    gpus_per_worker: float = 0.0,
    time_limit: float | None = None,
) -> Status:
    """Do what is left of the farm at ``folder`` with at most ``workers`` actors; as ``local.run_local``.

    Args:
        address: of a running Ray cluster, whose hosts have this package; None: a Ray of our own on this machine, which
            ends with the farm.
        gpus_per_worker: 0.25 packs four workers on each GPU.

    Raises:
        UserError: also where Ray is missing, or the cluster has no room for a single worker.
    """
    if workers < 1:
        raise UserError(f"{workers} workers: expected at least 1")
    if gpus_per_worker < 0 or (gpus_per_worker > 1 and gpus_per_worker % 1):
        raise UserError(f"{gpus_per_worker} GPUs per worker: expected a part of one, or a whole number")
    farm = read_farm_file(folder)
    threads = int(farm.head.get("threads", 1))
    with opened(folder) as manifest:
        ray = _begin(address, workers * threads)
        crew: list[_Member] = []
        try:
            workers = _room(ray, workers, threads, gpus_per_worker)
            make = _maker(ray, farm, threads, gpus_per_worker, here=address is None)
            _drive(ray, manifest, crew, make, workers, on_status, time_limit)
        finally:
            for member in crew:
                ray.kill(member.handle)
            ray.shutdown()
            with contextlib.suppress(sqlite3.Error):  # a full disk, say: the next who opens the farm does it
                manifest.give_back()
    status = read_status(folder)
    on_status(status)
    return status


def _begin(address: str | None, cpus: int) -> Any:
    """Ray, started or joined."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UserError('--executor ray: Ray is not installed; pip install "clear-dist[farm]"') from None
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:  # "local": whatever RAY_ADDRESS says; and nobody on the network is to see it
            quiet |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            ray.init("local", num_cpus=cpus, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise UserError(f"Ray at {address or 'this machine'} could not be started: {error}") from None
    return ray


def _room(ray: Any, workers: int, threads: int, gpus: float) -> int:
    """How many actors the cluster can hold at a time, at most ``workers``."""
    there = ray.cluster_resources()
    room = min(workers, int(there.get("CPU", 0) // threads))
    if gpus:
        whole = int(there.get("GPU", 0))
        room = min(room, whole // int(gpus) if gpus >= 1 else whole * int(1 / gpus + 1e-9))
    if room < 1:
        raise UserError(
            f"Ray has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs, too few for one worker "
            f"({threads} CPUs, {gpus:g} GPUs)"
        )
    return room


def _maker(ray: Any, farm: FarmFile, threads: int, gpus: float, here: bool) -> Callable[[str], _Member]:
    """What makes an actor and has it start."""
    variables = worker_environment(threads)
    if here:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    remote = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0, runtime_env={"env_vars": variables})(Actor)
    start = replace(farm, tasks=())  # an actor is sent its tasks one by one

    def make(name: str) -> _Member:
        handle = remote.remote()
        return _Member(name, handle, handle.start.remote(start))

    return make


def _drive(
    ray: Any,
    manifest: Manifest,
    crew: list[_Member],
    make: Callable[[str], _Member],
    workers: int,
    on_status: Callable[[Status], None],
    time_limit: float | None,
) -> None:
    losses = Losses(workers)
    started, said, beaten = 0, float("-inf"), time.monotonic()
    while manifest.has_work():
        while len(crew) < min(workers, manifest.unfinished()):
            crew.append(make(f"ray-{started}"))
            started += 1
        for member in crew:
            if member.future is None:
                _give(manifest, member)
        waited = {member.future: member for member in crew if member.future is not None}
        if not waited:
            time.sleep(TICK)
        for future in ray.wait(list(waited), timeout=TICK)[0] if waited else ():
            if not _take(ray, manifest, waited[future], losses):
                crew.remove(waited[future])
        now = time.monotonic()
        for member in list(crew):
            if time_limit is not None and member.lease is not None and now - member.began > time_limit:
                ray.kill(member.handle)
                manifest.fail(member.lease, f"took longer than {time_limit:g} seconds")
                crew.remove(member)
                losses.add(manifest.finished(), "it took too long")
        if now - beaten >= LEASE / 4:
            beaten = now
            for member in crew:
                if member.lease is not None:
                    manifest.heartbeat(member.lease)
        if now - said >= SAY:
            said = now
            on_status(read_status(manifest.folder))


def _give(manifest: Manifest, member: _Member) -> None:
    """Lease an idle actor a task and send it off, if there is one."""
    lease = manifest.claim(member.name)
    if lease is None:
        return
    parents: dict[str, bytes] = {}
    for key, sha256 in lease.parents.items():
        try:
            parents[key] = get_bytes(manifest.folder, sha256)
        except Damaged as error:
            manifest.reopen(key, str(error))
            manifest.give_back(lease.worker)
            return
    member.lease, member.began = lease, time.monotonic()
    member.future = member.handle.do.remote(lease.task, parents)


def _take(ray: Any, manifest: Manifest, member: _Member, losses: Losses) -> bool:
    """Keep what an actor has sent; False where the actor is no more."""
    lease, future = member.lease, member.future
    member.lease = member.future = None
    try:
        reply = ray.get(future)
    except ray.exceptions.RayError as error:
        if lease is not None:
            manifest.fail(lease, f"its actor died: {error}")
        losses.add(manifest.finished(), str(error))
        return False
    if lease is None:
        if reply is not None:
            raise UserError(f"workers cannot be started; the first said:\n{reply}")
    elif reply.error is not None:
        manifest.fail(lease, reply.error)
    else:
        weights = put_bytes(manifest.folder, reply.weights) if reply.weights is not None else None
        result = put_bytes(manifest.folder, reply.result)
        manifest.commit(lease, result, weights, reply.metrics or {}, reply.seconds)
    return True
