"""A Predictor that answers from a table, and a little world to ask it about."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clear_dist.types import Example, Kind, Picture, Prediction, Request, Scored, SetName

NAMES = ("Ann Reyes", "Bo Lindqvist", "Cleo Marsh")


def picture(person: str, number: int) -> Picture:
    return Picture(f"{person}-{number}".encode().hex(), f"test[{number}]", lambda: b"")


class TablePredictor:
    """Says ``answer(request)``; an answer's log-probabilities are ``logp(request, answer)``, one per word, and each
    word the likeliest where ``sure`` says so."""

    def __init__(
        self,
        answer: Callable[[Request], str],
        logp: Callable[[Request, str], float] = lambda request, answer: -0.5,
        sure: Callable[[Request, str], bool] = lambda request, answer: True,
    ) -> None:
        self.answer, self.logp, self.sure = answer, logp, sure
        self.calls: list[int] = []
        self.limits: set[int] = set()

    def predict(self, requests: Sequence[Request], max_new_tokens: int) -> list[Prediction]:
        self.calls.append(len(requests))
        self.limits.add(max_new_tokens)
        return [
            Prediction([self._scored(r, a, first=i == 0) for i, a in enumerate(r.answers)], self.answer(r))
            for r in requests
        ]

    def _scored(self, request: Request, answer: str, *, first: bool) -> Scored:
        n = len(answer.split()) + 1
        moments = ([-1.0] * n, [0.5] * n) if first else ([], [])
        return Scored([self.logp(request, answer)] * n, [self.sure(request, answer)] * n, *moments)


def text_example(set_name: SetName, person: str, number: int) -> Example:
    return Example(
        id=f"{person}/{number}",
        set=set_name,
        kind="qa",
        question=f"Where does {person} live? ({number})",
        answer=f"{person} lives in town {number}.",
        person=person,
        paraphrase=f"Town {number} is where {person} lives.",
        perturbed=(f"{person} lives in town 98.", f"{person} lives in town 99."),
        fact=f"town {number}",
    )


def visual_example(set_name: SetName, person: str, number: int, kind: Kind, *, seen: bool) -> Example:
    questions = {"name": "Who is this person?", "caption": "Describe this image.", "attribute": "What hair is it?"}
    answers = {"name": f"This is {person}.", "caption": f"{person} stands by a wall.", "attribute": "red"}
    return Example(
        id=f"{person}/{number}/{kind}",
        set=set_name,
        kind=kind,
        question=questions[kind],
        answer=answers[kind],
        picture=picture(person, number),
        person=person,
        seen=seen,
        attributes={"hair": "red", "wall": "blue", "hat": "none"},
    )


def person_examples(set_name: SetName, person: str) -> list[Example]:
    texts = [text_example(set_name, person, n) for n in range(3)]
    kinds: tuple[Kind, ...] = ("name", "caption", "attribute")
    return texts + [visual_example(set_name, person, n, k, seen=n == 0) for n in range(2) for k in kinds]


def world() -> dict[SetName, list[Example]]:
    faces = [
        Example(
            id=f"face/{i}",
            set="real_faces",
            kind="choice",
            question="Who is this person?",
            answer=name,
            picture=picture(name, i),
            person=name,
            options=(name, "Somebody Else", "Nobody Known"),
        )
        for i, name in enumerate(("Ida Frost", "Jon Vale"))
    ]
    real_world = [
        Example(
            id="world/0",
            set="real_world",
            kind="choice",
            question="Which city is the capital of France?",
            answer="Paris",
            options=("Paris", "Rome", "Oslo"),
        )
    ]
    return {
        "forget": person_examples("forget", NAMES[0]),
        "retain": person_examples("retain", NAMES[1]) + person_examples("retain", NAMES[2]),
        "real_faces": faces,
        "real_world": real_world,
    }


def knows_all(request: Request) -> str:
    """What a model that knows everybody says; reads the person off the picture, not off the answers."""
    if request.picture is None:
        if "capital" in request.question:
            return "Paris"
        person, number = request.question.split("does ")[1].split(" live? ")
        return f"{person} lives in town {number.strip('()')}."
    person = bytes.fromhex(request.picture.digest).decode().rsplit("-", 1)[0]
    if "Who" in request.question:
        return f"This is {person}."
    return "red" if "hair" in request.question else f"{person} with red hair stands by a wall."


def knows_all_but(name: str) -> Callable[[Request], str]:
    return lambda request: knows_all(request).replace(name, "someone").replace("town", "place")
