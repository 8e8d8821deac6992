"""Sample answers: a few examples per group, the models' answers side by side, marked right or wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clear_dist.metrics.record import Record
from clear_dist.report.run import RunData
from clear_dist.report.words import number


@dataclass(frozen=True)
class Answer:
    """One model's answer. mark: right, wrong, or "" where neither can be said (then ``rouge`` helps).
    wanted: whether that mark is what unlearning is after; None where it is neither wanted nor not."""

    model: str
    text: str | None
    mark: str
    wanted: bool | None
    rouge: str | None


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


_GROUPS: tuple[tuple[str, str, str, int, Callable[[Record], bool]], ...] = (
    ("forget", "To forget: pictures never trained on", "unlearned and gold should be wrong", 4,
     lambda r: r.kind == "name" and not r.seen),
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


def _answer(record: Record | None, model: str, candidate: str | None) -> Answer:
    if record is None:
        return Answer(model, None, "", None, None)
    mark = verdict_of(record)
    wanted = None
    if mark and record.set == "forget" and record.kind != "attribute":
        wanted = (mark == "wrong") if model in (candidate, "gold") else None
    elif mark:
        wanted = mark == "right"
    rouge = record.score("rouge_l")
    return Answer(model, record.generated, mark, wanted, None if mark or rouge is None else number(rouge))


def _alt(record: Record) -> str:
    who = f"Picture of {record.person}" if record.person else "Picture"
    return f"{who}, {'seen in training' if record.seen else 'never trained on'}"


def sample_groups(run: RunData) -> list[Group]:
    """Groups that have examples; the choice is fixed by the order of the records."""
    models = [m for m in run.models if m in ("original", run.candidate, "gold")]
    by_key = {(r.model, r.set, r.id): r for r in run.records}
    groups = []
    for set_name, title, hint, count, belongs in _GROUPS:
        first = next((m for m in models if any(r.model == m and r.set == set_name for r in run.records)), None)
        found = [r for r in run.records if r.model == first and r.set == set_name and r.generated is not None]
        chosen = _spread([r for r in found if belongs(r)], count)
        if not chosen and "never trained on" in title:
            continue
        samples = [
            Sample(
                prompt=record.prompt,
                expected=record.answer,
                person=record.person,
                picture=run.picture(record.picture),
                has_picture=record.picture is not None,
                alt=_alt(record),
                answers=tuple(_answer(by_key.get((m, record.set, record.id)), m, run.candidate) for m in models),
            )
            for record in chosen
        ]
        if samples:
            groups.append(Group(title, hint, tuple(samples)))
    return groups
