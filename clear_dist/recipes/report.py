"""Write a run's pages again from its records."""

from __future__ import annotations

from clear_dist.config import ReportConfig
from clear_dist.report.build import report
from clear_dist.services.progress import say
from clear_dist.types import UserError


def run(config: ReportConfig) -> None:
    """Tables, figures and pages; no model is needed.

    Raises:
        UserError: ``run`` is no run directory, or one without a summary.
    """
    if not (config.run / "summary.json").is_file():
        raise UserError(f"{config.run}: no summary.json here; name the directory of a finished run or evaluation")
    report(config.run)
    say(f"report: {config.run / 'index.html'}")
