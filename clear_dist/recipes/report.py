"""Write the pages of a run, or of several side by side, from their records."""

from __future__ import annotations

from clear_dist.config import ReportConfig
from clear_dist.report.build import is_several, report, report_runs
from clear_dist.report.runs import expand
from clear_dist.services.progress import say
from clear_dist.types import UserError


def run(config: ReportConfig) -> None:
    """``clear-dist report``: tables, figures and pages; no model is needed.

    Raises:
        UserError: a directory that is no finished run, a broken file, several runs without ``--out``.
    """
    if is_several(config.runs):
        if config.out is None and len(config.runs) > 1:
            raise UserError(
                "--out: expected a directory for the page of several runs, got nothing; e.g. --out runs/report"
            )
        page, _ = report_runs(config.runs, config.out or next(iter(config.runs)))
    else:
        (folder,) = expand(config.runs)
        page, _ = report(folder, config.out or folder)
    say(f"report: {page}")
