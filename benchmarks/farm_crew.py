"""Processes that train at the same time, and what is measured with them, in turns.

A crew is started once and lives through all rounds, as the farm's workers do; those of the plain loop have the
machine's own settings. Whole models are processes of their own, from start-up to what they leave behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.common import ROOT
from benchmarks.farm_ways import Case, Job, Way, case_json
from benchmarks.farm_whole import Whole, whole_json
from clear_dist.shadow.local import worker_environment

MACHINE_S_OWN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Variant:
    """``processes`` at once, each with ``threads``, do ``way``. tuned: started with the farm's allocator settings.
    lacks: what it takes away from the farm; None for what is measured for its own sake."""

    name: str
    way: Way
    processes: int
    threads: int
    tuned: bool = True
    lacks: str | None = None


def variants_of(device: str, cores: int) -> list[Variant]:
    """Everything whose images a second are measured. The plain ones come first, the farm as it is meant right after."""
    loaders = [0, max(2, cores)]
    plain = [Variant(f"plain, {n} loader processes", Way("plain", loaders=n), 1, cores, tuned=False) for n in loaders]
    if device == "cuda":
        return [
            *plain[1:],
            Variant("plain, resident", Way("resident"), 1, cores, tuned=False),
            Variant("farm, 1 worker", Way(), 1, 1),
            Variant("farm, 2 workers", Way(), 2, 1),
            Variant("farm, 4 workers", Way(), 4, 1),
            Variant("no CUDA graph", Way(graph=False), 1, 1, lacks="the step as one CUDA graph"),
            Variant("fp32", Way(bf16=False), 1, 1, lacks="bf16"),
        ]
    workers = f"farm, {cores} worker{'s' * (cores > 1)}"
    return [
        *plain,
        Variant(workers, Way(), cores, 1),
        *([Variant("farm, 1 worker", Way(), 1, 1)] if cores > 1 else []),
        Variant("files", Way("step", files=True), cores, 1, lacks="resident bytes (files decoded at every step)"),
        Variant("fp32", Way(bf16=False), cores, 1, lacks="bf16 (fp32)"),
        Variant("contiguous", Way("step", channels_last=False), cores, 1, lacks="channels_last (NCHW)"),
        Variant("default SGD", Way("step", fused=False), cores, 1, lacks="fused SGD (torch's default)"),
        Variant("malloc", Way(), cores, 1, tuned=False, lacks="malloc settings (glibc's own)"),
        *([Variant("threads", Way(), 1, cores, lacks="a process a core (one with all threads)")] if cores > 1 else []),
    ]


def farm_of(variants: Sequence[Variant], device: str) -> str:
    """The variant that those with something taken away stand beside."""
    return next(v.name for v in variants if v.name.startswith("farm, 1" if device == "cuda" else "farm"))


def environment(tuned: bool) -> dict[str, str]:
    added = worker_environment(1)
    own = {k: v for k, v in os.environ.items() if k not in added and k not in MACHINE_S_OWN}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**own, **(added if tuned else {}), "PYTHONPATH": path}


class Crew:
    """Processes of ``farm_ways`` for one case."""

    def __init__(self, case: Case, count: int, tuned: bool) -> None:
        began = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.farm_ways", case_json(case)]
        self.processes = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(tuned), cwd=ROOT
            )
            for _ in range(count)
        ]
        try:
            for process in self.processes:
                self._answer(process)
        except BaseException:
            self.close()
            raise
        self.start_up = time.perf_counter() - began

    def do(self, count: int, jobs: Sequence[Job]) -> list[dict[str, float]]:
        """One job for each of the first ``count`` processes, at the same time."""
        chosen = self.processes[:count]
        for process, job in zip(chosen, jobs, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(asdict(job)) + "\n")
            process.stdin.flush()
        return [self._answer(process) for process in chosen]

    @staticmethod
    def _answer(process: subprocess.Popen[str]) -> dict[str, float]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the benchmark ended (exit code {process.wait()}); what it said is above")
        return json.loads(line)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@contextmanager
def crews(case: Case, variants: Sequence[Variant]) -> Iterator[Mapping[bool, Crew]]:
    """tuned -> as many processes as the variants need."""
    made: dict[bool, Crew] = {}
    try:
        for tuned in (True, False):
            made[tuned] = Crew(case, max((v.processes for v in variants if v.tuned == tuned), default=1), tuned)
        yield made
    finally:
        for crew in made.values():
            crew.close()


def images_per_s(variant: Variant, crew: Crew, steps: int, seed: int) -> float:
    """Of all its processes together: their images over the seconds of the slowest."""
    jobs = [Job(asdict(variant.way), steps, variant.threads, seed + 100 * i) for i in range(variant.processes)]
    done = crew.do(variant.processes, jobs)
    return sum(d["images"] for d in done) / max(d["seconds"] for d in done)


def speeds(variants: Sequence[Variant], made: Mapping[bool, Crew], steps: int, rounds: int) -> dict[str, list[float]]:
    """variant -> images a second in every round; each round begins with another variant."""
    for variant in variants:
        images_per_s(variant, made[variant.tuned], 1, 0)  # kernels chosen, allocators grown
    out: dict[str, list[float]] = {v.name: [] for v in variants}
    for number in range(rounds):
        turn = number % len(variants)
        for variant in (*variants[turn:], *variants[:turn]):
            out[variant.name].append(images_per_s(variant, made[variant.tuned], steps, number))
    return out


def whole_models(case: Case, whole: Whole, loaders: int, threads: int, seed: int) -> dict[str, dict[str, float]]:
    """``plain``: one model in its own process. ``farm``: ``whole.models`` of them. wall: seconds from start to exit."""
    plain = [sys.executable, str(ROOT / "benchmarks" / "farm_plain.py"), "--folder", case.folder]
    options = {"size": case.size, "people": case.people, "epochs": whole.epochs, "batch": case.batch}
    options |= {"network": case.network, "loaders": loaders, "device": case.device, "threads": threads, "seed": seed}
    plain += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory(prefix="bench-farm-") as out:
        farm = [sys.executable, "-m", "benchmarks.farm_whole", case.folder, out, whole_json(whole)]
        commands = {"plain": plain, "farm": farm}
        order = list(commands) if seed % 2 == 0 else list(commands)[::-1]
        return {name: _timed(commands[name]) for name in order}


def _timed(command: Sequence[str]) -> dict[str, Any]:
    began = time.perf_counter()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env=environment(tuned=False), cwd=ROOT
    )
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])}: exit code {done.returncode}; what it said is above")
    return {**json.loads(done.stdout.splitlines()[-1]), "wall": wall}
