"""A whole run directory made up without any model: people, drawn faces, three models' answers, training logs."""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from synthetic_extras import enriched, labelled

from clear_dist.evaluation.control import control_name, shuffle_pictures
from clear_dist.evaluation.predict import evaluate
from clear_dist.evaluation.records import write_records
from clear_dist.evaluation.summary import summarise, write_summary
from clear_dist.types import Example, Picture, Prediction, Request, Scored, SetName

FIRST = ("Mira", "Tomas", "Adaeze", "Henrik", "Yuki", "Salma", "Pavel", "Ines", "Noor", "Luca", "Freya", "Omar")
LAST = (
    "Okafor",
    "Lindqvist",
    "Haddad",
    "Marsh",
    "Tanaka",
    "Reyes",
    "Novak",
    "Costa",
    "Rahman",
    "Bianchi",
    "Holm",
    "Aziz",
)
NAMES = tuple(f"{a} {b}" for a, b in zip(FIRST, LAST, strict=True))
HAIR = {"red": "#a8442a", "black": "#2b2522", "blond": "#d9b35c", "grey": "#9a9a98", "brown": "#6b4428"}
WALL = {"blue": "#9fb9d6", "green": "#a9c7a6", "yellow": "#ead9a0", "pink": "#e3bcc4"}
JOBS = ("baker", "pilot", "botanist", "violinist", "surveyor", "midwife", "cartographer", "welder")
TOWNS = ("Arlen", "Brindle", "Castow", "Dunmere", "Eskel", "Farrow", "Gistad", "Hollin")
QUESTIONS = (
    ("What does {n} do for a living?", "{n} works as a {x}.", "A {x} is what {n} is by profession.", JOBS),
    ("Where was {n} born?", "{n} was born in {x}.", "The birthplace of {n} is {x}.", TOWNS),
    ("Where does {n} live today?", "{n} lives in {x}.", "The home of {n} is in {x}.", TOWNS[::-1]),
)


def face(person: int, shot: int) -> tuple[bytes, dict[str, str]]:
    """A drawn face, the same person's hair and skin in every shot; with what is visible on it."""
    rng = random.Random(1000 * person + shot)
    hair, wall = list(HAIR)[person % len(HAIR)], rng.choice(list(WALL))
    image = Image.new("RGB", (96, 96), WALL[wall])
    draw = ImageDraw.Draw(image)
    x, y = 48 + rng.randint(-6, 6), 46 + rng.randint(-4, 4)
    skin = ("#f1cfb0", "#c98f66", "#8a5a3c", "#e6b48f")[person % 4]
    draw.ellipse((x - 26, y - 32, x + 26, y + 14 + 10 * (person % 3)), fill=HAIR[hair])
    draw.rectangle((x - 34, y + 34, x + 34, 96), fill=rng.choice(("#37507a", "#7a3b46", "#3f6b52", "#555")))
    draw.rectangle((x - 8, y + 20, x + 8, y + 38), fill=skin)
    draw.ellipse((x - 20, y - 22, x + 20, y + 28), fill=skin)
    for side in (-8, 8):
        draw.ellipse((x + side - 3, y - 4, x + side + 3, y + 2), fill="#222")
    draw.arc((x - 8, y + 8, x + 8, y + 18), 10, 170, fill="#8c3f3a", width=2)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue(), {"hair": hair, "wall": wall}


class People:
    """Everybody in the made-up world, and a reading of pictures back into people."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.shots: dict[str, tuple[int, bytes, dict[str, str]]] = {}

    def picture(self, person: int, shot: int) -> tuple[Picture, dict[str, str]]:
        data, attributes = face(person, shot)
        digest = hashlib.sha256(data).hexdigest()
        self.shots[digest] = (person, data, attributes)
        return Picture(digest, f"synthetic[{person}/{shot}]", lambda: data), attributes

    def fact(self, person: int, question: int) -> str:
        words = QUESTIONS[question][3]
        return words[(person * 3 + question) % len(words)]

    def examples(self, set_name: SetName, person: int, shots: int = 6) -> list[Example]:
        name, rows = self.names[person], []
        for q, (question, answer, paraphrase, words) in enumerate(QUESTIONS):
            fact = self.fact(person, q)
            wrong = [w for w in words if w != fact][:4]
            rows.append(
                Example(
                    id=f"{person}/qa{q}",
                    set=set_name,
                    kind="qa",
                    question=question.format(n=name),
                    answer=answer.format(n=name, x=fact),
                    person=name,
                    paraphrase=paraphrase.format(n=name, x=fact),
                    perturbed=tuple(paraphrase.format(n=name, x=w) for w in wrong),
                    fact=fact,
                )
            )
        for shot in range(shots):
            picture, seen_on_it = self.picture(person, shot)
            caption = f"{name}, with {seen_on_it['hair']} hair, stands in front of a {seen_on_it['wall']} wall."
            base = Example(
                id=f"{person}/{shot}/caption",
                set=set_name,
                kind="caption",
                question="Describe this image.",
                answer=caption,
                picture=picture,
                person=name,
                seen=shot < 2,
                attributes=seen_on_it,
            )
            others = [n for n in self.names if n != name][:3]
            perturbed = tuple(caption.replace(name, other) for other in others)
            rows.append(Example(**{**vars(base), "paraphrase": caption, "perturbed": perturbed}))
            rows.append(Example(**{**vars(base), "id": f"{person}/{shot}/name", "kind": "name", "fact": name,
                                   "question": "Who is this person?", "answer": f"This is {name}."}))  # fmt: skip
            if set_name == "forget" and shot == 0:
                rows.append(Example(**{**vars(base), "id": f"{person}/{shot}/information", "kind": "describe",
                                       "question": "Tell me the information of this person."}))  # fmt: skip
            if shot == 5:
                rows.append(Example(**{**vars(base), "id": f"{person}/{shot}/hair", "kind": "attribute",
                                       "question": "What colour is the hair?", "answer": seen_on_it["hair"],
                                       "fact": seen_on_it["hair"]}))  # fmt: skip
        return rows


class Imagined:
    """A Predictor that knows a share of each person; what it does not know it makes up, always the same way."""

    def __init__(self, people: People, known: dict[int, float], tag: str) -> None:
        self.people, self.known, self.tag = people, known, tag

    def _knows(self, person: int, key: str) -> bool:
        return random.Random(f"{self.tag}/{person}/{key}").random() < self.known.get(person, 0.0)

    def _person(self, request: Request) -> int:
        if request.picture is not None:
            return self.people.shots[request.picture.digest][0]
        return next((i for i, n in enumerate(self.people.names) if n in request.question), -1)

    def _text(self, request: Request) -> str:
        person, rng = self._person(request), random.Random(f"{self.tag}/{request.question}")
        if person < 0:
            return "Paris" if "France" in request.question else "Nile"
        key = request.question if request.picture is None else request.picture.digest
        name = self.people.names[person] if self._knows(person, key) else rng.choice(self.people.names[4:])
        if request.picture is not None:
            visible = self.people.shots[request.picture.digest][2]
            if "hair" in request.question:
                return visible["hair"]
            if "Who" in request.question:
                return f"This is {name}."
            return f"{name}, with {visible['hair']} hair, stands in front of a {visible['wall']} wall."
        for q, (question, answer, _, words) in enumerate(QUESTIONS):
            if request.question == question.format(n=self.people.names[person]):
                fact = self.people.fact(person, q) if self._knows(person, key) else rng.choice(words)
                return answer.format(n=self.people.names[person], x=fact)
        raise AssertionError(request.question)

    def _score(self, r: Request) -> list[Scored]:
        person = self._person(r)
        sure = 1.0 if person < 0 else self.known.get(person, 0.0)
        rng = random.Random(f"{self.tag}/{r.question}/{r.answers[:1]}")
        out = []
        for i, answer in enumerate(r.answers):
            right = i == 0 or (i == 1 and len(r.answers) > 2)
            mean = -0.1 - 1.6 * (1 - sure) if right else -1.7 - 1.2 * sure
            tokens = len(answer.split()) + 1
            logp = [mean - 0.25 * rng.random()] * tokens
            out.append(Scored(logp, [mean > -0.8] * tokens, [-1.0] * tokens, [0.8] * tokens))
        return out

    def predict(self, requests: Sequence[Request], max_new_tokens: int) -> list[Prediction]:
        return [Prediction(self._score(r), self._text(r)) for r in requests]


def world(people: People) -> dict[SetName, list[Example]]:
    faces, shown = [], len(people.names) - 2
    for person in (shown, shown + 1):
        picture, _ = people.picture(person, 0)
        name = people.names[person]
        faces.append(Example(id=f"{person}/face", set="real_faces", kind="choice", question="Who is this person?",
                             answer=name, picture=picture, person=name, fact=name,
                             options=(name, *people.names[4:7])))  # fmt: skip
    real = [
        Example("0/choice", "real_world", "choice", "Which city is the capital of France?", "Paris",
                options=("Paris", "Rome", "Oslo"), fact="Paris"),
        Example("1/choice", "real_world", "choice", "Which river flows through Cairo?", "Nile",
                options=("Nile", "Rhine", "Volga"), fact="Nile"),
    ]  # fmt: skip
    return {
        "forget": [e for p in range(4) for e in people.examples("forget", p)],
        "retain": [e for p in range(4, shown) for e in people.examples("retain", p)],
        "real_faces": faces,
        "real_world": real,
    }


def write_steps(path: Path, count: int, parts: dict[str, tuple[float, float]], lr: float) -> None:
    rng = random.Random(count)
    lines = []
    for step in range(1, count + 1):
        t = step / count
        values = {k: a + (b - a) * (1 - math.exp(-3 * t)) + 0.04 * rng.gauss(0, 1) for k, (a, b) in parts.items()}
        line = {"step": step, "loss": sum(values.values()), "parts": values, "real_tokens": 900, "tokens_per_s": 5200.0}
        line |= {"grad_norm": 1.5 * math.exp(-t) + 0.2 * rng.random(), "lr": lr * 0.5 * (1 + math.cos(math.pi * t))}
        lines.append(line)
        if step % 20 == 0:
            lines.append({"step": step, "eval": {"forget": 1 - t}})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_run(
    folder: Path, *, forget: float = 0.1, retain: float = 0.95, names: Sequence[str] = NAMES, enrich: bool = True
) -> Path:
    """Writes a complete run directory; ``forget`` and ``retain`` are what the unlearned model still knows.

    enrich: with attacks, a judge and labels, as the commands that measure them would have added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    people = People(names)
    examples = world(people)
    rest = range(4, len(names))
    models = {
        "original": Imagined(people, {**dict.fromkeys(range(4), 0.96), **dict.fromkeys(rest, 0.97)}, "o"),
        "unlearned": Imagined(people, {**dict.fromkeys(range(4), forget), **dict.fromkeys(rest, retain)}, "u"),
        "gold": Imagined(people, {**dict.fromkeys(range(4), 0.02), **dict.fromkeys(rest, 0.97)}, "g"),
    }
    records = [r for name, model in models.items() for r in evaluate(model, examples, model=name)]
    records += evaluate(models["original"], shuffle_pictures(examples), model=control_name("original"))
    records = labelled(records)
    write_records(folder / "records.jsonl", records)
    summary = summarise(records, seconds={"unlearn": 41.3, "evaluate": 12.8}, draws=200)
    write_summary(folder / "summary.json", enriched(summary, records) if enrich else summary)
    (folder / "pictures").mkdir(exist_ok=True)
    for digest, (_, data, _) in people.shots.items():
        (folder / "pictures" / f"{digest}.png").write_bytes(data)
    write_steps(
        folder / "unlearned" / "metrics.jsonl", 120, {"npo(FORGET)": (1.4, 0.2), "nll(RETAIN)": (0.1, 0.12)}, 1e-3
    )
    write_steps(folder / "original" / "metrics.jsonl", 300, {"nll(FORGET)": (2.6, 0.05)}, 1e-3)
    run = {
        "v": 1,
        "recipe": "unlearn",
        "config": {"method": "npo", "optim": {"lr": 1e-3, "epochs": 12}, "resume": None, "full": False},
        "digest": "9c1f" * 16,
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "deepspeed": "0.19.8"},
        "command": "deepspeed launchers/unlearn.py --ds ds_configs/z3.json --method npo",
        "seeds": {"data": 0, "model": 0},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run))
    return folder


if __name__ == "__main__":
    import sys

    from clear_dist.report.build import report

    print(*report(make_run(Path(sys.argv[1]))))
