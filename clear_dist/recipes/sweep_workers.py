"""Doing the runs of a sweep: one after the other on all ranks, or several at a time in processes of their own.

A worker process lives for the whole sweep: libraries are imported once, and what they keep in memory stays warm. What
it prints goes into a log file for each run; the console is the sweep's.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import torch

from clear_dist.engine.world import World, agree, close_world, init_world
from clear_dist.errors import ConfigError

from .sweep_plan import Job

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

LEAVING = 20.0  # seconds a worker has to leave before it is made to


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``skipped``: it does not apply to this model and data. ``message``: why it is not done."""

    status: Literal["done", "skipped", "failed"]
    message: str = ""
    seconds: float = 0.0


Execute = Callable[[Job], None]
OnDone = Callable[[Job, Outcome], None]


def attempt(job: Job, execute: Execute) -> Outcome:
    """Do a run; whatever goes wrong in it is its outcome, and the next run can begin."""
    began = time.perf_counter()
    try:
        execute(job)
    except ConfigError as error:
        outcome = Outcome("skipped", str(error))
    except Exception as error:
        traceback.print_exc()
        text = str(error) or "no message"
        outcome = Outcome("failed", text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}")
    else:
        return Outcome("done", seconds=time.perf_counter() - began)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Outcome(outcome.status, outcome.message, time.perf_counter() - began)


def blocked(job: Job, outcomes: dict[str, Outcome]) -> Outcome | None:
    """The outcome of a run that cannot be done, since one that it needs was not."""
    for name in job.needs:
        if name in outcomes and outcomes[name].status != "done":
            return Outcome("failed", f"{name} could not be made: {outcomes[name].message}")
    return None


def run_in_turn(jobs: Sequence[Job], execute: Execute, on_done: OnDone, world: World | None = None) -> None:
    """One run after the other in this process, on all ranks of ``world`` together where there are several."""
    outcomes: dict[str, Outcome] = {}
    for job in jobs:
        port = _next_port(world) if world is not None and world.size > 1 else None
        outcome = blocked(job, outcomes) or attempt(job, execute)
        if port is not None:
            _form_again(port)
        outcomes[job.name] = outcome
        on_done(job, outcome)


def _next_port(world: World) -> int:
    """A free port of rank 0's machine, agreed upon while the ranks can still talk: a run ends by leaving the group."""
    port = None
    if world.main:
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
    return agree(world, port)


def _form_again(port: int) -> None:
    """The same ranks as a fresh group, with a store of their own (a launcher's remembers the last group)."""
    close_world()
    os.environ["MASTER_PORT"], os.environ["TORCHELASTIC_USE_AGENT_STORE"] = str(port), "False"
    init_world()


class _Worker:
    """A process that does one run at a time; ``job`` is what it is at."""

    def __init__(self, execute: Execute, threads: int, logs: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, execute, threads, logs), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        self.job = job
        self.pipe.send(job)

    def take(self) -> tuple[Job, Outcome]:
        """What became of its run; a worker that died is an outcome too."""
        assert self.job is not None
        job, self.job = self.job, None
        try:
            return job, self.pipe.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            why = "killed, perhaps for want of memory" if code == -signal.SIGKILL else f"exit code {code}"
            return job, Outcome("failed", f"its process died ({why})")

    def stop(self) -> None:
        """An idle worker leaves by itself once nobody can ask it; one at work is told to, and tidies up."""
        self.pipe.close()
        if self.job is not None:
            self.process.terminate()
        self.process.join(LEAVING)
        self.process.kill()
        self.process.join()


def run_side_by_side(
    jobs: Sequence[Job], execute: Execute, on_done: OnDone, *, workers: int, threads: int, logs: Path
) -> None:
    """``workers`` runs at a time, in the order given, each once what it needs is done.

    Args:
        execute: importable by name, as the processes are started afresh.
        threads: of each process's arithmetic.
        logs: folder of NAME.log, what each run printed.
    """
    logs.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    waiting = list(jobs)
    names = {job.name for job in jobs}
    crew: list[_Worker] = []

    def close(job: Job, outcome: Outcome) -> None:
        outcomes[job.name] = outcome
        on_done(job, outcome)

    def next_job() -> Job | None:
        for job in list(waiting):
            refused = blocked(job, outcomes)
            if refused is not None:
                waiting.remove(job)
                close(job, refused)
            elif all(name in outcomes for name in job.needs if name in names):
                waiting.remove(job)
                return job
        return None

    try:
        while waiting or any(w.job is not None for w in crew):
            idle = [w for w in crew if w.job is None]
            while (idle or len(crew) < workers) and (job := next_job()) is not None:
                if not idle:
                    crew.append(_Worker(execute, threads, logs))
                (idle.pop() if idle else crew[-1]).give(job)
            busy = {w.pipe: w for w in crew if w.job is not None}
            for pipe in wait(list(busy)) if busy else ():
                worker = busy[pipe]  # type: ignore[index]
                job, outcome = worker.take()
                if worker.process.exitcode is not None:
                    crew.remove(worker)
                close(job, outcome)
    finally:
        for worker in crew:
            worker.stop()


def _work(pipe: Connection, execute: Execute, threads: int, logs: Path) -> None:
    """The life of a worker: runs come through the pipe, outcomes go back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep ends its workers itself
    signal.signal(signal.SIGTERM, _leave)
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)
    torch.set_num_threads(threads)
    while True:
        try:
            job: Any = pipe.recv()
        except EOFError:
            return
        with _printing_to(logs / f"{job.name}.log"):
            outcome = attempt(job, execute)
            close_world()  # a run that broke off is still in its group
        pipe.send(outcome)


def _leave(number: int, frame: object) -> None:
    """What Python and its libraries have open is closed on the way out, which a plain SIGTERM does not do."""
    sys.exit(128 + number)


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """What this process and its libraries print goes into a file, as long as the block lasts."""
    kept = {number: os.dup(number) for number in (1, 2)}

    def redirect(targets: Mapping[int, int]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, target in targets.items():
            os.dup2(target, number)

    with path.open("a", encoding="utf-8") as file:
        redirect(dict.fromkeys(kept, file.fileno()))
        try:
            yield
        finally:
            redirect(kept)
            for copy in kept.values():
                os.close(copy)
