"""``clear-dist reproduce``: the same run again, and whether it comes to the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from .base import Config, opt


class ReproduceConfig(Config):
    """Run a finished run again as its run.json says, and compare: losses of every step, weights, answers. Exit status 1
    where something differs."""

    recipe: ClassVar[str] = "reproduce"
    run: Annotated[Path, "positional"] = opt(..., "run", "run directory of finetune, unlearn or evaluate", "RUN")
    fresh: bool = opt(False, "run", "with an empty cache, so that original and gold are trained again too")
    out: Path | None = opt(None, "output", "directory of the run that is made (default: RUN-again)", "DIR")
