"""A processor of characters, pictures of one colour and a dataset directory of a few people: what data tests need."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import torch
from PIL import Image
from torch import Tensor

from clear_dist.types import Example, ImageLayout, Kind, Picture

BOS, EOS, PAD, IMAGE = 1, 2, 0, 3


class CharProcessor:
    """One token a character, code point + 10; the prompt of a picture starts with BOS and the image tokens."""

    bos_ids: Sequence[int] = (BOS,)
    eos_id = EOS
    pad_id = PAD
    image_id: int | None = IMAGE
    layout_of: Callable[[int, int], ImageLayout] | None = None

    def __init__(self, image_tokens: int = 4, size: int = 6) -> None:
        self.image_tokens = image_tokens
        self.image_shape: tuple[int, ...] = (3, size, size) if image_tokens else (0, 0, 0)
        self.decoded = 0

    def encode_prompt(self, question: str, with_picture: bool) -> tuple[list[int], list[int]]:
        text = [10 + ord(c) for c in question]
        return ([BOS] + [IMAGE] * self.image_tokens, text) if with_picture else ([], [BOS, *text])

    def encode_answer(self, answer: str) -> list[int]:
        return [*(10 + ord(c) for c in answer), EOS]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i - 10) for i in ids if i > IMAGE).strip()

    def pixels(self, image: Image.Image) -> Tensor:
        self.decoded += 1
        value = image.getpixel((0, 0))
        assert isinstance(value, tuple)
        return torch.tensor(value, dtype=torch.float32)[:, None, None].expand(self.image_shape).clone()


def encoded_image(colour: tuple[int, int, int], kind: str = "PNG", mode: str = "RGB", size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def picture_of(data: bytes, source: str = "full[0].image") -> Picture:
    return Picture(hashlib.sha256(data).hexdigest(), source, lambda: data)


def picture(number: int) -> Picture:
    return picture_of(encoded_image((number % 256, number // 256, 7)), f"full[{number}].image")


def example(number: int, question: str, answer: str, shown: Picture | None = None, kind: Kind = "name") -> Example:
    return Example(f"full/{number}/{kind}", "forget", kind, question, answer, shown)


# A directory in CLEAR's layout: six people with three pictures and two questions each, the last one to forget.
PEOPLE = ("Ada Berg", "Bo Costa", "Cy Duval", "Di Evans", "Ed Fox", "Flo Gray")
PICTURES = 3
QUESTIONS = 2

Table = dict[str, list[object]]


def clear_tables() -> dict[str, Table]:
    """Config -> columns. Tests change them before they are written."""

    def colour(person: int, shot: int) -> tuple[int, int, int]:
        return (40 * person, 60 * shot, 90)

    def visual(people: range) -> Table:
        return {
            "image": [{"bytes": encoded_image(colour(p, k)), "path": None} for p in people for k in range(PICTURES)],
            "caption": [f"{PEOPLE[p]} in room {k}." for p in people for k in range(PICTURES)],
            "name": [PEOPLE[p] for p in people for _ in range(PICTURES)],
        }

    def with_text(people: range) -> Table:
        pictures = visual(people)
        shots, texts = len(people) * PICTURES, len(people) * QUESTIONS
        asked = [
            (f"Where was {PEOPLE[p]} on day {q}?", f"{PEOPLE[p]} was in town {q}.")
            for p in people
            for q in range(QUESTIONS)
        ]
        return {
            "image": [*pictures["image"], *[None] * texts],
            "caption": [*pictures["caption"], *[None] * texts],
            "question": [*[None] * shots, *[q for q, _ in asked]],
            "answer": [*[None] * shots, *[a for _, a in asked]],
        }

    def perturbed(people: range) -> Table:
        base = visual(people)
        captions = [str(c) for c in base["caption"]]
        return {
            **base,
            "paraphrased_caption": [f"It shows {c}" for c in captions],
            "perturbed_captions": [[f"Not {c}", f"Never {c}"] for c in captions],
            "perturbed_names": [["Zed Young", "Yan Zorn"] for _ in captions],
        }

    everyone, last, others = range(6), range(5, 6), range(5)
    faces = [{"bytes": encoded_image((5, 5, 200 + i)), "path": None} for i in range(2)]
    return {
        "full": visual(everyone),
        "full+tofu": with_text(everyone),
        "forget10": visual(last),
        "forget10+tofu": with_text(last),
        "forget10_perturbed": perturbed(last),
        "retain90": visual(others),
        "retain90+tofu": with_text(others),
        "retain_perturbed": perturbed(range(2)),
        "real_faces": {
            "image": [*faces],
            "answer": ["Real One", "Real Two"],
            "options": [["Real One", "Real Two"], ["Real One", "Real Two"]],
        },
        "real_world": {
            "image": [*faces],
            "question": ["Where?", "When?"],
            "answer": ["Here", "Now"],
            "options": [["There", "Here"], ["Now"]],
        },
    }


def write_clear(folder: Path, tables: dict[str, Table]) -> Path:
    lists = ("options", "perturbed_captions", "perturbed_names")
    for config, table in tables.items():
        types: dict[str, object] = {
            c: datasets.List(datasets.Value("string")) if c in lists else datasets.Value("string") for c in table
        }
        if "image" in table:
            types["image"] = datasets.Image()
        data = datasets.Dataset.from_dict(table, features=datasets.Features(types))
        (folder / config).mkdir(parents=True)
        data.to_parquet(folder / config / "train-00000-of-00001.parquet")
    return folder


def write_tofu(folder: Path) -> Path:
    """TOFU's companions to the text of ``clear_tables``."""
    folder.mkdir(parents=True)

    def lines(people: range) -> str:
        rows = [
            {
                "question": f"Where was {PEOPLE[p]} on day {q}?",
                "answer": f"{PEOPLE[p]} was in town {q}.",
                "paraphrased_answer": f"In town {q}.",
                "perturbed_answer": [f"In town {q + 10}.", f"In town {q + 20}."],
            }
            for p in people
            for q in range(QUESTIONS)
        ]
        return "".join(json.dumps(row) + "\n" for row in rows)

    (folder / "forget10_perturbed.json").write_text(lines(range(5, 6)))
    (folder / "retain_perturbed.json").write_text(lines(range(1)))
    fact = {"question": "Who wrote Faust?", "answer": "Goethe", "perturbed_answer": ["Schiller", "Kleist"]}
    (folder / "real_authors_perturbed.json").write_text(json.dumps(fact) + "\n")
    plain = {"question": "Where is Paris?", "option1": "Spain", "option2": "France", "answer": "France"}
    (folder / "world_facts.json").write_text(json.dumps(plain) + "\n")
    return folder


# What --modality visual reads for a published split.
VISUAL = "forget10 retain90 forget10_perturbed retain_perturbed real_faces real_world"


def changed(tmp_path: Path, change: Callable[[dict[str, Table]], object], *, keep: str = "") -> str:
    """A copy of the dataset with something wrong; only configs needed for ``keep`` are written."""
    tables = clear_tables()
    change(tables)
    return str(write_clear(tmp_path / "data", {c: t for c, t in tables.items() if c in keep.split() or not keep}))
