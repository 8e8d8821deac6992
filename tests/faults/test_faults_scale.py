"""The smallest scale_study.json that nobody writes: each is refused by its field, before a page is made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clear_dist.errors import UserError
from clear_dist.report.scale_read import ScaleData, read_study
from tests.faults.pages import Folder

Study = dict[str, Any]
SPEEDS = ("step_s", "tokens_per_s", "images_per_s", "mfu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Folder("scale", tmp_path_factory.mktemp("scale") / "folder").good["scale_study.json"]


def put(**values: Any) -> Callable[[Study], Any]:
    """The file with other values at its top, named ``gpu__name`` for what lies in an object."""
    return lambda study: _put(study, values)


def row(**values: Any) -> Callable[[Study], Any]:
    """The file with other values in its first row."""
    return lambda study: {**study, "rows": [_put(study["rows"][0], values), *study["rows"][1:]]}


def _put(value: Study, values: Study) -> Study:
    out = dict(value)
    for name, new in values.items():
        outer, _, inner = name.partition("__")
        out[outer] = {**out[outer], inner: new} if inner else new
    return out


def without(*path: str | int) -> Callable[[Study], Any]:
    def change(study: Study) -> Study:
        out = inside = json.loads(json.dumps(study))
        for name in path[:-1]:
            inside = inside[name]
        del inside[path[-1]]
        return out

    return change


def read(folder: Path, study: Any) -> ScaleData:
    (folder / "scale_study.json").write_text(study if isinstance(study, str) else json.dumps(study))
    return read_study(folder)


CASES: dict[str, tuple[Callable[[Study], Any], str]] = {
    "a list": (lambda study: [], ": expected a JSON object, got list"),
    "deep": (lambda study: "[" * 100_000, ": not JSON: lists and mappings are nested more than 100 deep"),
    "digits": (lambda study: '{"v": ' + "9" * 5_000 + "}", ": not JSON: a whole number of 5,000 digits"),
    "not a number": (row(predicted__peak_bytes=math.nan), ": not JSON: "),
    "machine is a text": (put(machine=" "), ": machine: expected an object"),
    "gpu is none": (put(gpu=None), ": gpu: expected an object"),
    "grid is a list": (put(grid=[]), ": grid: expected an object"),
    "baseline is a list": (put(baseline=[]), ": baseline: expected a text"),
    "a gpu without a name": (without("gpu", "name"), ": gpu.name: expected a text"),
    "a gpu without memory": (without("gpu", "memory_bytes"), ": gpu.memory_bytes: expected a number above zero"),
    "memory of zero": (put(gpu__memory_bytes=0), ": gpu.memory_bytes: expected a number above zero"),
    "left_out is a text": (put(left_out="a"), ": left_out: expected a list of texts"),
    "left_out of numbers": (put(left_out=["a", 1]), ": left_out[1]: expected a text"),
    "rows is an object": (put(rows={"a": 1}), ": rows: expected a list of at least one"),
    "no row": (put(rows=[]), ": rows: expected a list of at least one"),
    "a row is a number": (put(rows=[1]), ": rows[0]: expected an object"),
    "a model is a list": (row(model=[]), ": rows[0].model: expected a text"),
    "a stage is none": (row(stage=None), ": rows[0].stage: expected a text"),
    "a method is an object": (row(method={}), ": rows[0].method: expected a text"),
    "a mix is a number": (row(mix=1), ": rows[0].mix: expected a text"),
    "gpus of none": (row(gpus=0), ": rows[0].gpus: expected a whole number from 1"),
    "half a gpu": (row(gpus=1.5), ": rows[0].gpus: expected a whole number from 1"),
    "gpus is true": (row(gpus=True), ": rows[0].gpus: expected a whole number from 1"),
    "more gpus than there are": (row(gpus=10**300), ": rows[0].gpus: expected a whole number from 1"),
    "another scaling": (row(scaling="none"), ": rows[0].scaling: expected strong or weak"),
    "scaling is a list": (row(scaling=[]), ": rows[0].scaling: expected strong or weak"),
    "why is a number": (row(why=1), ": rows[0].why: expected a text"),
    "predicted is none": (row(predicted=None), ": rows[0].predicted: expected an object"),
    "measured is a list": (row(measured=[]), ": rows[0].measured: expected an object or null"),
    "fits is a number": (row(predicted__fits=1), ": rows[0].predicted.fits: expected true or false"),
    "recomputes is none": (row(predicted__recomputes=None), ": rows[0].predicted.recomputes: expected true or false"),
    "a peak is none": (row(predicted__peak_bytes=None), ": rows[0].predicted.peak_bytes: expected a number above zero"),
    "a measured peak is true": (row(measured__peak_bytes=True), ": rows[0].measured.peak_bytes: expected a number"),
    "a speed is a text": (row(predicted__mfu="1"), ": rows[0].predicted.mfu: expected a number of at least zero"),
    "a speed below zero": (row(measured__images_per_s=-1), ": rows[0].measured.images_per_s: expected a number of at"),
    "a step of no time": (row(predicted__step_s=0), ": rows[0].predicted.step_s: expected a number above zero"),
    "no token": (row(predicted__tokens_per_s=0), ": rows[0].predicted.tokens_per_s: expected a number above zero"),
    "what nothing can be divided by": (row(predicted__step_s=5e-324), ": rows[0].predicted.step_s: expected a number"),
    "what cannot be squared": (row(predicted__tokens_per_s=1e308), ": rows[0].predicted.tokens_per_s: expected"),
    "what is beyond all floats": (row(predicted__peak_bytes=10**307), ": rows[0].predicted.peak_bytes: expected"),
    **{
        f"no {name}": (without(name), f": {name} is missing") for name in ("machine", "gpu", "grid", "baseline", "rows")
    },
    **{
        f"a row without {name}": (without("rows", 0, name), f": rows[0].{name} is missing")
        for name in ("model", "gpus", "stage", "method", "mix", "scaling", "predicted", "measured", "why")
    },
    **{
        f"a plan without {name}": (without("rows", 0, "predicted", name), f": rows[0].predicted.{name} is missing")
        for name in SPEEDS
    },
}


def test_what_was_written_is_read(tmp_path: Path, written: Study) -> None:
    assert len(read(tmp_path, written).rows) == len(written["rows"])
    edges = row(gpus=10**6, why=None, measured=None, predicted__mfu=0, predicted__images_per_s=0.0)
    assert read(tmp_path, edges(written)).rows[0]["gpus"] == 10**6
    none = row(**{f"predicted__{name}": None for name in SPEEDS})
    assert read(tmp_path, none(written)).rows[0]["predicted"]["step_s"] is None


@pytest.mark.parametrize("name", CASES)
def test_a_study_nobody_writes_is_refused_by_its_field(tmp_path: Path, written: Study, name: str) -> None:
    change, said = CASES[name]
    with pytest.raises(UserError) as caught:
        read(tmp_path, change(written))
    assert str(caught.value).startswith(f"{tmp_path / 'scale_study.json'}{said}")
