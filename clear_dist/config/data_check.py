"""``clear-dist data check``: whether a dataset keeps the promises of CLEAR's layout."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, ClassVar

from .base import Config, opt

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # pydantic has a deprecated method `json`; the flag is worth its name

    class DataCheckConfig(Config):
        """Look at every row of a dataset directory: splits, labels, paraphrases, duplicates, leaks, pictures, balance.
        Exit status 1 where a promise is broken."""

        recipe: ClassVar[str] = "data_check"
        folder: Annotated[Path, "positional"] = opt(..., "data", "dataset directory in CLEAR's layout", "DIR")
        near: float = opt(
            2.0, "data", "mean difference, of 255, up to which pictures of two people are nearly the same", "X", ge=0
        )
        shown: int = opt(5, "output", "findings of each kind to print, and to show on the page", "N", ge=1)
        report: Path | None = opt(None, "output", "also write a page with the pictures concerned", "FILE")
        json: bool = opt(False, "output", "one JSON object on the standard output, for programs")  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
