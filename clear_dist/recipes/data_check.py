"""``clear-dist data check DIR``: every fault of a dataset by kind and place; nothing is changed."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from clear_dist.config import DataCheckConfig
from clear_dist.data.check import Report, check_directory
from clear_dist.data.check.layout import read_tables
from clear_dist.data.clear import cache_directory
from clear_dist.data.images import decode
from clear_dist.services.progress import Terminal, say, task
from clear_dist.types import Picture, UserError

BROKEN = 1  # exit status (docs/exit-codes.md)
SIDE = 192  # pixels of a thumbnail's longer side
MOST = 400  # thumbnails of a page: some four megabytes


def run(config: DataCheckConfig) -> int:
    """Exit status 1 where there is a fault, 0 with warnings only. Raises UserError: no dataset there, no page where
    ``report`` says."""
    if config.report is not None:
        _check_page(config.report)
    with task(f"pictures of {config.folder}", 1, not config.json) as bar:

        def decoded(done: int, total: int) -> None:
            if bar is not None:
                bar.total = max(total, 1)
                bar.update(done)

        report = check_directory(
            config.folder, near=config.near, cache=cache_directory() / "pictures", on_progress=decoded
        )
    values = _values(report)
    if config.json:
        print(json.dumps(values))
    else:
        show(report, config.shown)
    if config.report is not None:
        _write_page(config.report, values, config.folder, config.shown)
        say(f"to read: {config.report}", not config.json)
    return 0 if report.sound else BROKEN


def _values(report: Report) -> dict[str, Any]:
    found = [asdict(finding) for finding in report.findings]
    values = {"v": 1, "source": report.source, "sound": report.sound, "counts": report.counts, "findings": found}
    return {**values, "people": report.people}


def show(report: Report, shown: int) -> None:
    console = Terminal(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 120)
    rows = ", ".join(f"{name} {count:,}" for name, count in report.counts.items())
    console.print(Text(f"{report.source}: {len(report.people)} people; rows: {rows}"), soft_wrap=True)
    if report.findings:
        table = Table(box=None, pad_edge=False)
        for name in ("kind", "place", "what"):
            table.add_column(name, overflow="fold")
        seen: Counter[str] = Counter()
        for finding in report.findings:
            seen[finding.kind] += 1
            if seen[finding.kind] <= shown:
                mark = "✕ " if finding.severity == "fault" else "! "
                table.add_row(*(Text(cell) for cell in (mark + finding.kind, finding.place, finding.what)))
        console.print(table)
        for kind, count in report.kinds().items():
            if count > shown:
                console.print(Text(f"{count - shown:,} more of {kind}; --shown {count} lists all"))
    faults, warnings = len(report.faults), len(report.findings) - len(report.faults)
    console.print(Text(f"{faults:,} fault{'s' * (faults != 1)}, {warnings:,} warning{'s' * (warnings != 1)}"))


def _check_page(path: Path) -> None:
    """Before the pictures are decoded, and so that nothing but a page is ever replaced by one."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--report {path}: expected a name that ends in .html")
    if path.is_dir():
        raise UserError(f"--report {path}: is a directory; name a file for the page")


def _write_page(path: Path, values: dict[str, Any], folder: Path, shown: int) -> None:
    from clear_dist.report.data_check_page import data_check_page, shown_pictures
    from clear_dist.report.data_pieces import write_page

    wanted = shown_pictures(values, shown)
    if len(wanted) > MOST:
        say(f"{path}: has the first {MOST} of {len(wanted):,} pictures; a lower --shown keeps to fewer findings")
    page = data_check_page(values, _thumbnails(folder, wanted[:MOST]) if wanted else {}, shown=shown)
    write_page(path, page)


def _thumbnails(folder: Path, digests: Iterable[str]) -> dict[str, bytes]:
    """digest -> JPEG; without those that cannot be decoded."""
    tables, _ = read_tables(folder, Report(str(folder)))
    pictures: dict[str, Picture] = {}
    for row in (row for rows in tables.visual.values() for row in rows):
        pictures.setdefault(row.picture.digest, row.picture)
    for row in tables.choices:
        if row.picture is not None:
            pictures.setdefault(row.picture.digest, row.picture)
    out = {}
    for digest in digests:
        try:
            image = decode(pictures[digest])
        except (KeyError, UserError):
            continue  # the page has a gap there
        image.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        out[digest] = buffer.getvalue()
    return out
