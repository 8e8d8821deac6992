"""Names, notes and errors that come from files drive no terminal: they are neither control sequences nor markup."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.live import Live

from clear_dist.engine.checkpoint_files import MANIFEST, File, Manifest, file_name, fresh_staging, hashed_file, publish
from clear_dist.recipes import checkpoint, farm_status, scale_table
from clear_dist.recipes.attack_files import terminal_table
from clear_dist.recipes.chat import plain
from clear_dist.recipes.robustness_table import attack_table
from clear_dist.report.compare import FIGURES, Line, compare_runs_table
from clear_dist.report.sweep import sweep_table
from clear_dist.report.tables import compare_table
from clear_dist.services import progress
from clear_dist.services.progress import Terminal, say, task
from clear_dist.shadow.status import Failed, Group, Status

ROOT = Path(__file__).resolve().parents[2]
MARKUP = "[/b] [red]x[/red]"
HOSTILE = f"{MARKUP} \x1b[2J\x1b]0;owned\x07\x9b5m\u202e\x08\r"
FORBIDDEN = "\x07", "\x08", "\r", "\x9b", "\u202e", "\x1b[2J", "\x1b]"
FIGURE = {"value": 0.5, "ci": [0.4, 0.6], "n": 9}
Show = Callable[[Path], None]


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Tty:
    """A terminal in place of both streams, wide enough that nothing is broken within a name."""
    stream = Tty()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "300")
    console = Terminal(file=stream, force_terminal=True, color_system=None, highlight=False, width=300)
    for module in (progress, farm_status, scale_table):
        monkeypatch.setattr(module, "console", console)
    return stream


def _say(folder: Path) -> None:
    say(HOSTILE)


def _bar(folder: Path) -> None:
    with task(HOSTILE, 2) as bar:
        assert bar is not None
        bar.update(1, HOSTILE)


def _log_line(folder: Path) -> None:
    progress.Task(HOSTILE, 2, None).update(2, HOSTILE)


def _compare(folder: Path) -> None:
    line = Line(HOSTILE, "run", "both", HOSTILE, HOSTILE, None, HOSTILE, dict.fromkeys(FIGURES), None, None, None)
    progress.console.print(compare_runs_table([line]))


def _evaluation(folder: Path) -> None:
    sets = {"forget": {"all": {"fact_accuracy": FIGURE}}}
    summary = {"models": {HOSTILE: {"sets": sets, "robustness": {HOSTILE: sets}}}}
    progress.console.print(compare_table(summary))
    progress.console.print(attack_table(summary))


def _attack(folder: Path) -> None:
    shares = dict.fromkeys(("forget_acc", "holdout_acc", "retain_acc"))
    row = {**shares, "u_lira": {"accuracy": FIGURE}, "u_mia": {"accuracy": FIGURE}}
    progress.console.print(terminal_table({HOSTILE: row}))


def _sweep(folder: Path) -> None:
    progress.console.print(sweep_table([{"method": HOSTILE, "skipped": HOSTILE, "seed": 0}]))


def _scale(folder: Path) -> None:
    plan = {"fits": True, "tokens_per_s": 1.0, "mfu": 0.5, "peak_bytes": 10}
    row = dict.fromkeys(("model", "method", "mix", "stage"), HOSTILE) | {"gpus": 1, "scaling": "weak", "measured": None}
    study = {"rows": [{**row, "predicted": plan}], "baseline": HOSTILE, "gpu": {"name": HOSTILE}}
    scale_table.print_summary(study)


def _farm(folder: Path) -> None:
    farm_status.show_status(_status(), plain_stdout=True)


def _farm_live(folder: Path) -> None:
    with Live(console=progress.console, refresh_per_second=1) as live:
        live.update(farm_status.table_of(_status()), refresh=True)


def _status() -> Status:
    groups = (Group("train", HOSTILE, 2, 1, 0, 1, 0, 1.0),)
    return Status(groups, (Failed(HOSTILE, 3, f"first\n{MARKUP}{HOSTILE[:-1]}"),), (), (), 1.0, 1.0, 10, (HOSTILE,))


def _checkpoints(folder: Path) -> None:
    """The name is that of the folder; what a manifest says is not shown."""
    staging = fresh_staging(folder / HOSTILE)
    with hashed_file(staging / file_name(0)) as file:
        file.write(b"x")
    where = publish(folder / HOSTILE, Manifest(1, 1, 0, 0, (File(file_name(0), file.bytes, file.sha256),)))
    (where / MANIFEST).write_text("{")
    checkpoint.show(folder / HOSTILE)
    checkpoint.verify(folder / HOSTILE)


SHOWN: dict[str, Show] = {
    show.__name__[1:]: show
    for show in (
        *(_say, _bar, _log_line, _compare, _evaluation, _attack, _sweep, _scale, _farm, _farm_live, _checkpoints),
    )
}


@pytest.mark.parametrize("what", SHOWN)
def test_what_is_printed_drives_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    out = terminal(monkeypatch)
    SHOWN[what](tmp_path)
    said = out.getvalue()
    if "live" not in what and what != "bar":  # these go back to the line's start
        assert "\r" not in said
    assert not [ascii(c) for c in FORBIDDEN if c != "\r" and c in said]
    assert MARKUP in said


def test_what_is_written_in_any_script_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    out = terminal(monkeypatch)
    text = "Zoë 山田\u3000花子 \u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 a\u00a0b"
    progress.console.print(text)
    assert text in out.getvalue()


def test_consoles_are_made_where_this_is_seen_to() -> None:
    """Two show text of their own making alone; one cleans each cell itself (chat's ``plain``)."""
    makers = {
        file.stem
        for file in (ROOT / "clear_dist").rglob("*.py")
        if " Console(" in (text := file.read_text()) or "\tConsole(" in text
    }
    assert makers == {"chat", "doctor", "methods"}
    assert plain(HOSTILE).startswith(MARKUP) and not [c for c in FORBIDDEN if c in plain(HOSTILE)]
