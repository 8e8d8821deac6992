"""Commands that read finished runs and show them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, ClassVar

from .base import Config, opt


class ReportConfig(Config):
    """Write the page, the Markdown file and the figures of a run, or of several side by side; needs no model."""

    recipe: ClassVar[str] = "report"
    runs: Annotated[tuple[Path, ...], "positional"] = opt(
        ..., "run", "run directories, also that of an attack on a farm; a sweep's directory stands for its runs", "RUN"
    )
    out: Path | None = opt(None, "run", "directory of the pages (default: that of the run; several need one)", "DIR")


with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # pydantic has a deprecated method `json`; the flag is worth its name

    class CompareConfig(Config):
        """Show several runs side by side in the terminal; runs of different data are not ranked together."""

        recipe: ClassVar[str] = "compare"
        runs: Annotated[tuple[Path, ...], "positional"] = opt(
            ..., "run", "run directories; a sweep's directory stands for its runs", "RUN"
        )
        json: bool = opt(False, "output", "as JSON, for programs")  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
