"""The whole story on CLEAR-mini, from one command: learn everyone, learn all but a few, forget those few, compare.

Original and gold train side by side, a process each; the forgetting is a DeepSpeed job of ``--ranks`` processes,
started exactly as a user would start it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from clear_dist.config import QuickstartConfig, UnlearnConfig
from clear_dist.data.load import load_dataset
from clear_dist.services.progress import say, task
from clear_dist.services.rundir import is_complete, read_run
from clear_dist.types import UserError

from .common import is_finished
from .finetune import cache_entry, derived

ROOT = Path(__file__).resolve().parents[2]
TOP = ("summary.json", "index.html", "report.md")


def run(config: QuickstartConfig) -> None:
    """``make quickstart`` and ``clear-dist quickstart``."""
    out = config.out
    job = job_config(config)
    if (out / "summary.json").is_file() and is_finished(out / "unlearned", job):
        say(f"finished already: {out / 'index.html'}")
        return
    if out.exists() and any(out.iterdir()) and not (out / "unlearned").exists() and not (out / "original").exists():
        raise UserError(f"--out {out}: not empty and no quickstart; name an empty or new directory.")
    began = time.perf_counter()
    seconds: dict[str, float] = {}
    data = load_dataset(job.data, seed=job.seed)
    seconds["data"] = time.perf_counter() - began

    mark = time.perf_counter()
    folders = {on: cache_entry(derived(job, on), data) for on in ("all", "retain")}
    _train_side_by_side(config, {on: f for on, f in folders.items() if not is_complete(f)})
    seconds["original and gold"] = time.perf_counter() - mark
    for on, name in (("all", "original"), ("retain", "gold")):
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.copytree(folders[on], out / name)

    mark = time.perf_counter()
    _unlearn(config, out)
    seconds["unlearn and evaluate"] = time.perf_counter() - mark
    copy_pages(out / "unlearned", out)
    split = ", ".join(f"{k} {v:.0f} s" for k, v in seconds.items())
    say(f"done in {time.perf_counter() - began:.0f} s ({split}). Open {out / 'index.html'}")


def copy_pages(run: Path, top: Path) -> None:
    """A run's summary, page and figures, once more in the directory above it."""
    for name in TOP:
        shutil.copy2(run / name, top / name)
    shutil.copytree(run / "figures", top / "figures", dirs_exist_ok=True)


def job_config(config: QuickstartConfig) -> UnlearnConfig:
    """The unlearning job as its own command line would configure it."""
    method = {} if config.method is None else {"method": config.method}
    return UnlearnConfig(
        seed=config.seed,
        ds=config.ds,
        out=config.out / "unlearned",
        merge=True,
        original=config.out / "original",
        gold_model=config.out / "gold",
        **method,  # pyright: ignore[reportArgumentType]
    )


def _train_side_by_side(config: QuickstartConfig, missing: dict[str, Path]) -> None:
    """A plain process each: two one-core trainings beat one training on two cores by far at this size."""
    if not missing:
        say("original and gold: from the cache")
        return
    jobs: list[tuple[str, Path, subprocess.Popen[bytes], Path]] = []
    for on, final in missing.items():
        shutil.rmtree(final, ignore_errors=True)
        log = final.with_name(final.name + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "clear_dist", "finetune", "--on", on, "--seed", str(config.seed)]
        command += ["--out", str(final)]
        with log.open("wb") as file:
            environment = _environment(len(missing))
            jobs.append((on, final, subprocess.Popen(command, env=environment, stdout=file, stderr=file), log))
    with task("training " + " and ".join(_TITLES[on] for on in missing), PERCENT) as bar:
        while any(process.poll() is None for _, _, process, _ in jobs):
            time.sleep(0.5)
            if bar is not None:
                bar.update(min(PERCENT - 1, round(PERCENT * min(_share_done(final) for _, final, _, _ in jobs))))
        if bar is not None:
            bar.update(PERCENT)
    for on, _, process, log in jobs:
        if process.returncode != 0:
            tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise UserError(f"training {_TITLES[on]} failed; the end of {log}:\n{tail}")


_TITLES = {"all": "the original", "retain": "gold"}
PERCENT = 100


def _share_done(run: Path) -> float:
    """How far a training in another process is, by its files."""
    steps = (read_run(run) or {}).get("steps")
    metrics = run / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") / steps if steps and metrics.is_file() else 0.0


def _unlearn(config: QuickstartConfig, out: Path) -> None:
    job = ["--ds", str(config.ds), "--seed", str(config.seed), "--out", str(out / "unlearned"), "--merge"]
    job += ["--original", str(out / "original"), "--gold-model", str(out / "gold")]
    if config.method is not None:
        job += ["--method", config.method]
    launcher = Path(sys.executable).with_name("deepspeed")
    start = (
        [sys.executable, str(launcher)] if launcher.is_file() else [sys.executable, "-m", "deepspeed.launcher.runner"]
    )
    ranks = min(config.ranks, torch.cuda.device_count()) if torch.cuda.is_available() else config.ranks
    command = [*start, "--quiet", "--num_gpus" if torch.cuda.is_available() else "--num_accelerators", str(ranks)]
    command += [str(ROOT / "launchers" / "unlearn.py"), *job]
    say("$ " + " ".join(["deepspeed", *command[len(start) :]]))
    status = subprocess.run(command, env=_environment(ranks), check=False).returncode
    if status != 0:
        raise UserError(f"the unlearning job ended with status {status}; its messages are above.")


def _environment(processes: int) -> dict[str, str]:
    """Threads shared out, so that processes do not fight for cores."""
    threads = max(1, (os.cpu_count() or 1) // max(1, processes))
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
