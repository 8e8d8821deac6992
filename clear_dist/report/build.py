"""Makes ``index.html``, ``report.md`` and ``figures/`` of one run or of several. Needs no model and no network."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from clear_dist.metrics.interval import Estimate
from clear_dist.report.draw import Image
from clear_dist.report.latex import latex
from clear_dist.report.markdown import markdown
from clear_dist.report.run import read_run
from clear_dist.report.runs import expand, read_runs
from clear_dist.report.runs_markdown import runs_markdown
from clear_dist.report.runs_view import RunsView, runs_view
from clear_dist.report.verdict import FORGET_MARGIN, RETAIN_MARGIN
from clear_dist.report.view import View, view
from clear_dist.report.words import MEANINGS, clean, number

FIGURES = "figures"


def _spot(share: float) -> str:
    """A proportion as a CSS position, two decimals."""
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _percent(value: Estimate | None) -> str:
    return "–" if value is None else f"{100 * value.value:.0f}%"


def _breakable(text: str) -> Markup:
    """A name, escaped, that may be broken after an underscore and before an @ where a column is narrow."""
    return Markup(escape(clean(text)).replace("_", Markup("_<wbr>")).replace("@", Markup("<wbr>@")))


def _cleaned(value: object) -> object:
    """Every text that comes to the page: escaped by Jinja, and without what turns the reading direction around it."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def page(content: View | RunsView) -> str:
    """The HTML page: one file, no outside resources; everything from data or models is escaped.

    Its one script copies LaTeX; the page's policy allows that very text, by its digest, and no other.
    """
    loader = PackageLoader("clear_dist.report", ".")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_cleaned,
    )
    environment.filters.update(breakable=_breakable, latex=latex, number=number, spot=_spot, percent=_percent)
    script = loader.get_source(environment, "copy.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals.update(
        meanings=MEANINGS,
        forget_margin=FORGET_MARGIN,
        retain_margin=RETAIN_MARGIN,
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
    )
    template = environment.get_template("page.html.j2" if isinstance(content, View) else "runs.html.j2")
    return template.render(view=content)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8", errors="replace")
    os.replace(temporary, path)


def _write_all(out: Path, content: View | RunsView, text: str) -> tuple[Path, Path]:
    out.mkdir(parents=True, exist_ok=True)
    images: Sequence[Image] = content.images
    for image in images:
        image.write(out / FIGURES)
    _write(out / "index.html", page(content))
    _write(out / "report.md", text)
    return out / "index.html", out / "report.md"


def report(run_dir: Path, out: Path | None = None) -> tuple[Path, Path]:
    """Writes the report of a run and returns the paths of index.html and report.md.

    Reads summary.json (required), run.json, metrics.jsonl (also of the stages original/, gold/, unlearned/),
    records.jsonl and pictures/DIGEST.png, whichever are there; what is absent is said in the report. The same run
    gives the same bytes. Raises UserError if there is no summary or a file is broken.

    Args:
        out: where to; default the run's directory.
    """
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
    return len(expand(folders)) > 1 or not (folders[0] / "summary.json").is_file()
