"""Where step metrics go besides ``metrics.jsonl``: nowhere, TensorBoard or Weights & Biases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from clear_dist.types import UserError

TrackerName = Literal["none", "tensorboard", "wandb"]
Log = Callable[[int, Mapping[str, float]], None]


def check_tracker(name: TrackerName) -> None:
    """Refuse a tracker whose package is missing, before any weight is loaded."""
    import importlib.util

    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(f"--tracker {name}: the package {name!r} is not installed. Run: pip install {name}")


def make_tracker(name: TrackerName, run_dir: Path) -> tuple[Log, Callable[[], None]]:
    """(log, close)."""
    if name == "tensorboard":
        from torch.utils.tensorboard.writer import SummaryWriter

        writer = SummaryWriter(str(run_dir / "tensorboard"))

        def log(step: int, values: Mapping[str, float]) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)

        return log, writer.close
    if name == "wandb":
        import wandb  # pyright: ignore[reportMissingImports]  (optional extra)

        run = wandb.init(project="clear_dist", name=run_dir.name, dir=str(run_dir))
        return (lambda step, values: run.log(dict(values), step=step)), run.finish
    return (lambda step, values: None), (lambda: None)
