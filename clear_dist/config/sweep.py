"""Sweeps: the options of every run, and which runs."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import StringConstraints, create_model, field_validator, model_validator
from pydantic.fields import FieldInfo

from clear_dist.defaults import MINI_UNLEARN, PAPER_UNLEARN

from .base import DataFields, opt
from .flags import from_flags
from .training import UnlearnConfig, as_number

# A sweep sets these itself, run by run.
_OF_ONE_RUN = frozenset({"method", "objective", "set", "seed", "steps", "out", "resume", "dry_run"})
_IN_PRESETS = frozenset(key for preset in (MINI_UNLEARN, PAPER_UNLEARN) for key in preset if key != "set")


def _open_to_presets(name: str, field: FieldInfo) -> tuple[Any, FieldInfo]:
    """A field of every run of a sweep, with no value of its own where each method's preset has one."""
    if name not in _IN_PRESETS:
        return field.annotation, field
    field = copy(field)
    field.default = None
    kind: Any = field.annotation
    return kind | None, field


_fields: dict[str, Any] = {
    name: _open_to_presets(name, field)
    for name, field in UnlearnConfig.model_fields.items()
    if name not in DataFields.model_fields and name not in _OF_ONE_RUN
}
_Runs: Any = create_model("_Runs", __base__=DataFields, **_fields)


class SweepConfig(_Runs):
    """Run methods x seeds x grids from the same originals, with one table and the forget-retain front. Options that are
    not the sweep's own are those of `unlearn` and go to every run. Finished runs are kept: the same command goes on."""

    recipe: ClassVar[str] = "sweep"
    methods: str = opt("all", "method", "names of `clear-dist methods`, comma-separated; or none", "all|A,B,C")
    objectives: dict[str, str] = opt({}, "method", "LABEL=EQUATION: an equation beside the methods", "LABEL=EQUATION")
    grid: dict[str, tuple[float | str, ...]] = opt(
        {}, "method", "values to try, e.g. lr=3e-4,1e-3 or set.beta=0.1,0.5; several are crossed", "KEY=A,B,C"
    )
    seeds: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}(,[0-9]{1,18})*$")] = opt(
        "0", "run", "seeds of every method, comma-separated", "N,N,N"
    )
    budget: Literal["preset", "equal"] = opt(
        "preset",
        "training",
        "preset: each method as tuned; equal: the same steps, batch and learning rate for all, those of the preset's "
        "base or of --epochs, --global-batch, --lr ...",
    )
    workers: int | None = opt(
        None,
        "layout",
        "runs at a time, a process each (default: one a core; on GPUs, or under deepspeed: 1)",
        "N",
        ge=1,
    )
    dry_run: bool = opt(False, "run", "list the runs, start none")
    out: Path = opt(..., "run", "directory of the sweep", "DIR")

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: Any) -> Any:
        values = from_flags(values, comma=("methods", "seeds"), pairs=("grid", "objectives"))
        if not isinstance(values, dict):
            return values
        grid = values.get("grid")
        if isinstance(grid, dict):
            values["grid"] = {k: v.split(",") if isinstance(v, str) else v for k, v in grid.items()}
        return values

    @field_validator("grid", mode="after")
    @classmethod
    def _numbers_in_grids(cls, grid: dict[str, tuple[float | str, ...]]) -> dict[str, tuple[float | str, ...]]:
        return {key: tuple(dict.fromkeys(map(as_number, values))) for key, values in grid.items()}

    @property
    def seed_list(self) -> list[int]:
        return list(dict.fromkeys(map(int, self.seeds.split(","))))

    def for_each_run(self) -> dict[str, Any]:
        """The options of `unlearn` that were given: name -> value."""
        own = SweepConfig.model_fields
        shared = [n for n in UnlearnConfig.model_fields if n in own and n not in _OF_ONE_RUN]
        return {n: v for n in shared if (v := getattr(self, n)) != own[n].default}

    def identity(self) -> dict[str, Any]:
        """What must not differ between two sweeps into one directory; methods, seeds and grids may be added."""
        return {
            "budget": self.budget,
            **{k: v for k, v in super().identity().items() if k in UnlearnConfig.model_fields},
        }
