"""Makes ``index.html`` and ``report.md`` of a run directory. Needs no model and nothing of the network."""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from clear_dist.metrics.interval import Estimate
from clear_dist.report.markdown import markdown
from clear_dist.report.run import read_run
from clear_dist.report.verdict import FORGET_MARGIN, RETAIN_MARGIN
from clear_dist.report.view import View, footnotes, view
from clear_dist.report.words import MEANINGS, interval, number


def _spot(share: float) -> str:
    """A proportion as a CSS position, two decimals."""
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _percent(value: Estimate | None) -> str:
    return "–" if value is None else f"{100 * value.value:.0f}%"


def page(content: View) -> str:
    """The HTML page: one file, no scripts, no outside resources; everything from data or models is escaped."""
    environment = Environment(
        loader=PackageLoader("clear_dist.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(footnotes=footnotes, number=number, interval=interval, spot=_spot, percent=_percent)
    template = environment.get_template("page.html.j2")
    return template.render(view=content, meanings=MEANINGS, forget_margin=FORGET_MARGIN, retain_margin=RETAIN_MARGIN)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def report(run_dir: Path) -> tuple[Path, Path]:
    """Writes the report of a run and returns the paths of index.html and report.md.

    Reads summary.json (required), run.json, metrics.jsonl (also of the stages original/, gold/, unlearned/),
    records.jsonl and pictures/DIGEST.png, whichever are there; what is absent is said in the report. The same run
    gives the same bytes. Raises UserError if there is no summary or a file is broken.
    """
    content = view(read_run(run_dir))
    html, text = run_dir / "index.html", run_dir / "report.md"
    _write(html, page(content))
    _write(text, markdown(content))
    return html, text
