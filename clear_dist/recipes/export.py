"""Records or summaries of runs as one flat file."""

from __future__ import annotations

from pathlib import Path

from clear_dist.config import ExportConfig
from clear_dist.metrics.record import read_records
from clear_dist.report.run import read_summary
from clear_dist.services.flat import check_target, records_table, summary_table, write_table
from clear_dist.services.progress import say
from clear_dist.types import UserError

FILES = {"records": "records.jsonl", "summary": "summary.json"}


def run(config: ExportConfig) -> None:
    """``clear-dist export``.

    Raises:
        UserError: a run that is named twice or has no such file; an ending that is neither .parquet nor .csv.
    """
    check_target(config.out)
    files: dict[str, Path] = {}
    for folder in config.runs:
        if any(folder.resolve() == Path(other).resolve() for other in files):
            raise UserError(f"{folder}: named twice; its rows would count twice")
        files[str(folder)] = run_file(folder, FILES[config.what])
    if config.what == "records":
        table = records_table({name: read_records(file) for name, file in files.items()})
    else:
        table = summary_table({name: read_summary(file) for name, file in files.items()})
    write_table(config.out, table)
    say(f"{config.out}: {len(table.rows)} rows, {len(table.columns)} columns")


def run_file(folder: Path, name: str) -> Path:
    """A file of a run directory. Raises UserError where there is none, and says where to look instead."""
    file = folder / name
    if file.is_file():
        return file
    if not folder.is_dir():
        raise UserError(f"{folder}: no such directory; name a run directory")
    inside = sorted(path.parent.name for path in folder.glob(f"*/{name}"))
    hint = f"; did you mean {folder / inside[0]}?" if inside else "; name the directory of a finished run or evaluation"
    raise UserError(f"{folder}: no {name} here{hint}")
