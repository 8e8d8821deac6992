"""A finished run as ``robustness`` finds it: its configuration, and where its models are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clear_dist.config import EvaluateConfig, UnlearnConfig
from clear_dist.services.rundir import holder_of, read_run
from clear_dist.types import UserError


@dataclass(frozen=True)
class Target:
    """out: the directory with records.jsonl. top: a quickstart's directory above it, which holds copies of its pages.
    folders: model name -> where it is, original first. data_digest: of the data it was evaluated on."""

    out: Path
    top: Path | None
    config: UnlearnConfig | EvaluateConfig
    folders: dict[str, str | Path]
    data_digest: str | None


def target_of(folder: Path) -> Target:
    """What there is to attack in a run directory.

    Raises:
        UserError: no run, one of another recipe or of another release, an unfinished one, one that a process is
            working in, one without records, a model that is no longer where it was.
    """
    top = folder if not (folder / "run.json").is_file() and (folder / "unlearned" / "run.json").is_file() else None
    out = folder / "unlearned" if top else folder
    run = read_run(out)
    if run is None:
        raise UserError(
            f"{folder}: no run of clear_dist here; name the directory of an unlearn, evaluate or quickstart"
        )
    kinds: dict[str, type[UnlearnConfig | EvaluateConfig]] = {"unlearn": UnlearnConfig, "evaluate": EvaluateConfig}
    kind = kinds.get(str(run.get("recipe")))
    if kind is None:
        raise UserError(
            f"{folder}: was made by {run.get('recipe')}, which leaves no models to compare; name the directory of an "
            "unlearn, evaluate or quickstart"
        )
    if not run.get("finished"):
        raise UserError(f"{folder}: this run is not finished; start it again to go on with it, then attack it")
    if (holder := holder_of(out)) is not None:
        raise UserError(f"{folder}: in use by {holder}; wait for it")
    for name in ("records.jsonl", "summary.json"):
        if not (out / name).is_file():
            raise UserError(f"{out / name}: not there; evaluate the models first (`clear-dist evaluate`)")
    try:
        config = kind.model_validate(run.get("config"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "config"
        raise UserError(
            f"{out / 'run.json'}: {where}: {first['msg']}; written by another release? Make the run again"
        ) from None
    return Target(out, top, config, _folders(out, run, config, top), run.get("data_digest"))


def _folders(
    out: Path, run: dict[str, Any], config: UnlearnConfig | EvaluateConfig, top: Path | None
) -> dict[str, str | Path]:
    if isinstance(config, EvaluateConfig):
        models: dict[str, str | Path | None] = {"original": config.original, config.name: config.model}
        models["gold"] = config.gold
    else:
        models = {"original": run.get("original"), "unlearned": out, "gold": run.get("gold")}
    found: dict[str, str | Path] = {}
    for name, given in models.items():
        if given is None:
            continue
        place: str | Path = given
        if not Path(given).is_dir() and top is not None and (top / Path(given).name).is_dir():
            place = top / Path(given).name  # a quickstart that was moved keeps its models inside
        elif not Path(given).is_dir() and not (isinstance(config, EvaluateConfig) and name == config.name):
            raise UserError(
                f"{out / 'run.json'}: its {name} model was at {given}, where nothing is now. Put it back, or start "
                "from the directory in which the run was started, for relative paths."
            )
        found[name] = place
    return found
