"""Run directories: one run each, claimed before anything is written, continued only by the run that began them."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clear_dist.config import Config
from clear_dist.errors import UserError
from clear_dist.reading import json_value

RUN_FILE, LOCK_FILE = "run.json", ".lock"
CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"
PACKAGES = ("clear-dist", "torch", "transformers", "peft", "datasets", "deepspeed", "numpy")


@dataclass(frozen=True)
class Claim:
    """A run directory that is ours until ``release`` or the end of the process.

    state: ``new`` (nothing there yet) or ``resume`` (begun before by the same configuration).
    """

    out: Path
    state: Literal["new", "resume"]
    lock: int = field(repr=False, compare=False)  # an open file descriptor; closing it, or dying, lets go

    def release(self) -> None:
        (self.out / LOCK_FILE).unlink(missing_ok=True)
        os.close(self.lock)


def read_run(out: Path) -> dict[str, Any] | None:
    """``run.json`` of a run directory; None where there is none that can be read, or none of the form ``write_run``
    gives it."""
    try:
        run = json_value((out / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(run, dict):
        return None
    formed = all(isinstance(run.get(name, {}), dict) for name in ("config", "versions", "machine"))
    return run if formed and all(isinstance(run.get(name, ""), str) for name in ("recipe", "digest")) else None


def is_complete(out: Path) -> bool:
    """Whether ``out`` holds a run that came to its end."""
    return bool((read_run(out) or {}).get("finished"))


def versions() -> dict[str, str | None]:
    """What runs: Python and the packages that decide numbers; None for what is not installed."""
    out: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = None
    return out


def source() -> dict[str, Any] | None:
    """{commit, changed} of the checkout this code runs from; None where it is installed, or there is no git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        said = [
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": said[0].strip(), "changed": bool(said[1].strip())}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = [k for k in new if old.get(k) != new[k]]
    return "; ".join(f"{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in keys[:4]) + ("; ..." * (len(keys) > 4))


def claim_output(out: Path, config: Config, resume: str = "auto") -> Claim:
    """Make ``out`` this run's directory; call it on one process only.

    Raises:
        UserError: ``out`` is a file, another process writes there, it holds something that is no run, it holds a run
            of another configuration, or one of this configuration and ``resume`` is ``never``.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a directory")
    files = sorted(path.name for path in out.iterdir() if path.name != LOCK_FILE) if out.is_dir() else []
    run = read_run(out)
    if files and run is None:
        raise UserError(
            f"--out {out}: not empty ({', '.join(files[:3])}) and no run of clear_dist; name an empty or new directory"
        )
    same = run is not None and run.get("digest") == config.digest()
    if run is not None and not same:
        difference = _differences(run.get("config") or {}, config.identity())
        if run.get("recipe") != config.recipe:
            difference = f"it was made by {run.get('recipe')}, not {config.recipe}"
        raise UserError(
            f"--out {out}: holds another run ({difference or 'the --ds file has changed'}); "
            "name another directory, or give the same options to go on with it"
        )
    if same and resume == "never":
        raise UserError(f"--out {out}: holds this run already and --resume is never; use auto, or another directory")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); name another directory") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(lock, 200, 0).decode(errors="replace") or "another process"
        os.close(lock)
        raise UserError(f"--out {out}: in use by {holder}; wait for it, or name another directory") from None
    os.truncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {platform.node()}".encode(), 0)
    return Claim(out, "resume" if same else "new", lock)


def holder_of(out: Path) -> str | None:
    """Which live process has claimed a run directory; None where none has."""
    try:
        lock = os.open(out / LOCK_FILE, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return os.pread(lock, 200, 0).decode(errors="replace") or "another process"
    finally:
        os.close(lock)
    return None


def resume_source(path: Path, config: Config) -> Path:
    """The run directory that ``--resume PATH`` names (itself, its ``checkpoints/``, or one of those).

    Raises:
        UserError: nothing there, no checkpoint in it, or a run of another configuration.
    """
    for folder in (path, *path.parents[:2]):
        if (run := read_run(folder)) is not None:
            break
    else:
        raise UserError(f"--resume {path}: no run of clear_dist there; name a run directory, or use auto")
    if not any((folder / CHECKPOINTS).glob("step_*")):
        raise UserError(f"--resume {path}: {folder} holds no checkpoint; use --checkpoint-every N to write some")
    if run.get("digest") != config.digest():
        difference = _differences(run.get("config") or {}, config.identity()) or "the --ds file has changed"
        raise UserError(f"--resume {path}: was begun with other options ({difference}); give the same ones")
    return folder


def copy_progress(source: Path, out: Path) -> None:
    """Put another run's checkpoints and step metrics into ``out``, to go on from there."""
    shutil.copytree(source / CHECKPOINTS, out / CHECKPOINTS, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    if (source / METRICS).is_file():
        shutil.copy2(source / METRICS, out / METRICS)


def _program() -> str:
    """What was typed: the console script, or a launcher's path."""
    script = Path(sys.argv[0])
    return str(script) if script.suffix == ".py" and script.name != "__main__.py" else "clear-dist"


def write_run(out: Path, config: Config, **more: Any) -> dict[str, Any]:
    """Write ``run.json``: the resolved configuration, its digest, versions, the command, and ``more`` (seeds and
    digests of data and models, JSON-ready). Replaced in one step, so a reader never sees half a file."""
    run = {
        "v": 1,
        "recipe": config.recipe,
        "config": config.model_dump(mode="json"),
        "digest": config.digest(),
        "versions": versions(),
        "source": source(),
        "command": shlex.join([_program(), *sys.argv[1:]]),
        **more,
    }
    part = out / f"{RUN_FILE}.part"
    part.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    part.replace(out / RUN_FILE)
    return run
