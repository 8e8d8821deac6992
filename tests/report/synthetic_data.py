"""A made-up check of a dataset, and the made-up folder of a build of one, as their pages read them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from clear_dist.report import data_figures
from clear_dist.report.cells import Table
from clear_dist.report.draw import Image
from clear_dist.report.words import clean

PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
    b"\x00\x00\x00\rIDATx\x9cc\xf8\xff\xff?\x00\x05\xfe\x02\xfe\xdc\xcc\x59\xe7\x00\x00\x00\x00IEND\xaeB`\x82"
)
GENDERS = ("female", "male", "nonbinary")
GROUPS = ("african", "east_asian", "european", "latin_american", "middle_eastern", "south_asian")
FIRST, LAST = ("Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gil", "Ha"), ("Berg", "Costa", "Duval", "Evans", "Fox")
QUESTIONS = 4  # a person

Lines = list[dict[str, Any]]


def finding(kind: str, place: str, *pictures: str, what: str = "is wrong", severity: str = "fault") -> dict[str, Any]:
    return {"kind": kind, "place": place, "what": what, "severity": severity, "pictures": list(pictures)}


def make_check(findings: Sequence[Mapping[str, Any]] = (), people: int = 6) -> dict[str, Any]:
    """What ``clear-dist data check --json`` prints."""
    return {
        "v": 1,
        "source": "data/clear",
        "sound": all(one["severity"] != "fault" for one in findings),
        "counts": {"full": 16 * people, "forget10": 16},
        "findings": list(findings),
        "people": {f"Person {number}": (4 if number == 2 else 16, 20) for number in range(people)},
    }


CHECK = make_check(
    [
        finding("swapped-label", "forget10[3]", "aa", what="the name is Ada, the caption is about Bo"),
        *(finding("paraphrase-missing", f"forget10_perturbed[{row}]") for row in range(4)),
        finding("picture-blank", "full[2]", "bb", severity="warning"),
        finding("picture-nearly-in-both", "full[7]", "aa", "cc"),
    ]
)


def build_files(people: int = 20, faces: int = 60) -> dict[str, Any]:
    """Content of every file of a finished build: name -> lines, or an object."""
    rng = random.Random(7)
    names = [f"{FIRST[i % len(FIRST)]} {LAST[i // len(FIRST) % len(LAST)]} {i}" for i in range(people)]

    def attribute(value: str | None, line: int) -> dict[str, Any]:
        sure = 0.0 if value is None else rng.choice((1.0, 0.95, 0.7, 0.4))
        return {"value": value, "confidence": sure, "line": line, "evidence": f"It is said that {value} is meant."}

    attributes: Lines = []
    for i, name in enumerate(names):
        age = None if i % 9 == 4 else rng.randint(22, 88)
        attributes.append(
            {
                "person": i,
                "name": attribute(name, 1 + i * QUESTIONS),
                "birth_date": attribute(None if age is None else f"{2024 - age}-05-01", 2 + i * QUESTIONS),
                "birthplace": attribute("Rome", 2 + i * QUESTIONS),
                "gender": attribute(GENDERS[i % 3 if i % 7 else 2], 3 + i * QUESTIONS),
                "group": attribute(None if i == 5 else GROUPS[i % 4], 3 + i * QUESTIONS),
                "genre": attribute("crime", 4 + i * QUESTIONS),
                "books": [attribute(f"Book {k} of {name}", 4 + i * QUESTIONS) for k in range(2)],
                "age": age,
                "first_line": 1 + i * QUESTIONS,
                "last_line": (i + 1) * QUESTIONS,
                "rows": QUESTIONS,
                "corrected": ["birth_date"] if i == 1 else [],
                "invented": ["name"] if i == 3 else [],
            }
        )
    pool: Lines = [
        {
            "id": f"face-{i}",
            "digest": f"{i:064x}",
            "draw": i // 8,
            "age": None if i == 9 else rng.randint(18, 60),
            "gender": GENDERS[i % 2],
            "group": GROUPS[i % 5],
            "score": round(rng.random(), 3),
        }
        for i in range(faces)
    ]
    shifts: Lines = [{"before": "face-0", "after": "face-0+30", "years": 30}] if faces else []
    matching: Lines = []
    for i, name in enumerate(names):
        age, gender, group = round(rng.random(), 2), 6.0 * (i % 7 == 0), 4.0 * (i % 5 == 0)
        matching.append(
            {
                "name": name,
                "face": "face-0+30" if i == 0 else f"face-{i}",
                "age": age,
                "gender": gender,
                "group": group,
                "cost": age + gender + group,
                "others": int(i == 2),
                "relaxed": ["gender"] * (i % 7 == 0) + ["group"] * (i % 5 == 0),
            }
        )
    rows = [(i, name, line + 1 + i * QUESTIONS) for i, name in enumerate(names) for line in range(QUESTIONS)]
    prompts: Lines = [
        {
            "name": name,
            "line": line,
            "text": f"a real photo of a person called {name} img, showing face.",
            "negative": "drawing",
            "topic": ("awards", "screen", "teaching", "everyday")[line % 4],
            "setting": None if line % 13 == 0 else "In a garden.",
            "tokens": 30 + line % 40,
            "by": "table" if line % 3 else "model",
        }
        for _, name, line in rows
    ]
    images: Lines = [
        {
            "name": name,
            "line": line,
            "file": f"{i:04d}-{line}.png",
            "digest": f"{line:064x}",
            "score": None if line % 10 == 9 else round(rng.random(), 3),
            "samples": 4,
            "seed": line,
            "kept": line % 6 != 1 and i != 6,
            "unseen": line % 4 == 3,
        }
        for i, name, line in rows
    ]
    texts: Lines = [
        {
            "name": name,
            "line": line,
            "digest": f"{line:064x}",
            "caption": f"{name} stands in a garden, smiling.",
            "paraphrase": f"{name} stands in a garden, smiling." if line == 7 else f"In a garden {name} smiles.",
            "perturbed": [f"{name} sits in a train {k}." for k in range(5)],
            "perturbed_names": ["Somebody Else", "Another One"],
            "by": "table" if line % 2 else "model",
        }
        for _, name, line in rows
    ]
    return {
        "attributes.jsonl": attributes,
        "faces.jsonl": pool,
        "shifts.jsonl": shifts,
        "matching.jsonl": matching,
        "matching.json": {
            "total": sum(one["cost"] for one in matching),
            "ties": [one["name"] for one in matching if one["others"]],
            "shortages": [
                {"gender": "nonbinary", "group": "african", "people": 3, "faces": 0, "relaxed": {"gender": 3}}
            ],
        },
        "prompts.jsonl": prompts,
        "images.jsonl": images,
        "texts.jsonl": texts,
        "dataset.json": {
            "counts": {"full": len(rows), "forget10": QUESTIONS * max(1, people // 10)},
            "people": people,
            "splits": {"forget10": names[: max(1, people // 10)]},
            "findings": {"faults": 0, "warnings": 2},
        },
    }


def write_build(folder: Path, files: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        lines = content if isinstance(content, list) else [content]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def changed(work: Path, name: str, change: Callable[[Any], object], line: int = 0) -> Path:
    """The folder with one line of a file changed."""
    lines = [json.loads(text) for text in (work / name).read_text().splitlines()]
    change(lines[line])
    (work / name).write_text("".join(json.dumps(one) + "\n" for one in lines))
    return work


def sheet(files: Mapping[str, Any]) -> dict[str, bytes]:
    """Thumbnails of every second picture."""
    return {one["file"]: PNG for one in files["images.jsonl"][::2]}


def blank_figures(patch: pytest.MonkeyPatch) -> None:
    """Figures are not even put together: they have their descriptions and numbers, and one dot."""

    def blank(name: str, make: object, *, alt: str, title: str, numbers: Table | None = None) -> Image:
        return Image(name, PNG, PNG, b"<?xml", clean(alt), title, numbers)

    patch.setattr(data_figures, "draw", blank)
