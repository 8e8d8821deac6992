"""``clear-dist checkpoint``: what a run has saved, whether it is whole, and what may go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from .base import Config, opt


class CheckpointFields(Config):
    """Which checkpoints."""

    recipe: ClassVar[str] = "checkpoint"
    folder: Annotated[Path, "positional"] = opt(..., "run", "run directory, or its checkpoints/", "DIR")


class CheckpointListConfig(CheckpointFields):
    """The checkpoints of a run, newest first; files are compared by size."""


class CheckpointVerifyConfig(CheckpointFields):
    """Read every byte of a run's checkpoints and name the files that are damaged. Exit status 1 where one is."""


class CheckpointPruneConfig(CheckpointFields):
    """Keep a run's newest checkpoints that are whole, by every byte, and remove what is older."""

    keep: int = opt(2, "run", "how many stay", "N", ge=1)
