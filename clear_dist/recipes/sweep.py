"""Methods x seeds x grids from the same originals: one table, curves, and the forget-retain front.

``OUT/sweep.json`` has a row for each run and is written anew whenever one ends; ``OUT/runs/NAME`` is an ordinary run
directory. Finished runs are never run again, interrupted and failed ones go on with the next call of the same command.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clear_dist.config import SweepConfig
from clear_dist.engine.world import World, agree, close_world, init_world
from clear_dist.errors import ConfigError, UserError
from clear_dist.reading import json_value
from clear_dist.services.progress import console, say
from clear_dist.services.rundir import METRICS, claim_output, read_run, write_run

from .common import only_on_main
from .keep import FOLDER, NOTE
from .sweep_jobs import equal_steps, execute
from .sweep_plan import Job, jobs_of
from .sweep_workers import OnDone, Outcome, run_in_turn, run_side_by_side
from .unlearn import objective_of

SWEEP_FILE, RUNS, LOGS = "sweep.json", "runs", "logs"
Dispatch = Callable[[Sequence[Job], OnDone], None]


def run(config: SweepConfig) -> int:
    """``clear-dist sweep`` and ``launchers/sweep.py``.

    Exit status: 0, or 1 if a run failed. A method that does not apply to the model or data is skipped: no failure.
    """
    jobs_of(config)  # what is wrong with the options is found before anything is loaded
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    world = init_world() if ranks > 1 else World(0, 1, 0, torch.device("cpu"))
    try:
        jobs = jobs_of(config, equal_steps(config, world) if config.budget == "equal" else None)
        if config.dry_run:
            say("\n".join(f"{job.name}: {_what(job)}" for job in jobs), world.main)
            return 0
        return sweep(config, jobs, world, dispatcher(config, world))
    finally:
        if ranks > 1:
            close_world()


def dispatcher(config: SweepConfig, world: World) -> Dispatch:
    """How the runs are done: on all ranks of a launcher together, or ``--workers`` at a time."""
    if world.size > 1:
        if config.workers not in (None, 1):
            raise ConfigError(f"--workers {config.workers}: under a launcher all ranks share each run; leave it out.")
        return lambda jobs, on_done: run_in_turn(jobs, execute, on_done, world)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = config.workers or (1 if torch.cuda.is_available() else cores)
    threads, logs = max(1, cores // workers), config.out / LOGS

    def side_by_side(jobs: Sequence[Job], on_done: OnDone) -> None:
        run_side_by_side(jobs, execute, on_done, workers=workers, threads=threads, logs=logs)

    return side_by_side


def sweep(config: SweepConfig, jobs: Sequence[Job], world: World, dispatch: Dispatch) -> int:
    """Do what is not done yet, keep the table; the exit status.

    Raises:
        UserError: ``--out`` holds something else, or one of its runs another configuration.
    """
    claims: list[Any] = []
    only_on_main(world, lambda: claims.append(claim_output(config.out, config)))
    try:
        return _sweep(config, jobs, world, dispatch)
    finally:
        for claim in claims:
            claim.release()


def _sweep(config: SweepConfig, jobs: Sequence[Job], world: World, dispatch: Dispatch) -> int:
    out = config.out
    if world.main:
        write_run(out, config, finished=False)
    there = only_on_main(world, lambda: [job.name for job in jobs if job.finished()])
    refused = {job.name: reason for job in jobs if (reason := not_applicable(job)) is not None}
    outcomes = {name: Outcome("done") for name in there}
    outcomes |= {name: Outcome("skipped", reason) for name, reason in refused.items()}
    pending = [job for job in jobs if job.name not in outcomes]
    say(
        f"{len(jobs)} runs: {len(there)} finished before, {len(refused)} do not apply, {len(pending)} to do", world.main
    )
    began, failed = time.perf_counter(), 0

    def on_done(job: Job, outcome: Outcome) -> None:
        nonlocal failed
        outcomes[job.name] = outcome
        failed += outcome.status == "failed"
        if world.main:
            write_rows(out, jobs, outcomes)
            done = sum(job.name in outcomes for job in pending)
            left = (time.perf_counter() - began) / done * (len(pending) - done)
            text = _time(outcome.seconds) if outcome.status == "done" else f"{outcome.status}: {outcome.message}"
            say(f"  {done}/{len(pending)}  {job.name}: {text}{f' (about {_time(left)} left)' if left else ''}")

    if world.main:
        write_rows(out, jobs, outcomes)
    dispatch(pending, on_done)
    if world.main:
        # Only rank 0 draws: matplotlib is slow to import.
        from clear_dist.report.sweep import report, sweep_table

        rows = read_rows(out)
        written = report(rows, out)
        console.print(sweep_table(rows))
        write_run(out, config, finished=not failed, seconds=time.perf_counter() - began)
        say(f"{out / SWEEP_FILE}, and beside it {', '.join(path.name for path in written)}")
        if failed:
            say(f"{failed} runs failed; {out / LOGS} has what they said. The same command tries them again.")
    return int(agree(world, failed) > 0)


def not_applicable(job: Job) -> str | None:
    """Why a run cannot be, as far as that can be said without data and model."""
    if job.anchor:
        return None
    try:
        objective_of(job.config)
    except ConfigError as error:
        return str(error)
    return None


def write_rows(out: Path, jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> None:
    """sweep.json: the rows of ``jobs`` that have come to an end, then those of earlier sweeps into ``out``."""
    names = {job.name for job in jobs}
    rows = [row_of(job, outcomes[job.name]) for job in jobs if job.name in outcomes]
    rows += [row for row in read_rows(out) if row["run"] not in names]
    part = out / f"{SWEEP_FILE}.part"
    part.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, out / SWEEP_FILE)


def read_rows(out: Path) -> list[dict[str, Any]]:
    """The rows of ``out/sweep.json``; none where there is no such file."""
    path = out / SWEEP_FILE
    if not path.is_file():
        return []
    try:
        rows = json_value(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); remove it: it is written again") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("run"), str) for row in rows):
        raise UserError(f'{path}: expected a list of {{"run": NAME, ...}}; remove it: it is written again')
    return rows


def row_of(job: Job, outcome: Outcome) -> dict[str, Any]:
    """A row of sweep.json, from the run's own files.

    run, method, seed, set (hyperparameters in force), grid (this run's point of it), objective. Of a finished run:
    summary (its model's part of summary.json), seconds (training and evaluation together), seconds_by_part, with
    ``--eval-every`` curve (a list of {"step", figure: value}), with ``--keep best`` kept_step. Of another: error, or
    skipped.
    """
    row: dict[str, Any] = {"run": job.name, "method": job.method, "seed": job.seed}
    row |= {"set": dict(job.config.set) if not job.anchor else {}, "grid": dict(job.grid)}
    row["objective"] = None if job.anchor else (read_run(job.out) or {}).get("objective")
    if outcome.status != "done":
        return row | {"error" if outcome.status == "failed" else "skipped": outcome.message}
    found = json.loads((job.out / "summary.json").read_text(encoding="utf-8"))
    row["summary"] = found["models"][job.method if job.anchor else "unlearned"]
    row["seconds"] = round(sum(found["seconds"].values()), 3)
    row["seconds_by_part"] = found["seconds"]
    if job.config.eval_every and not job.anchor:
        row["curve"] = _curve(job.out / METRICS)
    if job.config.keep == "best" and (job.out / FOLDER / NOTE).is_file():
        row["kept_step"] = json.loads((job.out / FOLDER / NOTE).read_text(encoding="utf-8"))["step"]
    return row


def _curve(path: Path) -> list[dict[str, float]]:
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    return [{"step": line["step"], **line["eval"]} for line in lines if "eval" in line]


def _what(job: Job) -> str:
    if job.anchor:
        return "made once, measured as it is"
    config = job.config
    length = f"{config.steps} steps" if config.steps else f"{config.epochs} epochs"
    return (
        f"{length} of {config.global_batch} examples, lr {config.lr:g}, {not_applicable(job) or objective_of(config)}"
    )


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
