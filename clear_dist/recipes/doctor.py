"""``clear-dist doctor``: is this machine fit for the work, and what to do where it is not."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clear_dist import __version__
from clear_dist.config import DoctorConfig
from clear_dist.data.clear import cache_directory
from clear_dist.services import checks
from clear_dist.services.checks import Check, guarded

BROKEN = 1
MARKS = {
    "ok": ("ok", "green"),
    "warning": ("look", "yellow"),
    "missing": ("–", "dim"),
    "broken": ("BROKEN", "bold red"),
}
Look = Callable[[], Check | list[Check]]


def run(config: DoctorConfig) -> int:
    """Exit status 1 where something is broken, 0 otherwise."""
    found = [check for name, look in looks(config).items() for check in guarded(name, look)]
    if config.json:
        print(json.dumps({"v": 1, "version": __version__, "checks": [asdict(check) for check in found]}))
    else:
        show(found)
    return BROKEN if any(check.state == "broken" for check in found) else 0


def looks(config: DoctorConfig) -> dict[str, Look]:
    """What is looked at, in order; torch is imported by the first look that needs it, so that a broken one is told."""

    def device(name: str) -> Look:
        def look() -> Check | list[Check]:
            from . import doctor_device

            return getattr(doctor_device, name)()

        return look

    out: dict[str, Look] = {
        "Python": checks.python,
        "packages": checks.packages,
        "torch": device("torch_itself"),
        "GPUs": device("gpus"),
        "ops": device("kernels"),
        "compilers": checks.compilers,
        "disk of runs": lambda: checks.disk(config.out, "runs"),
        "disk of the cache": lambda: checks.disk(cache_directory(), "the cache"),
        "disk of temporary files": lambda: checks.disk(Path(tempfile.gettempdir()), "temporary files"),
        "shared memory": checks.shared_memory,
        "limits": checks.limits,
        "host name": checks.host_name,
        "environment": checks.environment,
    }
    if config.ranks:
        out["ranks"] = device("ranks")
    return out


def show(found: list[Check]) -> None:
    """A table, then what to do, the broken first."""
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("", "", ""):
        table.add_column(column, overflow="fold")
    for check in found:
        mark, style = MARKS[check.state]
        table.add_row(Text(mark, style), Text(check.name), Text(check.found))
    console.print(table)
    for state in ("broken", "warning", "missing"):
        for check in found:
            if check.state == state and check.advice:
                console.print(Text(f"{check.name}: {check.advice}", MARKS[state][1]), soft_wrap=True)
    counts = {state: sum(check.state == state for check in found) for state in MARKS}
    console.print(
        f"{counts['ok']} fine, {counts['warning']} to look at, {counts['broken']} broken, {counts['missing']} optional "
        "ones not there"
    )
