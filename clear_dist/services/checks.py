"""What a machine has, checked without torch: each check says what it found, and what to do where that is not enough."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

State = Literal["ok", "warning", "missing", "broken"]
DISK, SHARED, FILES = 20_000_000_000, 1_000_000_000, 1024  # bytes free, bytes of /dev/shm, open files: below is told
SECONDS = 20  # for a program that says its version
NEEDS_PYTHON = (3, 11)
# Settings that change how ranks find each other or how fast they are: shown where they are set.
TELLING = (
    *("CUDA_VISIBLE_DEVICES", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"),
    *("CLEAR_DIST_OPS_IMPL", "CLEAR_DIST_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "TRITON_INTERPRET"),
    *("DEEPSPEED_TIMEOUT", "PYTHONPATH"),
)


@dataclass(frozen=True)
class Check:
    """name: what was looked at. state: ok; warning (works, but); missing (optional, and not there); broken (jobs will
    fail). found: what was seen; advice: what to do, empty where there is nothing to do."""

    name: str
    state: State
    found: str
    advice: str = ""


def guarded(name: str, look: Callable[[], Check | list[Check]]) -> list[Check]:
    """What a look found; a look that fails has found that something is broken."""
    try:
        found = look()
    except Exception as error:
        return [Check(name, "broken", f"{type(error).__name__}: {error}".strip(": "), "see the message; ask with it")]
    return found if isinstance(found, list) else [found]


def python() -> Check:
    """The interpreter, and whether it is an environment of its own."""
    said = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < NEEDS_PYTHON:
        return Check("Python", "broken", said, f"install Python {'.'.join(map(str, NEEDS_PYTHON))} or newer")
    if sys.prefix == sys.base_prefix:
        return Check("Python", "warning", said, "no virtual environment: `make setup` makes one with tested versions")
    return Check("Python", "ok", said)


def packages(distribution: str = "clear-dist") -> list[Check]:
    """Required packages, each in its range; optional ones of users by the extra that brings them."""
    out: list[Check] = []
    for text in importlib.metadata.requires(distribution) or ():
        need = Requirement(text)
        extra = _extra(need)
        if extra in ("dev", "bench", "browser"):
            continue
        have = _version(need.name)
        name, wanted = f"package {need.name}", f"{need.specifier}"
        if have is None:
            install = f"pip install '{distribution}[{extra}]'" if extra else f"pip install '{need.name}{wanted}'"
            out.append(Check(name, "missing" if extra else "broken", "not installed", f"{install} where it is wanted"))
        elif not need.specifier.contains(have, prereleases=True):
            out.append(
                Check(
                    name,
                    "warning" if extra else "broken",
                    f"{have}, tested with {wanted}",
                    f"pip install '{need.name}{wanted}'",
                )
            )
        else:
            out.append(Check(name, "ok", have))
    return sorted(out, key=lambda c: (c.state == "missing", c.name))


def _extra(need: Requirement) -> str | None:
    """The extra a requirement belongs to; None where everybody gets it."""
    if need.marker is None or need.marker.evaluate({"extra": ""}):
        return None
    words = str(need.marker).replace("'", '"').split('extra == "')
    return words[1].split('"')[0] if len(words) > 1 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def compilers() -> list[Check]:
    """Only needed to build the native ops: without them the slower reference runs."""
    out = []
    for name, use in (("c++", "CPU kernels"), ("nvcc", "CUDA kernels"), ("ninja", "faster builds")):
        path = shutil.which(os.environ.get("CXX", name) if name == "c++" else name)
        if path is None:
            out.append(Check(f"compiler {name}", "missing", "not found", f"only for building {use}"))
        else:
            out.append(Check(f"compiler {name}", "ok", version_line(path)))
    return out


def version_line(program: str) -> str:
    """The line of ``program --version`` that has a number in it."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=SECONDS, check=False)
    lines = [line.strip() for line in (said.stdout + said.stderr).splitlines() if any(c.isdigit() for c in line)]
    release = [line for line in lines if "release" in line]
    return (release or lines or ["no version"])[0]


def disk(folder: Path, use: str) -> Check:
    """Room, and the three things that results rely on: a new file, a rename over an old one, a lock."""
    name, folder = f"disk for {use}", folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as place:
            first, second = Path(place) / "a", Path(place) / "b"
            for file in (first, second):
                with file.open("w") as out:
                    out.write("x")
                    out.flush()
                    os.fsync(out.fileno())
                    fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.replace(first, second)
    except OSError as error:
        return Check(
            name,
            "broken",
            f"{folder}: {error.strerror or error}",
            "choose a folder that can be written, renamed in and locked (NFS needs its lock daemon)",
        )
    free = shutil.disk_usage(folder).free
    said = f"{folder}: {free / 1e9:,.1f} GB free"
    if free < DISK:
        return Check(name, "warning", said, "a checkpoint of a 7B model with optimiser takes 30 to 100 GB")
    return Check(name, "ok", said)


def shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    """Ranks on one machine (NCCL, gloo, Ray) talk through it."""
    if not folder.is_dir():
        return Check("shared memory", "warning", f"{folder} is not there", "ranks on one machine may fail to start")
    size = shutil.disk_usage(folder).total
    said = f"{folder}: {size / 1e9:,.2f} GB"
    if size < SHARED:
        return Check("shared memory", "warning", said, "start the container with --shm-size=16g or --ipc=host")
    return Check("shared memory", "ok", said)


def limits() -> Check:
    """Open files: a rank of a sharded model has thousands."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"{soft:,} open files ({hard:,} at most)"
    if 0 <= soft < FILES:
        return Check("limits", "warning", said, f"ulimit -n {min(hard, 65536) if hard > 0 else 65536}")
    return Check("limits", "ok", said)


def host_name() -> Check:
    """gloo and NCCL ask for the address of this machine's own name."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
        with socket.socket() as probe:
            probe.bind((address, 0))
    except OSError as error:
        return Check(
            "host name",
            "warning",
            f"{name}: {error.strerror or error}",
            f"add `127.0.0.1 {name}` to /etc/hosts, or set GLOO_SOCKET_IFNAME=lo",
        )
    return Check("host name", "ok", f"{name} is {address}")


def environment() -> Check:
    """Variables that decide how ranks run; not a fault in themselves."""
    found = [f"{name}={os.environ[name]}" for name in TELLING if name in os.environ]
    if "CLEAR_DIST_OPS_IMPL" in os.environ or os.environ.get("TRITON_INTERPRET") == "1":
        return Check("environment", "warning", ", ".join(found), "an op's implementation is forced: unset it for speed")
    return Check("environment", "ok", ", ".join(found) or "nothing set that changes a run")
