"""``clear-dist doctor``: the machine, looked at before a job meets what it lacks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import ClassVar

from .base import Config, opt

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # pydantic has a deprecated method `json`; the flag is worth its name

    class DoctorConfig(Config):
        """Check this machine: versions, GPUs, kernels, compilers, disks, shared memory, and ranks that talk to each
        other. Exit status 1 where something is broken."""

        recipe: ClassVar[str] = "doctor"
        ranks: bool = opt(
            True, "run", "start two ranks, or one for each GPU, and let them take steps under ZeRO-3 (half a minute)"
        )
        out: Path = opt(Path("runs"), "run", "where runs are going to be written", "DIR")
        json: bool = opt(False, "output", "one JSON object on the standard output, for programs")  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
