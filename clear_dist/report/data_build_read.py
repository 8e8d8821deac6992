"""Reads what the stages of ``clear-dist data build`` wrote: a missing file is a stage to come, a broken one is refused,
so that no figure is drawn from half of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from clear_dist.metrics.record import read_jsonl
from clear_dist.report.data_build_rows import (
    ATTRIBUTES,
    Attribute,
    Balance,
    BuildData,
    Face,
    Match,
    Person,
    Prompt,
    Shift,
    Shortage,
    Shot,
    Wording,
    Written,
)
from clear_dist.report.run import read_json
from clear_dist.types import UserError

T = TypeVar("T")
STAGES = ("attributes", "faces", "matching", "prompts", "images", "texts", "dataset")
AGES = 150  # years; nobody is older
LARGEST = 1e15  # of a number: larger ones are no count, cost or score


class Fields:
    """The fields of an object from outside. Every method raises UserError naming file, line and field."""

    def __init__(self, where: str, values: Any) -> None:
        self.where = where
        if not isinstance(values, Mapping):
            raise self._bad("expected an object", values)
        self._values: Mapping[str, Any] = values

    def _bad(self, why: str, value: object) -> UserError:
        shown = "nothing" if value is None else type(value).__name__ if isinstance(value, dict | list) else repr(value)
        return UserError(f"{self.where}: {why}, got {shown[:60]}; run this stage of the build again")

    def _of(self, name: str, fits: Callable[[Any], bool], expected: str) -> Any:
        value = self._values.get(name)
        if not fits(value):
            raise self._bad(f"{name}: expected {expected}", value)
        return value

    def text(self, name: str) -> str:
        return self._of(name, lambda v: isinstance(v, str), "a text")

    def maybe_text(self, name: str) -> str | None:
        return self._of(name, lambda v: v is None or isinstance(v, str), "a text or null")

    def texts(self, name: str) -> tuple[str, ...]:
        fits = lambda v: isinstance(v, list) and all(isinstance(one, str) for one in v)  # noqa: E731
        return tuple(self._of(name, fits, "a list of texts"))

    def flag(self, name: str) -> bool:
        return self._of(name, lambda v: isinstance(v, bool), "true or false")

    def maybe_flag(self, name: str) -> bool | None:
        return None if self._values.get(name) is None else self.flag(name)

    def number(self, name: str, low: float = -LARGEST, high: float = LARGEST) -> float:
        fits = lambda v: _is_number(v) and low <= v <= high  # noqa: E731
        return float(self._of(name, fits, f"a number from {low:g} to {high:g}"))

    def maybe_number(self, name: str) -> float | None:
        return None if self._values.get(name) is None else self.number(name)

    def whole(self, name: str, low: float = 0, high: float = LARGEST) -> int:
        fits = lambda v: _is_number(v) and isinstance(v, int) and low <= v <= high  # noqa: E731
        return self._of(name, fits, f"a whole number from {low:g} to {high:g}")

    def maybe_whole(self, name: str, low: float = 0, high: float = LARGEST) -> int | None:
        return None if self._values.get(name) is None else self.whole(name, low, high)

    def inside(self, name: str) -> Fields:
        return Fields(f"{self.where}: {name}", self._values.get(name))

    def each(self, name: str) -> list[Fields]:
        found = self._of(name, lambda v: isinstance(v, list), "a list")
        return [Fields(f"{self.where}: {name}[{i}]", one) for i, one in enumerate(found)]

    def counts(self) -> dict[str, int]:
        """Every field, each a whole number."""
        return {name: self.whole(name) for name in self._values}

    def names(self) -> list[str]:
        return list(self._values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_build(work: Path, stages: Collection[str] = STAGES) -> BuildData:
    """stages: those that are read; what is there of others belongs to an earlier build.

    Raises UserError where there is no such folder, or a file of a stage is broken: names file, line and field.
    """
    if not work.is_dir():
        raise UserError(f"{work}: no such directory; name the work folder of a build")

    def file(stage: str, name: str) -> Path | None:
        return work / name if stage in stages else None

    shots = _lines(file("images", "images.jsonl"), _shot, lambda shot: (shot.name, shot.line), "name and line")
    wordings = _lines(file("texts", "texts.jsonl"), _wording, lambda one: (one.name, one.line), "name and line")
    prompts = _lines(file("prompts", "prompts.jsonl"), _prompt, lambda one: (one.name, one.line), "name and line")
    return BuildData(
        name=work.resolve().name,
        people=_lines(file("attributes", "attributes.jsonl"), _person, lambda person: person.number, "person"),
        faces=_lines(file("faces", "faces.jsonl"), _face, lambda face: face.id, "id"),
        shifts=_lines(file("matching", "shifts.jsonl"), _shift, lambda shift: shift.before, "before"),
        matches=_lines(file("matching", "matching.jsonl"), _match, lambda match: match.name, "name"),
        balance=_object(file("matching", "matching.json"), _balance),
        prompts=prompts,
        shots=_decided(shots, wordings),
        wordings=wordings,
        written=_object(file("dataset", "dataset.json"), _written),
    )


def _lines(
    path: Path | None, parse: Callable[[Fields], T], key: Callable[[T], Hashable], called: str
) -> tuple[T, ...] | None:
    """key: what no two lines share; a second one would count twice."""
    if path is None or not path.exists():
        return None
    out: dict[Hashable, T] = {}
    for where, values in read_jsonl(path):
        row = parse(Fields(where, values))
        if key(row) in out:
            raise UserError(f"{where}: {called} {str(key(row))[:60]} stands on a line before; delete one of the two")
        out[key(row)] = row
    return tuple(out.values())


def _object(path: Path | None, parse: Callable[[Fields], T]) -> T | None:
    return parse(Fields(str(path), read_json(path))) if path is not None and path.exists() else None


def _attribute(at: Fields) -> Attribute:
    return Attribute(at.maybe_text("value"), at.number("confidence", 0, 1), at.maybe_whole("line"), at.text("evidence"))


def _person(at: Fields) -> Person:
    return Person(
        number=at.whole("person"),
        found={name: _attribute(at.inside(name)) for name in ATTRIBUTES},
        books=tuple(_attribute(book) for book in at.each("books")),
        age=at.maybe_whole("age", 0, AGES),
        first_line=at.whole("first_line"),
        last_line=at.whole("last_line"),
        rows=at.whole("rows"),
        corrected=at.texts("corrected"),
        invented=at.texts("invented"),
    )


def _face(at: Fields) -> Face:
    return Face(
        at.text("id"), at.whole("draw"), at.maybe_whole("age", 0, AGES), at.maybe_text("gender"),
        at.maybe_text("group"), at.number("score"),
    )  # fmt: skip


def _shift(at: Fields) -> Shift:
    return Shift(at.text("before"), at.text("after"), at.whole("years", -AGES, AGES))


def _match(at: Fields) -> Match:
    return Match(
        at.text("name"), at.text("face"), at.number("age", 0), at.number("gender", 0), at.number("group", 0),
        at.number("cost", 0), at.whole("others"), at.texts("relaxed"),
    )  # fmt: skip


def _balance(at: Fields) -> Balance:
    shortages = [
        Shortage(one.text("gender"), one.text("group"), one.whole("people"), one.whole("faces"),
                 one.inside("relaxed").counts())
        for one in at.each("shortages")
    ]  # fmt: skip
    return Balance(at.number("total", 0), at.texts("ties"), tuple(shortages))


def _prompt(at: Fields) -> Prompt:
    return Prompt(
        at.text("name"), at.whole("line"), at.text("text"), at.text("topic"), at.maybe_text("setting"),
        at.whole("tokens"), at.text("by"),
    )  # fmt: skip


def _shot(at: Fields) -> Shot:
    file = at.maybe_text("file")
    if file is None:
        return Shot(at.text("name"), at.whole("line"), None, at.text("failed"), None, 0, False, False)
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in file:
        raise UserError(f"{at.where}: file: {file[:60]!r} is not below images/; run this stage of the build again")
    return Shot(
        at.text("name"), at.whole("line"), file, "", at.maybe_number("score"), at.whole("samples"),
        at.maybe_flag("kept"), at.maybe_flag("unseen") or False,
    )  # fmt: skip


def _wording(at: Fields) -> Wording:
    return Wording(
        at.text("name"), at.whole("line"), at.text("caption"), at.text("paraphrase"), at.texts("perturbed"),
        at.texts("perturbed_names"), at.text("by"), at.maybe_flag("unseen") or False,
    )  # fmt: skip


def _decided(shots: tuple[Shot, ...] | None, wordings: tuple[Wording, ...] | None) -> tuple[Shot, ...] | None:
    """Pictures that do not say themselves whether they are kept: those that have texts are."""
    if shots is None or wordings is None:
        return shots
    unseen = {(one.name, one.line): one.unseen for one in wordings}
    return tuple(
        shot
        if shot.kept is not None
        else replace(
            shot, kept=(shot.name, shot.line) in unseen, unseen=unseen.get((shot.name, shot.line), shot.unseen)
        )
        for shot in shots
    )


def _written(at: Fields) -> Written:
    splits, findings = at.inside("splits"), at.inside("findings")
    return Written(
        at.inside("counts").counts(),
        at.whole("people"),
        {name: splits.texts(name) for name in splits.names()},
        findings.whole("faults"),
        findings.whole("warnings"),
    )
