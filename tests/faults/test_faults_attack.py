"""The smallest files of an attack on a farm that nobody writes: each is refused by its field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clear_dist.errors import UserError
from clear_dist.report.build import report_runs
from clear_dist.report.farm_read import FarmData, read_farm
from tests.faults.pages import Folder, write

Files = dict[str, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Folder("farm", tmp_path_factory.mktemp("attack") / "folder").good


def at(file: str, *path: str | int, value: Any) -> Callable[[Files], Files]:
    """The files with another value at one place."""

    def change(files: Files) -> Files:
        out = inside = json.loads(json.dumps(files))
        for name in (file, *path)[:-1]:
            inside = inside[name]
        inside[(file, *path)[-1]] = value
        return out

    return change


def attack(*path: str | int, value: Any) -> Callable[[Files], Files]:
    return at("attack.json", *path, value=value)


def curves(*path: str | int, value: Any) -> Callable[[Files], Files]:
    return at("curves.json", *path, value=value)


def example(cells: list[str]) -> Callable[[Files], Files]:
    """The second line of the table of examples is this."""
    return at("examples.csv", 1, value=cells)


CELLS = ["original", "p0/00.png", "p0", "1", "64", "64", "2.0", "0.6", "0.4", "0.6"]
ROW, LIRA = ("original", "forget_acc"), ("original", "u_lira")
ROC, BINS, EPOCHS = ("roc", "original", "u_lira"), ("distributions", "original"), ("epochs", "retain_ft")
CASES: dict[str, tuple[Callable[[Files], Files], str]] = {
    "a list": (at("attack.json", value=[]), "attack.json: expected a JSON object, got list"),
    "no method": (at("attack.json", value={"v": 1}), "attack.json: holds no method"),
    "a method is a text": (attack("original", value="x"), "attack.json: original: expected an object, got str"),
    "a share is a text": (
        attack(*ROW, value="1"),
        "attack.json: original.forget_acc: expected a share between 0 and 1",
    ),
    "a share is true": (attack(*ROW, value=True), "attack.json: original.forget_acc: expected a share"),
    "a share above one": (attack(*ROW, value=1.5), "attack.json: original.forget_acc: expected a share"),
    "a share of nothing": (attack(*ROW, value={}), "attack.json: original.forget_acc: expected a share"),
    "an interval of one": (
        attack(*ROW, "ci", value=[0.5]),
        "attack.json: original.forget_acc.ci: expected [low, high]",
    ),
    "an interval is a text": (
        attack(*ROW, "ci", value="01"),
        "attack.json: original.forget_acc.ci: expected [low, high]",
    ),
    "half an interval": (attack(*ROW, "ci", value=[None, 1.0]), "attack.json: original.forget_acc: expected a share"),
    "an end above one": (attack(*ROW, "ci", value=[0.5, 2.0]), "attack.json: original.forget_acc: expected a share"),
    "ends the wrong way": (attack(*ROW, "ci", value=[0.9, 0.5]), "attack.json: original.forget_acc.ci: the lower end"),
    "half a count": (attack(*ROW, "n", value=0.5), "attack.json: original.forget_acc.n: expected a count"),
    "a count is true": (attack(*ROW, "n", value=True), "attack.json: original.forget_acc.n: expected a count"),
    "a count below zero": (attack(*ROW, "n", value=-1), "attack.json: original.forget_acc.n: expected a count"),
    "an attack is a list": (attack(*LIRA, value=[1]), "attack.json: original.u_lira: expected an object, got [1]"),
    "its accuracy is a list": (
        attack(*LIRA, "accuracy", value=[1]),
        "attack.json: original.u_lira.accuracy: expected a",
    ),
    "its area is a text": (attack(*LIRA, "auc", value="x"), "attack.json: original.u_lira.auc: expected a share"),
    "rates are a list": (
        attack(*LIRA, "tpr_at_fpr", value=[1]),
        "attack.json: original.u_lira.tpr_at_fpr: expected an",
    ),
    "a rate is a word": (
        attack(*LIRA, "tpr_at_fpr", value={"x": None}),
        "attack.json: original.u_lira.tpr_at_fpr: 'x' is no rate between 0 and 1",
    ),
    "a rate of one": (
        attack(*LIRA, "tpr_at_fpr", value={"1": None}),
        "attack.json: original.u_lira.tpr_at_fpr: '1' is no",
    ),
    "a share at a rate": (
        attack(*LIRA, "tpr_at_fpr", value={"0.1": 7}),
        "attack.json: original.u_lira.tpr_at_fpr.0.1: expected a share",
    ),
    "estimators are a list": (
        attack(*LIRA, "estimators", value=[1]),
        "attack.json: original.u_lira.estimators: expected",
    ),
    "an estimator is a text": (
        attack(*LIRA, "estimators", value={"mad": "x"}),
        "attack.json: original.u_lira.estimators.mad: expected a share",
    ),
    "all curves are a list": (at("curves.json", value=[]), "curves.json: expected a JSON object, got list"),
    "curves are a list": (curves("roc", value=[1]), "curves.json: roc: expected an object, got list"),
    "curves of a row are a text": (
        curves("roc", "original", value="x"),
        "curves.json: roc.original: expected an object",
    ),
    "a curve is an object": (
        curves(*ROC, value={"a": 1}),
        "curves.json: roc.original.u_lira: expected a list, got dict",
    ),
    "a point is a number": (curves(*ROC, value=[1]), "curves.json: roc.original.u_lira[0]: expected a list, got int"),
    "a point of three": (
        curves(*ROC, value=[[0, 0, 0]]),
        "curves.json: roc.original.u_lira: expected [[fpr, tpr], ...]",
    ),
    "a point outside": (curves(*ROC, value=[[0, 2]]), "curves.json: roc.original.u_lira[0]: 2 cannot stand here"),
    "a point of texts": (curves(*ROC, value=[["0", 1]]), "curves.json: roc.original.u_lira[0]: '0' cannot stand here"),
    "a point is true": (curves(*ROC, value=[[True, 1]]), "curves.json: roc.original.u_lira[0]: True cannot stand here"),
    "densities are a list": (curves(*BINS, value=[1]), "curves.json: distributions.original: expected an object"),
    "no bins": (curves(*BINS, "bins", value=None), "curves.json: distributions.original.bins: expected a list"),
    "one edge": (
        curves(*BINS, "bins", value=[1]),
        "curves.json: distributions.original.bins: expected at least two asc",
    ),
    "edges that fall": (
        curves(*BINS, "bins", value=[2, 1]),
        "curves.json: distributions.original.bins: expected at least",
    ),
    "an edge too far": (
        curves(*BINS, "bins", value=[0, 1e301]),
        "curves.json: distributions.original.bins: 1e+301 cannot",
    ),
    "too few densities": (curves(*BINS, "forget", value=[1]), "curves.json: distributions.original.forget: expected"),
    "a density below zero": (
        curves(*BINS, "never", value=[-1]),
        "curves.json: distributions.original.never: -1 cannot",
    ),
    "epochs are an object": (
        curves(*EPOCHS, value={"a": 1}),
        "curves.json: epochs.retain_ft: expected a list, got dict",
    ),
    "an epoch is a number": (
        curves(*EPOCHS, value=[1]),
        "curves.json: epochs.retain_ft[0]: expected an object, got int",
    ),
    "an epoch below zero": (
        curves(*EPOCHS, value=[{"epoch": -1}]),
        "curves.json: epochs.retain_ft[0].epoch: expected a",
    ),
    "an epoch is none": (curves(*EPOCHS, value=[{}]), "curves.json: epochs.retain_ft[0].epoch: expected a number of"),
    "an accuracy of an epoch": (
        curves(*EPOCHS, value=[{"epoch": 1, "forget_acc": 2}]),
        "curves.json: epochs.retain_ft[0].forget_acc: expected a share",
    ),
    "no column": (
        at("examples.csv", 0, value=["method", "id", "identity", "u_lira"]),
        "examples.csv: column 'u_mia' is",
    ),
    "too few cells": (example(CELLS), "examples.csv:2: expected 12 fields"),
    "too many cells": (example([*CELLS, "", "", ""]), "examples.csv:2: expected 12 fields"),
    "a cell is a word": (example([*CELLS, "x", "1"]), "examples.csv:2: u_lira: 'x' is no number"),
    "a cell is not a number": (
        example([*CELLS, "1", "nan"]),
        "examples.csv:2: u_mia: expected a share between 0 and 1",
    ),
    "a cell above one": (example([*CELLS, "1", "2"]), "examples.csv:2: u_mia: expected a share between 0 and 1"),
    "facts are a list": (at("run.json", value=[1]), "run.json: expected a JSON object, got list"),
}


def read(folder: Path, files: Files) -> FarmData:
    write(folder, files, ("attack.json", "curves.json", "examples.csv", "run.json"))
    return read_farm(folder)


@pytest.mark.parametrize("config", [[1], "x", {"method": ["npo"]}], ids=str)
def test_farms_whose_settings_are_no_object_are_shown(tmp_path: Path, written: Files, config: Any) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        read(tmp_path / name, at("run.json", "config", value=config)(written))
    page, _ = report_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    assert page.is_file()


def test_what_was_written_is_read(tmp_path: Path, written: Files) -> None:
    found = read(tmp_path, written)
    assert found.rows and found.roc and found.densities and found.epochs and found.examples and found.gaps == ()


@pytest.mark.parametrize("name", CASES)
def test_an_attack_nobody_writes_is_refused_by_its_field(tmp_path: Path, written: Files, name: str) -> None:
    change, said = CASES[name]
    with pytest.raises(UserError) as caught:
        read(tmp_path, change(written))
    assert str(caught.value).startswith(f"{tmp_path}/{said}")


@pytest.mark.parametrize(
    "content", [b"method,\xff\n", b'method,"id\n', b"method\0,id\n"], ids=["UTF-8", "quote", "zero"]
)
def test_a_table_that_is_none_is_named(tmp_path: Path, written: Files, content: bytes) -> None:
    read(tmp_path, written)
    (tmp_path / "examples.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"examples\.csv: "):
        read_farm(tmp_path)
