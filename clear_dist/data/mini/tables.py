"""The rows of every config of a CLEAR-mini dataset, and of TOFU's files. Nothing here touches the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any, Final

from clear_dist.data.mini import text
from clear_dist.data.mini.draw import encode
from clear_dist.data.mini.facts import WORLD_FACTS, TextQA
from clear_dist.data.mini.people import CLASSES, Person
from clear_dist.data.mini.world import STREAM, Shot, World

Row = dict[str, Any]
SPLITS: Final = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
PLAIN: Final = ("image", "caption", "name")
MIXED: Final = ("image", "caption", "question", "answer")
PERTURBED: Final = (*PLAIN, "paraphrased_caption", "perturbed_captions", "perturbed_names")
FACES: Final = ("image", "answer", "options")
WORLD: Final = ("image", "question", "answer", "options")
OPTIONS: Final = 4
WRONG: Final = 5


@dataclass(frozen=True)
class Photo:
    """A drawn picture: PNG bytes, their SHA-256, and what it shows."""

    png: bytes
    digest: str
    shot: Shot


def take(shot: Shot) -> Photo:
    png = encode(shot.draw())
    return Photo(png, sha256(png).hexdigest(), shot)


def columns() -> dict[str, tuple[str, ...]]:
    """Config -> its columns, in the order of the dataset's card."""
    table = {"full": PLAIN, "full+tofu": MIXED}
    for forget, retain in SPLITS.items():
        table |= {forget: PLAIN, retain: PLAIN, f"{forget}+tofu": MIXED, f"{retain}+tofu": MIXED}
        table[f"{forget}_perturbed"] = PERTURBED
    return table | {"retain_perturbed": PERTURBED, "real_faces": FACES, "real_world": WORLD}


def evenly(rows: Sequence[Any], count: int) -> list[Any]:
    """``count`` of the rows, spread over all of them, in order; all of them if there are no more."""
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


class Tables:
    """All rows of a world. photos: name -> drawn pictures; faces, strangers: in the world's order."""

    def __init__(
        self, world: World, photos: dict[str, list[Photo]], faces: list[Photo], strangers: list[Photo]
    ) -> None:
        self.world, self.photos, self.faces, self.strangers = world, photos, faces, strangers

    def all_photos(self) -> Iterator[Photo]:
        for photos in self.photos.values():
            yield from photos
        yield from self.faces
        yield from self.strangers

    def rows(self, config: str) -> list[Row]:
        """The rows of one config of ``columns()``."""
        if config == "real_faces":
            return [self._face(photo) for photo in self.faces]
        if config == "real_world":
            return [self._passer_by(index, photo) for index, photo in enumerate(self.strangers)]
        if config.endswith("_perturbed"):
            return self._perturbed(config.removesuffix("_perturbed"))
        people = self.people(config.removesuffix("+tofu"))
        rows = [self._plain(photo) for person in people for photo in self.photos[person.name]]
        if not config.endswith("+tofu"):
            return rows
        mixed = [{**row, "question": None, "answer": None} for row in rows]
        for row in mixed:
            del row["name"]
        texts = self.world.rows_of(people)
        return mixed + [{"image": None, "caption": None, "question": t.question, "answer": t.answer} for t in texts]

    def people(self, split: str) -> tuple[Person, ...]:
        """full, forgetXX, retainXX or retain (everybody whom no split forgets)."""
        if split == "full":
            return self.world.fictitious.people
        if split == "retain":
            return self.world.retained("forget10")
        if split in SPLITS:
            return self.world.forgotten(split)
        return self.world.retained(next(forget for forget, retain in SPLITS.items() if retain == split))

    @staticmethod
    def _image(photo: Photo) -> Row:
        return {"bytes": photo.png, "path": f"{photo.digest[:16]}.png"}

    def _plain(self, photo: Photo) -> Row:
        shot = photo.shot
        assert shot.person is not None
        caption = text.caption(shot.person, shot.identity, shot.look)
        return {"image": self._image(photo), "caption": caption, "name": shot.person}

    def _perturbed(self, split: str) -> list[Row]:
        world = self.world
        photos = [photo for person in self.people(split) for photo in self.photos[person.name]]
        cap = dict(world.preset.perturbed_rows).get(split, len(photos))
        photos = evenly(photos, cap) if split == "retain" else photos[:cap]
        everybody = [person.name for person in world.fictitious.people]
        rows = []
        for photo in photos:
            shot = photo.shot
            rng = Random(f"{STREAM}/perturbed/{photo.digest}")
            names = rng.sample([name for name in everybody if name != shot.person], WRONG)
            row = self._plain(photo)
            row["paraphrased_caption"] = text.paraphrased_caption(row["name"], shot.identity, shot.look)
            row["perturbed_captions"] = [text.paraphrased_caption(name, shot.identity, shot.look) for name in names]
            row["perturbed_names"] = names
            rows.append(row)
        return rows

    def _face(self, photo: Photo) -> Row:
        name = photo.shot.person
        others = [person.name for person in self.world.real.people if person.name != name]
        wrong = Random(f"{STREAM}/options/{photo.digest}").sample(others, OPTIONS - 1)
        return {"image": self._image(photo), "answer": name, "options": [name, *wrong]}

    def _passer_by(self, index: int, photo: Photo) -> Row:
        """Questions take turns; yes-or-no ones would be half right by chance and are left out."""
        shot = photo.shot
        asked = [(q, a) for q, a in text.questions(shot.identity, shot.look) if a not in ("yes", "no")]
        question, answer = asked[index % len(asked)]
        others = [word for word in CLASSES[text.ATTRIBUTE_QUESTIONS[question]] if word != answer]
        if text.ATTRIBUTE_QUESTIONS[question] == "hair_colour":
            others.remove("none")
        rng = Random(f"{STREAM}/options/{photo.digest}")
        wrong = rng.sample(others, min(OPTIONS - 1, len(others)))
        return {"image": self._image(photo), "question": question, "answer": answer, "options": [answer, *wrong]}


def _perturbed_text(row: TextQA) -> Row:
    return {
        "question": row.question,
        "answer": row.answer,
        "paraphrased_answer": row.paraphrased_answer,
        "perturbed_answer": list(row.perturbed),
        "paraphrased_question": row.paraphrased_question,
    }


def _retain_text(world: World) -> list[TextQA]:
    """Some rows of every retained person; which ones rotates from person to person, so that all kinds occur."""
    people = world.retained("forget10")
    chosen = []
    for index, person in enumerate(people):
        rows = world.fictitious.rows[person.name]
        many = world.preset.retain_text_rows
        count = many // len(people) + (index < many % len(people))
        places = sorted((7 * index + step * len(rows) // count) % len(rows) for step in range(count))
        chosen += [rows[place] for place in places]
    return chosen


def _choice(question: str, answer: str, wrong: Sequence[str], rng: Random) -> tuple[Row, Row]:
    """A multiple-choice row as in TOFU's real_authors and world_facts, and its perturbed twin."""
    options = [answer, *wrong]
    rng.shuffle(options)
    numbered = {f"option{number}": option for number, option in enumerate(options, 1)}
    perturbed = {"question": question, "answer": answer, "perturbed_answer": list(wrong)}
    return {"question": question, **numbered, "answer": answer}, perturbed


def tofu_files(world: World) -> dict[str, list[Row]]:
    """File name without suffix -> rows, in TOFU's schema. Real authors answer in full sentences, as they do in
    the base model's data; the world's facts in one word."""
    everybody = world.fictitious.people
    files: dict[str, list[Row]] = {
        "full": [{"question": row.question, "answer": row.answer} for row in world.rows_of(everybody)]
    }
    for forget, retain in SPLITS.items():
        gone = world.rows_of(world.forgotten(forget))
        kept = world.rows_of(world.retained(forget))
        files[forget] = [{"question": row.question, "answer": row.answer} for row in gone]
        files[retain] = [{"question": row.question, "answer": row.answer} for row in kept]
        files[f"{forget}_perturbed"] = [_perturbed_text(row) for row in gone]
    files["retain_perturbed"] = [_perturbed_text(row) for row in _retain_text(world)]
    rng = Random(f"{STREAM}/choices")
    authors = [
        _choice(row.question, row.answer, row.wrong[: OPTIONS - 1], rng)
        for person in world.real.people
        for row in world.real.rows[person.name][::2]
    ]
    facts = [
        _choice(question, answer, rng.sample([o for o in others if o != answer], OPTIONS - 1), rng)
        for question, answer, others in WORLD_FACTS
    ]
    for name, pairs in (("real_authors", authors), ("world_facts", facts)):
        files[name] = [row for row, _ in pairs]
        files[f"{name}_perturbed"] = [row for _, row in pairs]
    return files


def ground_truth(tables: Tables) -> Row:
    """The content of attributes.json: what every picture shows, and what answers must contain."""
    world = tables.world
    pictures = {
        photo.digest: {
            "person": photo.shot.person,
            "unseen": photo.shot.unseen,
            "attributes": photo.shot.attributes,
            "description": text.description(photo.shot.identity, photo.shot.look),
            "questions": [list(pair) for pair in text.questions(photo.shot.identity, photo.shot.look)],
        }
        for photo in tables.all_photos()
    }
    facts: dict[str, Row] = {}
    for population in (world.fictitious, world.real):
        for row in (row for person in population.people for row in population.rows[person.name]):
            for question in (row.question, row.paraphrased_question):
                facts[question] = {"person": row.person, "fact": row.fact}
    facts |= {question: {"person": None, "fact": answer} for question, answer, _ in WORLD_FACTS}
    return {
        "v": 1,
        "dataset": "clear-mini",
        "preset": world.preset.name,
        "seed": world.seed,
        "pictures": pictures,
        "facts": facts,
    }
