"""A farm's directory: what is planned (``farm.json``), who works there, and putting right what was damaged.

farm.json  head (what decides results), runner, tasks     objects/SHA256.safetensors  results and weights
farm.db    states and leases; can be made again           tasks/KEY.json              one for each finished task
farm.lock  held by whoever works there                    logs/WORKER.log             what workers print
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from clear_dist.errors import UserError
from clear_dist.reading import finite, json_value

from .manifest import DATABASE, Manifest
from .objects import intact, sweep_parts, write_whole
from .sidecars import read_sidecar, write_sidecar
from .task import RunnerRef, Task, canonical, make_task

FARM_FILE, LOCK_FILE = "farm.json", "farm.lock"
MOST_THREADS = 1024  # of a worker


@dataclass(frozen=True)
class FarmFile:
    """``farm.json``. head: settings, splits, the data's digest, ``threads``: all that decides results, JSON-able."""

    head: Mapping[str, Any]
    runner: RunnerRef
    tasks: tuple[Task, ...]


def read_farm_file(folder: Path) -> FarmFile:
    """The plan of the farm at ``folder``.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = folder / FARM_FILE
    try:
        content = json_value(path.read_bytes(), parse_constant=finite, parse_float=finite)
        tasks = tuple(_task(task) for task in content["tasks"])
        farm = FarmFile(content["head"], RunnerRef(**content["runner"]), tasks)
        runner = isinstance(farm.runner.factory, str) and isinstance(farm.runner.arguments, dict)
        if not isinstance(farm.head, dict) or not runner:
            raise TypeError("head or runner is of another kind")
        threads = farm.head.get("threads", 1)
        if type(threads) is not int or not 0 < threads <= MOST_THREADS:
            raise TypeError(f"head.threads is {threads!r:.90}, expected 1 to {MOST_THREADS:,}")
        keys = [make_task(task.kind, task.name, task.spec, task.parents).key for task in tasks]
    except FileNotFoundError:
        raise UserError(f"{folder}: no farm of shadow models there ({FARM_FILE} is missing)") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); move it away and start again with the same options: "
            "finished tasks are found again"
        ) from None
    for task, key in zip(tasks, keys, strict=True):
        if key != task.key:
            raise UserError(f"{path}: task {task.name} was changed by hand; move the file away and start again")
    return farm


def _task(content: Any) -> Task:
    task = Task(**{**content, "parents": tuple(content["parents"])})
    texts = (task.key, task.kind, task.name, *task.parents)
    kinds = isinstance(task.spec, dict) and isinstance(task.keep_weights, bool)
    if not all(isinstance(text, str) for text in texts) or not kinds:
        raise TypeError(f"task {task.name!r:.90} has a field of another kind")
    return task


def create_farm(folder: Path, head: Mapping[str, Any], runner: RunnerRef, tasks: Sequence[Task]) -> FarmFile:
    """Plan a farm, or add tasks to one that is there; nothing is run. Tasks of an earlier plan stay in it.

    Weights are kept of each task that is a parent. The runner's arguments may differ from earlier ones (a data folder
    has moved): what decides results belongs into ``head`` and the tasks' specifications.

    Raises:
        UserError: the farm there has another head (the message names the differences), a task of the same name is
            another one there, a parent does not come before its child, or another process works there.
    """
    head = json.loads(canonical(dict(head)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); name another directory") from None
    with locked(folder):
        old = read_farm_file(folder) if (folder / FARM_FILE).exists() else None
        if old is not None and canonical(old.head) != canonical(head):
            raise UserError(
                f"{folder}: holds another farm ({'; '.join(_differences(old.head, head)[:4])}); "
                "name another directory, or give the same options to go on with it"
            )
        farm = FarmFile(head, runner, _merged(folder, old.tasks if old else (), tasks))
        content = {"v": 1, "head": head, "runner": asdict(runner), "tasks": [asdict(task) for task in farm.tasks]}
        write_whole(folder / FARM_FILE, f"{json.dumps(content, allow_nan=False)}\n".encode())
    return farm


def _merged(folder: Path, old: Sequence[Task], new: Sequence[Task]) -> tuple[Task, ...]:
    """Both plans' tasks, each once, the old ones first."""
    tasks: dict[str, Task] = {}
    names: dict[str, Task] = {}
    keys: dict[str, str] = {}
    for task in new:
        if (twin := keys.setdefault(task.key, task.name)) != task.name:
            raise UserError(f"tasks {twin} and {task.name} are the same; give each its own specification (its seed)")
    for task in (*old, *new):
        twin = names.setdefault(task.name, task)
        if twin.key != task.key:
            found = "; ".join(_differences({"spec": twin.spec}, {"spec": task.spec})[:4]) or "it has other parents"
            raise UserError(f"{folder}: task {task.name} is another one there ({found}); name another directory")
        if missing := [key for key in task.parents if key not in tasks]:
            raise UserError(f"task {task.name}: its parent {missing[0][:12]} must come before it")
        keep = task.keep_weights or (task.key in tasks and tasks[task.key].keep_weights)
        tasks[task.key] = replace(tasks.get(task.key, task), keep_weights=keep, name=task.name)
    parents = {key for task in tasks.values() for key in task.parents}
    return tuple(replace(t, keep_weights=True) if t.key in parents else t for t in tasks.values())


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], under: str = "") -> list[str]:
    """``settings.seed: 1 there, 2 now`` for each leaf that differs."""
    found: list[str] = []
    for name in sorted({*old, *new}, key=lambda name: (name != "settings", name)):  # what was typed comes first
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{under}{name}.")
        elif a != b:
            found.append(f"{under}{name}: {_short(a)} there, {_short(b)} now")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only one who works in ``folder``, until the block or the process ends.

    Raises:
        UserError: another process works there; the message names it.
    """
    try:
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); name another directory") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 200, 0).decode(errors="replace") or "another process"
            raise UserError(f"{folder}: in use by {holder}; wait for it, or name another directory") from None
        os.truncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        os.close(lock)


@contextmanager
def opened(folder: Path, clock: Callable[[], float] = time.time) -> Iterator[Manifest]:
    """Begin to work on a farm: lock it, make its database where there is none or a damaged one, give back what those
    before us still held, and look through all files (see :func:`verify`). What was put right is in the notes.

    Raises:
        UserError: no farm there, another process works on it, or its database fails (also within the block).
    """
    farm = read_farm_file(folder)
    with locked(folder):
        sweep_parts(folder)
        with _database(folder, clock) as manifest:
            try:
                manifest.add(farm.tasks)
                manifest.give_back()
                verify(manifest)
                yield manifest
            except sqlite3.Error as error:
                raise UserError(f"{folder}: its database cannot be used ({error}); is the disk full?") from error


def retry_quarantined(folder: Path, clock: Callable[[], float] = time.time) -> int:
    """Give every quarantined task its attempts again, without looking through the files; how many there were.

    Raises:
        UserError: another process works on the farm.
    """
    with locked(folder), _database(folder, clock) as manifest:
        return manifest.retry_quarantined()


def _database(folder: Path, clock: Callable[[], float]) -> Manifest:
    """The farm's database; a damaged one is moved aside and begun anew, to be filled from the sidecars."""
    path = folder / DATABASE
    new = not path.exists()
    why = ""
    if not new:
        try:
            manifest = Manifest(folder, clock)
            if manifest.sound():
                manifest.rows()  # every record can be read
                return manifest
            manifest.close()
            why = "SQLite finds it damaged"
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):  # text that is no UTF-8 is damage
                raise UserError(f"{path}: cannot be opened ({error}); see who may write there") from None
            why = str(error)
        except (sqlite3.DatabaseError, ValueError, IndexError, TypeError) as error:
            why = str(error)
    aside = _move_aside(path)
    manifest = Manifest(folder, clock)
    if why:
        manifest.note(f"{DATABASE} was damaged ({why}): moved to {aside}, made again from the sidecars")
    return manifest


def _move_aside(path: Path) -> str:
    """Rename a database with its log, which must never be read with another one."""
    number = next(n for n in range(1, 10**6) if not path.with_name(f"{path.name}.damaged-{n}").exists())
    aside = path.with_name(f"{path.name}.damaged-{number}")
    for ending in ("", "-wal", "-shm"):
        file = path.with_name(path.name + ending)
        if file.exists():
            file.replace(aside.with_name(aside.name + ending))
    return aside.name


def verify(manifest: Manifest, deep: bool = True) -> list[str]:
    """Look through the files of a farm that we have locked.

    A finished task whose result, or wanted weights, are missing or (``deep``: by their hash) changed is pending again;
    one whose sidecar is missing or damaged gets it written anew; a task that is not done, but has a good sidecar and
    good files (its worker or the database was lost after they were written), is done.

    Returns:
        The names of the tasks that are to be done again.
    """
    again = []
    for row in manifest.rows():
        task = row.task
        sidecar = read_sidecar(manifest.folder, task.key)
        done = row.done or sidecar
        if done is None:
            continue
        refs = [done.result, *([done.weights] if done.weights else [])]
        good = all(intact(manifest.folder, ref, deep) for ref in refs) and not (task.keep_weights and not done.weights)
        if row.done is None and good:
            manifest.adopt(done)
        elif row.done is not None and not good:
            missing = done.weights is None and task.keep_weights
            manifest.reopen(task.key, "its weights were not kept" if missing else "a file was damaged", afresh=True)
            again.append(task.name)
        elif row.done is not None and sidecar is None:
            write_sidecar(manifest.folder, row.done)
    return again
