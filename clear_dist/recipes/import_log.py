"""Another program's evaluation logs as a run of ours: records, summary, report."""

from __future__ import annotations

import hashlib
from pathlib import Path

from clear_dist.config import ImportLogConfig
from clear_dist.evaluation.records import write_records
from clear_dist.evaluation.summary import summarise, write_summary
from clear_dist.metrics.record import Record
from clear_dist.report.build import report
from clear_dist.report.tables import compare_table
from clear_dist.services.log_rows import Log, check_same_rows, with_common_texts
from clear_dist.services.progress import console, say
from clear_dist.services.rundir import claim_output, write_run
from clear_dist.services.tofu_log import read_log, records_of

IMPORTED = "imported"  # the model's name in records and summary


def run(config: ImportLogConfig) -> None:
    """``clear-dist import-log``. Everything is read and checked before anything is written.

    Raises:
        UserError: a log that cannot be read or averaged, or logs about different questions.
    """
    named = {"original": config.original, IMPORTED: config.log, "gold": config.gold}
    logs: dict[str, Log] = {name: read_log(path) for name, path in named.items() if path is not None}
    for name, log in logs.items():
        if name != IMPORTED:
            check_same_rows(logs[IMPORTED], log)
        say(f"{name}: {log.source}, a log of {log.kind}: " + ", ".join(f"{s} {len(r)}" for s, r in log.sets.items()))
        for note in log.notes:
            say(f"  note: {note}")
    logs = with_common_texts({IMPORTED: logs[IMPORTED], **logs})
    logs = {name: logs[name] for name in ("original", IMPORTED, "gold") if name in logs}
    records: list[Record] = [r for name, log in logs.items() for r in records_of(log, name, config.truth_ratio)]
    summary = summarise(records, truth_ratio=config.truth_ratio)

    out = config.run_dir()
    claim = claim_output(out, config)
    write_records(out / "records.jsonl", records)
    write_summary(out / "summary.json", summary)
    facts = {
        "logs": {n: {"file": str(g.source), "kind": g.kind, "sha256": _digests(g.source)} for n, g in logs.items()},
        "stated": {n: dict(g.stated) for n, g in logs.items()},
        "notes": [note for log in logs.values() for note in log.notes],
    }
    write_run(out, config, finished=True, **facts)
    report(out)
    claim.release()
    console.print(compare_table(summary))
    say(f"report: {out / 'index.html'}")


def _digests(source: Path) -> dict[str, str]:
    """File name -> SHA-256 of the JSON files that were (or could have been) read."""
    files = sorted(source.glob("*.json")) if source.is_dir() else [source]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
