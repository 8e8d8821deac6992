"""Several runs side by side in the terminal."""

from __future__ import annotations

import json

from clear_dist.config import CompareConfig
from clear_dist.report.compare import as_json, compare_runs_table, lines_of
from clear_dist.report.runs import read_runs
from clear_dist.services.progress import Terminal
from clear_dist.types import UserError

COLUMNS = 118  # where there is no terminal whose width counts


def run(config: CompareConfig) -> None:
    """``clear-dist compare``.

    Raises:
        UserError: a directory that is no finished run, or holds no unlearned language model.
    """
    runs = read_runs(config.runs)
    lines = lines_of(runs)
    if not lines:
        raise UserError(
            f"{', '.join(map(str, config.runs))}: no unlearned model was evaluated there; name directories of "
            "`clear-dist unlearn` or `evaluate`, or of a sweep"
        )
    if config.json:
        print(json.dumps(as_json(lines), indent=1, allow_nan=False))
        return
    console = Terminal(highlight=False)
    if not console.is_terminal:
        console = Terminal(highlight=False, width=COLUMNS)
    console.print(compare_runs_table(lines))
