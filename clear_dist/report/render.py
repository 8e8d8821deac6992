"""From what a report says to its files: the page by its template, the text beside it, the figures."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from clear_dist.metrics.interval import Estimate
from clear_dist.report.draw import Image
from clear_dist.report.latex import latex
from clear_dist.report.verdict import FORGET_MARGIN, RETAIN_MARGIN
from clear_dist.report.words import clean, number

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


def render(template: str, view: object, meanings: Mapping[str, str]) -> str:
    """The HTML page: one file, no outside resources; everything from data or models is escaped.

    Its one script copies LaTeX; the page's policy allows that very text, by its digest, and no other.

    Args:
        template: name of a file beside this one; it sees ``view``.
        meanings: term -> what it means, for the page's last section.
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
        meanings=meanings,
        forget_margin=FORGET_MARGIN,
        retain_margin=RETAIN_MARGIN,
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
    )
    return environment.get_template(template).render(view=view)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8", errors="replace")
    os.replace(temporary, path)


def write_report(out: Path, images: Sequence[Image], texts: Mapping[str, str]) -> None:
    """Writes figures/NAME.png and .svg, then the texts (file name -> content), each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    for image in images:
        image.write(out / FIGURES)
    for name, text in texts.items():
        _write(out / name, text)
