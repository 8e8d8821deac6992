"""The runs of a sweep, from its options: methods x grid x seeds, and what they are measured by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from clear_dist.config import SweepConfig, UnlearnConfig
from clear_dist.errors import ConfigError, nearest
from clear_dist.flags import build
from clear_dist.methods import METHODS
from clear_dist.services.rundir import is_complete, read_run
from clear_dist.types import UserError

ANCHORS = ("original", "gold")  # models that no method made: what every run of their seed is measured by
LABEL = re.compile(r"[A-Za-z0-9][\w.+-]*")
# Options that change what original and gold are; a sweep has one of each for a seed.
NOT_IN_GRIDS = frozenset({"method", "objective", "set", "preset", "questions_per_picture"})
IN_GRIDS = frozenset(
    name
    for name, field in UnlearnConfig.model_fields.items()
    if isinstance(field.json_schema_extra, dict)
    and field.json_schema_extra["group"] in ("method", "training")
    and name not in NOT_IN_GRIDS
)

Value = float | str


@dataclass(frozen=True)
class Job:
    """One run: ``config.out`` is its directory. ``method``: a method's name, an objective's label, or one of ANCHORS.
    ``needs``: names of jobs that have to be done before."""

    name: str
    method: str
    seed: int
    grid: Mapping[str, Value]
    config: UnlearnConfig
    needs: tuple[str, ...] = ()

    @property
    def anchor(self) -> bool:
        return self.method in ANCHORS

    @property
    def out(self) -> Path:
        assert self.config.out is not None
        return self.config.out

    def finished(self) -> bool:
        """Whether the run is there already, made by this very configuration.

        Raises:
            UserError: another run lies in its directory.
        """
        run = read_run(self.out)
        if run is not None and not self.anchor and run.get("digest") != self.config.digest():
            raise UserError(
                f"{self.out}: holds a run of other options (another version's defaults, or a changed --ds file); name "
                "another --out, or remove that directory to have the run again."
            )
        return run is not None and is_complete(self.out)


def jobs_of(config: SweepConfig, steps: int | None = None) -> list[Job]:
    """Every run, seed by seed, original and gold first. ``steps``: of every run, where the budget is equal.

    Raises:
        ConfigError: an unknown method or hyperparameter, a label that cannot name a directory, nothing to run.
        UserError: a value that ``clear-dist unlearn`` would refuse.
    """
    methods, objectives = methods_of(config), objectives_of(config)
    if not (methods or objectives):
        raise ConfigError(
            "--methods none: nothing is left to run; name methods, or give an equation with --objectives."
        )
    _check_grid(config, methods)
    jobs: list[Job] = []
    for seed in config.seed_list:
        shared = {**_shared(config, steps), "seed": seed}
        gold = _run(config, f"gold-seed{seed}", shared, {})
        wanted = ANCHORS if gold.gold_model is not None or gold.wants_gold else ANCHORS[:1]
        anchors = tuple(f"{name}-seed{seed}" for name in wanted)
        jobs += [
            Job(name, which, seed, {}, _run(config, name, shared, {}))
            for name, which in zip(anchors, wanted, strict=True)
        ]
        for method in (*methods, *objectives):
            what = {"objective": objectives[method]} if method in objectives else {"method": method}
            for point in points(config, method):
                name = "-".join([method, *(f"{k}={_text(v)}" for k, v in point.items()), f"seed{seed}"])
                jobs.append(Job(name, method, seed, point, _run(config, name, {**shared, **what}, point), anchors))
    return jobs


def methods_of(config: SweepConfig) -> list[str]:
    """The names of ``--methods``. Raises ConfigError on one that is not known."""
    if config.methods in ("all", "none"):
        return list(METHODS) if config.methods == "all" else []
    names = list(dict.fromkeys(name.strip() for name in config.methods.split(",") if name.strip()))
    for name in names:
        if name not in METHODS:
            known = f"all, none, {', '.join(METHODS)}"
            raise ConfigError(f"--methods {name}: unknown{nearest(name, METHODS, quoted=True)}; known: {known}.")
    return names


def objectives_of(config: SweepConfig) -> dict[str, str]:
    """label -> equation of ``--objectives``. Raises ConfigError on a label that is taken, or fit for no directory."""
    for label in config.objectives:
        if not LABEL.fullmatch(label):
            raise ConfigError(f"--objectives {label}=...: a label is made of letters, digits and . _ + - only.")
        if label in METHODS or label in ANCHORS:
            raise ConfigError(f"--objectives {label}=...: {label} is taken; choose another label.")
    return config.objectives


def points(config: SweepConfig, method: str) -> list[dict[str, Value]]:
    """The points of the grid for a method: a hyperparameter that it does not have is left out of them."""
    keys = [k for k in config.grid if not k.startswith("set.") or k.removeprefix("set.") in _settings(config, method)]
    return [dict(zip(keys, values, strict=True)) for values in product(*(config.grid[k] for k in keys))]


def _settings(config: SweepConfig, method: str) -> Mapping[str, Any]:
    """What ``--set`` takes for a method; an equation has its numbers written in."""
    if method not in METHODS:
        return {}
    return METHODS[method].settings(base_of(config).variant)


def base_of(config: SweepConfig) -> UnlearnConfig:
    """What a run has before its method's preset comes in: the options given, and the preset's base."""
    given = config.for_each_run()
    return build(UnlearnConfig, {**given, "objective": "nll(RETAIN)"}, given)


def _check_grid(config: SweepConfig, methods: list[str]) -> None:
    known = sorted(IN_GRIDS)
    settings = dict.fromkeys(s for m in methods for s in _settings(config, m))
    for key, values in config.grid.items():
        if key.startswith("set."):
            name = key.removeprefix("set.")
            if name not in settings:
                raise ConfigError(
                    f"--grid {key}: no method of this sweep has it{nearest(name, settings, quoted=True)}."
                )
        elif key not in known:
            raise ConfigError(
                f"--grid {key}: expected set.NAME, or one of {', '.join(known)}{nearest(key, known, quoted=True)}."
            )
        elif key in config.for_each_run():
            raise ConfigError(f"--grid {key} and --{key.replace('_', '-')} both set it: give one of them.")
        for value in values:
            if not LABEL.fullmatch(_text(value).lstrip("-")):
                raise ConfigError(f"--grid {key}={value}: a value is a number or a word.")


def _text(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _shared(config: SweepConfig, steps: int | None) -> dict[str, Any]:
    """What every run of the sweep gets; with an equal budget the preset's base instead of each method's own."""
    given = config.for_each_run()
    if config.budget != "equal":
        return given
    base = base_of(config)
    fixed = {name: getattr(base, name) for name in _BUDGET}
    return {**given, **fixed, "steps": steps}


_BUDGET = "epochs lr weight_decay warmup schedule global_batch retain_ratio full lora_r lora_alpha".split()


def _run(config: SweepConfig, name: str, shared: Mapping[str, Any], point: Mapping[str, Value]) -> UnlearnConfig:
    values: dict[str, Any] = {**shared, "out": config.out / "runs" / name}
    settings = {k.removeprefix("set."): v for k, v in point.items() if k.startswith("set.")}
    values |= {k: v for k, v in point.items() if not k.startswith("set.")}
    if settings:
        values["set"] = settings
    try:
        return build(UnlearnConfig, values, values)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
