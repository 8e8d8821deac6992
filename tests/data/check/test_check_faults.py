"""A sound dataset has no finding; each planted fault is found, by its kind and at its place."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clear_dist.data.check import Finding, check_directory
from clear_dist.types import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data_fakes import Table, clear_tables, write_clear  # pyright: ignore[reportMissingImports]

Tables = dict[str, Table]
WHO = 5  # the one to forget, of six people with three pictures and two questions each


def noise(seed: int, change: int = 0) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    if change:
        pixels = np.clip(pixels.astype(int) + change, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


def sound() -> Tables:
    """The small dataset, with pictures that differ, and a smaller forget split inside the larger."""
    tables = copy.deepcopy(clear_tables())
    number: dict[bytes, int] = {}
    for table in tables.values():
        for i, cell in enumerate(table["image"]):
            if isinstance(cell, dict):
                table["image"][i] = noise(number.setdefault(cell["bytes"], len(number)))
    tables["real_world"]["options"] = [["There", "Here"], ["Now", "Then"]]
    return tables | {
        name.replace("10", "05").replace("90", "95"): copy.deepcopy(t) for name, t in tables.items() if "0" in name
    }


def found(folder: Path, tables: Tables) -> list[Finding]:
    return check_directory(write_clear(folder / "data", tables)).findings


def test_a_sound_dataset_has_no_finding(tmp_path: Path) -> None:
    report = check_directory(write_clear(tmp_path / "data", sound()))
    assert report.findings == [] and report.sound
    assert report.counts["full"] == 18 and report.counts["forget10+tofu"] == 2 and report.counts["real_faces"] == 2
    assert report.people["Flo Gray"] == (3, 2)


def put(config: str, column: str, row: int, value: object) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        tables[config][column][row] = value

    return change


def swapped(tables: Tables) -> None:
    names = tables["full"]["name"]
    names[0], names[3] = names[3], names[0]


def without(config: str, row: int) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        for cells in tables[config].values():
            del cells[row]

    return change


def doubled(config: str, row: int) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        for cells in tables[config].values():
            cells.append(cells[row])

    return change


def moved(tables: Tables) -> None:
    """A row of somebody to forget put among the retained."""
    for column, cells in tables["retain90"].items():
        cells.append(tables["forget10"][column][0])


def same_id(tables: Tables) -> None:
    tables["full"]["id"] = [*(f"r{i}" for i in range(17)), "r0"]


def like(row: int, change: int, at: int = 4) -> Callable[[Tables], None]:
    """The picture of a row of retain becomes, in every config, (nearly) that of a row of forget10."""

    def to(tables: Tables) -> None:
        old, other = tables["retain90"]["image"][at], tables["forget10"]["image"][row]
        new = other if not change else _nearly(other, change)
        for table in tables.values():
            table["image"] = [new if cell == old else cell for cell in table["image"]]

    return to


def _nearly(cell: Any, change: int) -> dict[str, Any]:
    pixels = np.asarray(Image.open(io.BytesIO(cell["bytes"]))).astype(int) + change
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


def twice(tables: Tables) -> None:
    """Two people of the retained have one picture."""
    new, old = tables["full"]["image"][0], tables["full"]["image"][4]
    for table in tables.values():
        table["image"] = [new if cell == old else cell for cell in table["image"]]


def asked_again(tables: Tables) -> None:
    for name in ("full+tofu", "retain90+tofu", "retain95+tofu"):
        table = tables[name]
        first = next(i for i, question in enumerate(table["question"]) if question is not None)
        table["question"][first + 1] = table["question"][first]


def same_question(tables: Tables) -> None:
    question = tables["forget10+tofu"]["question"][-1]
    for name in ("full+tofu", "retain90+tofu", "retain95+tofu"):
        table = tables[name]
        table["question"][next(i for i, q in enumerate(table["question"]) if q is not None)] = question


def leak(tables: Tables) -> None:
    for name in ("full+tofu", "retain90+tofu", "retain95+tofu"):
        table = tables[name]
        table["answer"][next(i for i, q in enumerate(table["question"]) if q is not None)] = "She knew Flo Gray."


def no_column(tables: Tables) -> None:
    del tables["retain90"]["caption"]


def few(tables: Tables) -> None:
    for name in ("full", "retain90", "retain95"):
        without(name, 0)(tables)
        without(name, 0)(tables)
    for _ in range(2):
        without("retain_perturbed", 0)(tables)


CUT = {"bytes": noise(77)["bytes"][:300], "path": None}
PLANTED: dict[str, tuple[Callable[[Tables], None], str, str]] = {
    "a label swapped": (swapped, "swapped-label", "full[0]"),
    "a picture on both sides": (like(0, 0), "picture-in-both", "forget10[0]"),
    "nearly the same on both sides": (like(1, 2, at=9), "picture-nearly-in-both", "forget05[1]"),
    "one picture of two people": (twice, "picture-of-two", "full[4]"),
    "no paraphrase": (
        put("forget10_perturbed", "paraphrased_caption", 1, ""),
        "paraphrase-missing",
        "forget10_perturbed[1]",
    ),
    "a paraphrase that is none": (
        put("forget10_perturbed", "paraphrased_caption", 2, "Flo Gray in room 2."),
        "paraphrase-same",
        "forget10_perturbed[2]",
    ),
    "a wrong caption that is right": (
        put("forget10_perturbed", "perturbed_captions", 2, ["Flo Gray in room 2.", "Never"]),
        "perturbed-right",
        "forget10_perturbed[2]",
    ),
    "a wrong caption missing": (
        put("retain_perturbed", "perturbed_captions", 0, ["Never"]),
        "perturbed-missing",
        "retain_perturbed[0]",
    ),
    "half a picture": (put("full", "image", 2, CUT), "picture-unreadable", "full[2]"),
    "no picture": (put("retain95", "image", 2, None), "picture-missing", "retain95[2]"),
    "an empty caption": (put("full", "caption", 7, " "), "cell-empty", "full[7]"),
    "an empty answer": (put("forget10+tofu", "answer", 4, None), "cell-empty", "forget10+tofu[4]"),
    "a config missing": (lambda tables: tables.pop("retain_perturbed"), "config-missing", "retain_perturbed"),  # pyright: ignore[reportAssignmentType]
    "a column missing": (no_column, "config-broken", "retain90"),
    "a row lost": (without("retain90", 6), "row-lost", "full[6]"),
    "a row twice": (doubled("retain90", 6), "row-twice", "full[6]"),
    "a caption changed": (put("retain90", "caption", 6, "Cy Duval in a hall."), "row-changed", "retain90[6]"),
    "a person on both sides": (moved, "person-in-both", "retain90[15]"),
    "a name in a retained answer": (leak, "name-leaks", "retain90: Flo Gray"),
    "a question on both sides": (same_question, "question-in-both", "forget10+tofu[4]"),
    "a question with two answers": (asked_again, "question-twice", "full+tofu[19]"),
    "an id twice": (same_id, "id-twice", "full[17]"),
    "a split not inside the larger": (
        put("forget05", "caption", 0, "Flo Gray swims."),
        "split-not-nested",
        "forget05[0]",
    ),
    "companions of somebody else": (
        put("forget10_perturbed", "image", 0, noise(99)),
        "companion-foreign",
        "forget10_perturbed[0]",
    ),
    "a real face that is invented": (put("real_faces", "answer", 1, "Ada Berg"), "real-is-fictitious", "real_faces[1]"),
    "nothing to choose from": (put("real_world", "options", 0, ["Here"]), "options-missing", "real_world[0]"),
    "a person with too little": (few, "unbalanced", "full: pictures"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(tmp_path: Path, name: str) -> None:
    plant, kind, place = PLANTED[name]
    tables = sound()
    plant(tables)
    findings = found(tmp_path, tables)
    assert (kind, place) in {(f.kind, f.place) for f in findings}, [(f.kind, f.place, f.what) for f in findings]
    (one, *_) = [f for f in findings if (f.kind, f.place) == (kind, place)]
    assert one.what and one.severity == ("warning" if kind == "unbalanced" else "fault")


def test_many_faults_at_once_are_all_found(tmp_path: Path) -> None:
    """Twenty, in one dataset: none hides another."""
    together = [
        name for name in PLANTED if name not in ("a config missing", "a column missing", "no picture", "an id twice")
    ]
    together = [
        n
        for n in together
        if n not in ("one picture of two people", "a question on both sides", "a person with too little")
    ]
    tables = sound()
    for name in together:
        PLANTED[name][0](tables)
    kinds = {f.kind for f in found(tmp_path, tables)}
    assert len(together) == 20 and {PLANTED[name][1] for name in together} <= kinds


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[1]", "attributes-broken"),
        ('{"v": 1, "pictures": {"ab": {}}, "facts": {}}', "attributes-foreign"),
        ('{"v": 1, "pictures": [], "facts": {}}', "attributes-broken"),
    ],
)
def test_attributes_that_do_not_belong(tmp_path: Path, text: str, kind: str) -> None:
    path = write_clear(tmp_path / "data", sound())
    (path / "attributes.json").write_text(text)
    assert kind in {f.kind for f in check_directory(path).findings}


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_what_is_no_dataset_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "none")
    with pytest.raises(UserError, match=r"none: no (such directory|config)"):
        check_directory(tmp_path / "none")
