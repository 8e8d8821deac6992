"""Write CLEAR-mini: generated people in CLEAR's layout, the same bytes for the same seed."""

from __future__ import annotations

from clear_dist.config import DataMiniConfig
from clear_dist.data.mini import write_clear_mini
from clear_dist.services.progress import say, task


def run(config: DataMiniConfig) -> None:
    """Draw, write, and say where.

    Raises:
        UserError: ``out`` holds something else.
    """
    with task("drawing people", 1) as bar:
        assert bar is not None

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        out = write_clear_mini(config.out, config.preset, config.seed, progress)
    say(f"CLEAR-mini ({config.preset}, seed {config.seed}) is in {out}; use it with --data {out}")
