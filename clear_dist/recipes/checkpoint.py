"""``clear-dist checkpoint list|verify|prune``: nothing but files is looked at, and nothing of them is loaded."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.table import Table
from rich.text import Text

from clear_dist.config import CheckpointListConfig, CheckpointPruneConfig, CheckpointVerifyConfig
from clear_dist.config.checkpoint import CheckpointFields
from clear_dist.engine.checkpoint_files import MANIFEST, Damaged, problems, prune, published, read_manifest
from clear_dist.errors import UserError
from clear_dist.services.progress import Terminal, duration
from clear_dist.services.rundir import CHECKPOINTS, holder_of

DAMAGED = 1  # exit status (docs/exit-codes.md)


def run(config: CheckpointFields) -> int:
    """Exit status 1 where something is damaged, 0 otherwise.

    Raises:
        UserError: no checkpoints there, or (prune) the run is still going on.
    """
    folder = checkpoints_of(config.folder)
    if isinstance(config, CheckpointVerifyConfig):
        return verify(folder)
    if isinstance(config, CheckpointPruneConfig):
        return remove(folder, config.keep)
    assert isinstance(config, CheckpointListConfig)
    return show(folder)


def checkpoints_of(place: Path) -> Path:
    """The folder that holds the checkpoints of a run directory, or is it.

    Raises:
        UserError: there is none, or nothing in it.
    """
    for folder in (place / CHECKPOINTS, place):
        if published(folder):
            return folder
    raise UserError(f"{place}: no checkpoints there; name a run directory, or its {CHECKPOINTS}/")


def show(folder: Path) -> int:
    """A line for each; what is missing or of another size shows, a changed byte only when it is read."""
    table = Table(box=None, pad_edge=False)
    for name in ("step", "size", "ranks", "ZeRO", "age"):
        table.add_column(name, justify="right")
    table.add_column("state", overflow="fold")
    damaged = 0
    for checkpoint in published(folder):
        step = str(int(checkpoint.name.removeprefix("step_")))
        try:
            manifest = read_manifest(checkpoint)
        except Damaged as error:
            table.add_row(step, "", "", "", "", Text(_inside(checkpoint, str(error))))
            damaged += 1
            continue
        found = problems(checkpoint, read=False)
        damaged += bool(found)
        table.add_row(
            step,
            f"{manifest.bytes / 1e6:,.1f} MB",
            str(manifest.world_size),
            str(manifest.zero_stage),
            duration(max(0.0, time.time() - (checkpoint / MANIFEST).stat().st_mtime)),
            Text(_inside(checkpoint, "; ".join(found)) or "complete"),
        )
    _stdout().print(table)
    return DAMAGED if damaged else 0


def _inside(checkpoint: Path, text: str) -> str:
    """Names as they are in the folder: its row says which."""
    return text.replace(f"{checkpoint}/", "")


def verify(folder: Path) -> int:
    """A line for each that is whole, and one for each damaged file."""
    console, damaged = _stdout(), 0
    for checkpoint in published(folder):
        found = problems(checkpoint)
        damaged += bool(found)
        for line in found or [f"{checkpoint}: whole"]:
            console.print(Text(line), soft_wrap=True)
    return DAMAGED if damaged else 0


def remove(folder: Path, keep: int) -> int:
    """The newest ``keep`` that are whole stay, and what is newer than they are; nothing goes where none is whole.

    Raises:
        UserError: the run is still going on; it prunes by itself.
    """
    holder = holder_of(folder.parent)
    if holder is not None:
        raise UserError(f"{folder}: in use by {holder}, which removes old checkpoints itself (--keep-checkpoints)")
    whole: list[str] = []
    bad: list[str] = []
    for checkpoint in published(folder):
        if len(whole) == keep:
            break
        (bad if problems(checkpoint) else whole).append(checkpoint.name)
    console = _stdout()
    for gone in prune(folder, keep, bad, whole):
        console.print(Text(f"{gone}: removed"), soft_wrap=True)
    for name in bad:
        console.print(Text(f"{folder / name}: damaged, not counted"), soft_wrap=True)
    if not whole:
        console.print(Text(f"{folder}: none is whole; nothing was removed"), soft_wrap=True)
    return DAMAGED if bad else 0


def _stdout() -> Terminal:
    return Terminal(highlight=False, width=None if sys.stdout.isatty() else 120)
