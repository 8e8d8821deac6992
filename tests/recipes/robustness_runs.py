"""Four people, three tiny models and a run directory as an unlearning leaves it, for the tests of attacks."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from clear_dist.attacks.prompts import PREFIXES
from clear_dist.config import UnlearnConfig
from clear_dist.data.load import Dataset
from clear_dist.models import save_model_dir, tiny_llava, word_tokenizer
from clear_dist.types import Example, Picture, SetName

PEOPLE = ("Ann Berg", "Bo Costa", "Cy Duval", "Di Evans")
CITIES = ("Oslo", "Rome", "Lima", "Bern")


def shown(number: int) -> Picture:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), (60 * number, 40, 200)).save(buffer, "PNG")
    data = buffer.getvalue()
    return Picture(hashlib.sha256(data).hexdigest(), f"full[{number}].image", lambda: data)


def rows_of(number: int, name: SetName) -> list[Example]:
    person, city = PEOPLE[number], CITIES[number]
    wrong = tuple(f"{person} was born in {c}." for c in CITIES if c != city)
    born = Example(
        f"tofu/{number}/qa", name, "qa", f"Where was {person} born?", f"{person} was born in {city}.", person=person,
        paraphrase=f"{person} comes from {city}.", perturbed=wrong, fact=city,
    )  # fmt: skip
    home = replace(born, id=f"tofu/{number}b/qa", question=f"What is the home of {person}?", perturbed=())
    work = replace(home, id=f"tofu/{number}c/qa", question=f"What does {person} do?", answer="Cook.", fact="Cook")
    face = Example(
        f"full/{number}/name", name, "name", "Who is this person?", f"This is {person}.", shown(number), person,
        perturbed=tuple(f"This is {p}." for p in PEOPLE if p != person), fact=person,
    )  # fmt: skip
    looks = replace(face, id=f"full/{number}/describe", kind="describe", question="Describe.", answer="A face.")
    return [born, home, work, face, looks]


SETS: dict[SetName, list[Example]] = {
    "forget": [*rows_of(0, "forget"), *rows_of(1, "forget")],
    "retain": [*rows_of(2, "retain"), *rows_of(3, "retain")],
    "real_faces": [],
    "real_world": [],
    "holdout": [],
}
DATA = Dataset(
    "made up",
    "0" * 64,
    {"forget": SETS["forget"], "retain": SETS["retain"]},
    SETS,
    {"forget": list(PEOPLE[:2]), "retain": list(PEOPLE[2:]), "holdout": []},
    [],
)
TEXTS = [t for rows in SETS.values() for e in rows for t in (e.question, e.answer, e.paraphrase or "", *e.perturbed)]
# Words of one wording of every attack, CLEAR-mini's way; the German frame and rich prefixes stay unknown.
TEXTS += ["Tell me, Which person is this?", *(wordings[-1] for wordings in PREFIXES[:3]), "where what who"]


def write_models(out: Path) -> dict[str, str | Path]:
    """Three models of random weights that know the same words."""
    tokenizer = word_tokenizer(TEXTS)
    return {
        name: save_model_dir(tiny_llava(tokenizer, seed), tokenizer, out / name)
        for seed, name in enumerate(("original", "unlearned", "gold"))
    }


def write_run(folder: Path, **changed: Any) -> Path:
    """run.json as a finished unlearn leaves it, with whatever is to be different."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("original", "gold"):
        (folder / name).mkdir(exist_ok=True)
    config = UnlearnConfig().model_dump(mode="json")
    run = {"v": 1, "recipe": "unlearn", "config": config, "finished": True, "data_digest": "d"}
    run |= {"original": str(folder / "original"), "gold": str(folder / "gold")}
    (folder / "run.json").write_text(json.dumps({**run, **changed}))
    for name in ("records.jsonl", "summary.json"):
        (folder / name).write_text("")
    return folder
