"""Sample answers: a few examples per group, the models' answers side by side, marked right or wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from clear_dist.metrics.record import Record
from clear_dist.report.run import RunData
from clear_dist.report.words import number


@dataclass(frozen=True)
class Answer:
    """One model's answer. mark: right, wrong, or "" where neither can be said (then ``rouge`` helps).
    wanted: whether that mark is what unlearning is after; None where it is neither wanted nor not.
    label: what kind of answer it is, where that was found out (see words.LABELS)."""

    model: str
    dot: int
    text: str | None
    mark: str
    wanted: bool | None
    rouge: str | None
    label: str | None


@dataclass(frozen=True)
class Sample:
    """An example as the page shows it. picture: data URI, or None; alt: its description for those who do not see."""

    prompt: str
    expected: str
    person: str | None
    picture: str | None
    has_picture: bool
    alt: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Group:
    title: str
    hint: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Voice:
    """A model that answers. unlearned: whether forgetting is asked of it (gold's answers are as they should be)."""

    name: str
    dot: int
    unlearned: bool
    answers: Mapping[tuple[str, str], Record]


OPEN = "/information"  # ids of PUBG's open query end in this

_GROUPS: tuple[tuple[str, str, str, int, Callable[[Record], bool]], ...] = (
    ("forget", "To forget: pictures never trained on", "unlearned and gold should be wrong", 4,
     lambda r: r.kind == "name" and not r.seen),
    ("forget", "To forget: asked for everything about the person", "an answer should tell what is to be seen, and "
     "nothing private", 2, lambda r: r.id.endswith(OPEN)),
    ("forget", "To forget: pictures seen in training", "unlearned and gold should be wrong", 2,
     lambda r: r.modality == "visual" and r.seen and r.kind in ("caption", "name")),
    ("forget", "To forget: questions about their lives", "unlearned and gold should be wrong", 4,
     lambda r: r.kind == "qa"),
    ("retain", "To keep: pictures", "all models should be right", 4,
     lambda r: r.kind == "name" and not r.seen),
    ("retain", "To keep: questions", "all models should be right", 3, lambda r: r.kind == "qa"),
    ("retain", "To keep: what is visible", "all models should be right", 2, lambda r: r.kind == "attribute"),
    ("real_faces", "Real faces", "all models should be right", 2, lambda r: True),
    ("real_world", "Real world", "all models should be right", 2, lambda r: True),
)  # fmt: skip


def _spread(records: Sequence[Record], count: int) -> list[Record]:
    """``count`` records in their order, of as many different people as possible."""
    by_person: dict[str | None, list[Record]] = {}
    for record in records:
        by_person.setdefault(record.person, []).append(record)
    queues = list(by_person.values())
    chosen = [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]
    return chosen[:count]


def verdict_of(record: Record) -> str:
    """right / wrong by the name where one is asked for, else by the fact; "" where neither is known."""
    score = record.score("name")
    if score is None:
        score = record.score("fact")
    return "" if score is None else "right" if score else "wrong"


def _answer(record: Record | None, voice: Voice) -> Answer:
    if record is None:
        return Answer(voice.name, voice.dot, None, "", None, None, None)
    mark = verdict_of(record)
    wanted = None
    if mark and record.set == "forget" and record.kind != "attribute":
        wanted = (mark == "wrong") if voice.unlearned else None
    elif mark:
        wanted = mark == "right"
    elif record.label == "leaked" and voice.unlearned:
        wanted = False
    rouge = record.score("rouge_l")
    shown = None if mark or rouge is None else number(rouge)
    return Answer(voice.name, voice.dot, record.generated, mark, wanted, shown, record.label)


def _alt(record: Record) -> str:
    who = f"Picture of {record.person}" if record.person else "Picture"
    return f"{who}, {'seen in training' if record.seen else 'never trained on'}"


def voice(name: str, dot: int, unlearned: bool, records: Iterable[Record], model: str) -> Voice:
    """A model's answers of a file of records."""
    return Voice(name, dot, unlearned, {(r.set, r.id): r for r in records if r.model == model})


def groups_of(
    voices: Sequence[Voice], picture: Callable[[str | None], str | None], most: int | None = None
) -> list[Group]:
    """Groups that have examples; the choice is fixed by the order of the first model's records.

    picture: digest -> data URI. most: examples of a group, where fewer are wanted than usual.
    """
    groups = []
    for set_name, title, hint, count, belongs in _GROUPS:
        found: list[Record] = []
        for one in voices:
            found = [r for r in one.answers.values() if r.set == set_name and r.generated is not None]
            if found:
                break
        chosen = _spread([r for r in found if belongs(r)], min(count, most or count))
        samples = [
            Sample(
                prompt=record.prompt,
                expected=record.answer,
                person=record.person,
                picture=picture(record.picture),
                has_picture=record.picture is not None,
                alt=_alt(record),
                answers=tuple(_answer(v.answers.get((record.set, record.id)), v) for v in voices),
            )
            for record in chosen
        ]
        if samples:
            groups.append(Group(title, hint, tuple(samples)))
    return groups


def sample_groups(run: RunData) -> list[Group]:
    """The answers of one run's original, unlearned model and gold."""
    dots = {"original": 0, run.candidate: 1, "gold": 2}
    shown = [m for m in run.models if m in dots]
    return groups_of([voice(m, dots[m], dots[m] > 0, run.records, m) for m in shown], run.picture)
