"""Makes ``index.html``, ``report.md`` and ``figures/`` of one run or of several. Needs no model and no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clear_dist.report.farm import farm_report
from clear_dist.report.farm_read import is_farm
from clear_dist.report.markdown import markdown
from clear_dist.report.render import render, write_report
from clear_dist.report.run import read_run
from clear_dist.report.runs import expand, read_runs
from clear_dist.report.runs_markdown import runs_markdown
from clear_dist.report.runs_view import RunsView, runs_view
from clear_dist.report.view import View, view
from clear_dist.report.words import MEANINGS


def _write_all(out: Path, content: View | RunsView, text: str) -> tuple[Path, Path]:
    page = render("page.html.j2" if isinstance(content, View) else "runs.html.j2", content, MEANINGS)
    write_report(out, content.images, {"index.html": page, "report.md": text})
    return out / "index.html", out / "report.md"


def report(run_dir: Path, out: Path | None = None) -> tuple[Path, Path]:
    """Writes the report of a run and returns the paths of index.html and report.md.

    Reads summary.json (required), run.json, metrics.jsonl (also of the stages original/, gold/, unlearned/),
    records.jsonl and pictures/DIGEST.png, whichever are there; what is absent is said in the report. The same run
    gives the same bytes. Raises UserError if there is no summary or a file is broken.

    A directory with attack.json and no summary.json is that of an attack on a farm: see ``farm.farm_report``.

    Args:
        out: where to; default the run's directory.
    """
    if is_farm(run_dir):
        return farm_report(run_dir, out)
    content = view(read_run(run_dir))
    return _write_all(out or run_dir, content, markdown(content))


def report_runs(folders: Sequence[Path], out: Path) -> tuple[Path, Path]:
    """Writes the report of several runs, side by side, into ``out``; sweeps' directories stand for their runs.

    Runs of different data are shown apart and never ranked together. Returns the paths of index.html and report.md.
    Raises UserError if a directory is no finished run, or one of its files is broken.
    """
    content = runs_view(read_runs(folders), out)
    return _write_all(out, content, runs_markdown(content))


def is_several(folders: Sequence[Path]) -> bool:
    """Whether these are several runs. Raises UserError if one is no finished run."""
    first = folders[0]
    return len(expand(folders)) > 1 or not (is_farm(first) or (first / "summary.json").is_file())
