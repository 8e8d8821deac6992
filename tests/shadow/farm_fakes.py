"""A farm that trains nothing: results are numbers computed from a task and its parents' weights.

What a task does beyond that is in its spec: ``wait`` (seconds), ``crash``, ``error``, ``hang``; with ``until`` (a file)
only while that file is not there. Each execution appends its name to ``log``.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from clear_dist.shadow.folder import create_farm
from clear_dist.shadow.task import Outcome, Runner, RunnerRef, Task, make_task

HEAD = {"settings": {"seed": 1, "models": 3}, "threads": 1}


def make_fake(log: str, weights: bool = True) -> Runner:
    def run(task: Task, parents: Mapping[str, Mapping[str, Tensor]]) -> Outcome:
        with open(log, "a", encoding="utf-8") as file:  # one write of a line: appends are atomic
            file.write(f"{task.name}\n")
        spec = task.spec
        if not (spec.get("until") and Path(spec["until"]).exists()):
            if spec.get("crash"):
                os._exit(9)
            if spec.get("error"):
                raise ValueError(f"{task.name} cannot be done")
            while spec.get("hang"):
                time.sleep(0.05)
        time.sleep(spec.get("wait", 0.0))
        text = task.key + "".join(f"{k}{w['w'].tolist()}" for k, w in sorted(parents.items()))
        numbers = torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
        kept = {"w": numbers.double()} if weights else None
        return Outcome({"logit": numbers.double() / 7, "predicted": numbers.int()}, kept, {"loss": 0.5})

    return run


def no_runner(log: str) -> Runner:
    raise RuntimeError(f"no pictures beside {log}")


def plan(models: int = 3, *, wait: float = 0.0, **odd: Mapping[str, object]) -> list[Task]:
    """One pretraining, ``models`` shadow models from it, one unlearning of each. ``odd``: what a task's spec holds
    beyond the usual, by its name with ``_`` for the slash."""

    def task(kind: str, name: str, parents: tuple[str, ...] = ()) -> Task:
        return make_task(kind, name, {"name": name, "wait": wait, **odd.get(name.replace("/", "_"), {})}, parents)

    base = task("pretrain", "pretrain")
    shadows = [task("shadow", f"shadow/{m}", (base.key,)) for m in range(models)]
    return [base, *shadows, *(task("unlearn", f"twins/{m}", (s.key,)) for m, s in enumerate(shadows))]


def plant(folder: Path, tasks: list[Task], factory: str = "make_fake") -> Path:
    """Create the farm; the file its executions are logged in."""
    log = folder.with_name(f"{folder.name}.log")
    create_farm(folder, HEAD, RunnerRef(f"tests.shadow.farm_fakes:{factory}", {"log": str(log)}), tasks)
    return log


def executed(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []
