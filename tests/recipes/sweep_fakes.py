"""Runs that train nothing: what the sweep's tests do in place of unlearning, in this process and in others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from clear_dist.errors import ConfigError
from clear_dist.recipes.sweep_plan import Job
from clear_dist.services.rundir import claim_output, write_run

DONE = "done.txt"  # in the sweep's directory: a line for each run, in the order they were begun


def begun(out: Path) -> list[str]:
    path = out / DONE
    return path.read_text().splitlines() if path.is_file() else []


def _summary(job: Job, retain: float) -> dict[str, Any]:
    figure = {"value": retain, "ci": [0.0, 1.0], "n": 10}
    sets = {name: {"all": {"name_accuracy": figure, "fact_accuracy": figure}} for name in ("forget", "retain")}
    model = job.method if job.anchor else "unlearned"
    return {"v": 1, "models": {model: {"sets": sets}}, "seconds": {"unlearn": 2.0, "evaluate": 1.0}}


def execute(job: Job) -> None:
    """Leaves the files of a finished run; ``kl`` cannot apply, ``ga`` diverges, ``rmu`` kills its process."""
    with (job.out.parents[1] / DONE).open("a") as file:
        file.write(f"{job.name}\n")
    print(f"this is {job.name}")
    claim = claim_output(job.out, job.config)
    write_run(job.out, job.config, finished=False, objective=f"equation of {job.method}")
    if job.method == "kl":
        raise ConfigError("--method kl: needs pictures")
    if job.method == "ga":
        raise FloatingPointError("step 7: loss is not finite")
    if job.method == "rmu":
        os._exit(3)
    (job.out / "summary.json").write_text(json.dumps(_summary(job, 0.5 + 0.1 * job.seed)))
    lines = [{"step": 0, "eval": {"exact/forget": 1.0}}, {"step": 1, "loss": 2.0}]
    (job.out / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    write_run(job.out, job.config, finished=True, objective=f"equation of {job.method}")
    claim.release()


def no_original(job: Job) -> None:
    """The original of seed 1 cannot be made."""
    if job.name == "original-seed1":
        raise OSError("no space left")
    execute(job)
