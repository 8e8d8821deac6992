"""``clear-dist data check DIR``: every fault of a dataset by kind and place; nothing is changed."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from clear_dist.config import DataCheckConfig
from clear_dist.data.check import Report, check_directory
from clear_dist.data.clear import cache_directory
from clear_dist.services.progress import Terminal, task

BROKEN = 1  # exit status (docs/exit-codes.md)


def run(config: DataCheckConfig) -> int:
    """Exit status 1 where there is a fault, 0 with warnings only. Raises UserError: no dataset there."""
    with task(f"pictures of {config.folder}", 1, not config.json) as bar:

        def decoded(done: int, total: int) -> None:
            if bar is not None:
                bar.total = max(total, 1)
                bar.update(done)

        report = check_directory(
            config.folder, near=config.near, cache=cache_directory() / "pictures", on_progress=decoded
        )
    if config.json:
        found = [asdict(finding) for finding in report.findings]
        values = {"v": 1, "source": report.source, "sound": report.sound, "counts": report.counts, "findings": found}
        print(json.dumps({**values, "people": report.people}))
    else:
        show(report, config.shown)
    return 0 if report.sound else BROKEN


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
