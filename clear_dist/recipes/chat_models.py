"""Which models a run is about, for talking to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clear_dist.services.progress import say
from clear_dist.services.rundir import read_run
from clear_dist.types import UserError

from .common import model_dir


@dataclass(frozen=True)
class Named:
    """A model by the name its column gets. folder: as ``inspect_model`` takes it. own: a run's own, neither original
    nor gold. base_weights: as the run's flag said.
    """

    name: str
    folder: str | Path
    own: bool = False
    base_weights: str = "auto"


def models_of(runs: Sequence[Path]) -> list[Named]:
    """The models of some runs in reading order: the original, what each run made, gold. Of several runs the original
    and the gold of the first that has them; their own models are then called after the runs.

    A run directory of unlearn, evaluate, finetune or quickstart, or a model directory. An original or gold model that
    is not there any more (a cache that was cleaned) is left out, and that is said.

    Raises UserError: no such directory, no run and no model in it, a run that did not finish.
    """
    originals: list[Path] = []
    golds: list[Path] = []
    own: list[Named] = []
    for run in runs:
        name, folder, original, gold = _parts(run)
        said = ((read_run(run) or {}).get("config") or {}).get("base_weights", "auto")
        own.append(Named(name if len(runs) == 1 else str(run), folder, own=True, base_weights=said))
        for kind, found, into in (("original", original, originals), ("gold", gold, golds)):
            if found is None or not str(found):
                continue
            if not found.exists():
                say(f"  note: the {kind} model of {run} is not there any more ({found}): left out")
            elif not into:
                into.append(found)
            elif found.resolve() != into[0].resolve():
                say(f"  note: {run} has another {kind} model than the runs before it; theirs is shown")
    first = [Named("original", model_dir(folder, "original")) for folder in originals]
    last = [Named("gold", model_dir(folder, "gold")) for folder in golds]
    return [*first, *own, *last]


def _parts(run: Path) -> tuple[str, str | Path, Path | None, Path | None]:
    """(name, the run's own model, original or None, gold or None)."""
    if not run.is_dir():
        raise UserError(f"{run}: no such directory; name a run directory or a model directory")
    facts = read_run(run)
    if facts is None and (run / "unlearned" / "run.json").is_file():  # a quickstart
        inside = [run / name if (run / name).is_dir() else None for name in ("original", "gold")]
        return "unlearned", model_dir(run / "unlearned", str(run)), inside[0], inside[1]
    if facts is None:
        if not any((run / f).is_file() for f in ("config.json", "adapter_config.json")):
            raise UserError(f"{run}: neither a run directory (run.json) nor a model directory (config.json)")
        return run.name, run, None, None
    config: dict[str, Any] = facts.get("config") or {}
    if facts.get("recipe") == "unlearn":
        return "unlearned", model_dir(run, str(run)), _path(facts.get("original")), _path(facts.get("gold"))
    if facts.get("recipe") == "evaluate":
        own = model_dir(config["model"], "--model")
        return str(config.get("name") or "unlearned"), own, _path(config.get("original")), _path(config.get("gold"))
    if (run / "model").is_dir() or (run / "adapter").is_dir():
        return run.name, model_dir(run, str(run)), None, None
    raise UserError(
        f"{run}: a run of {facts.get('recipe')}, which holds no model to talk to; name one of unlearn, evaluate, "
        "finetune or quickstart"
    )


def _path(value: object) -> Path | None:
    return Path(value) if isinstance(value, str) and value else None
