"""One model's result on one example, and the line of ``records.jsonl`` that keeps it.

    {"v":1, "model":"unlearned", "set":"forget", "modality":"visual", "kind":"name", "id":"...", "person":"...",
     "seen":false, "picture":"<digest>", "prompt":"...", "generated":"...", "answer":"...",
     "scores":{"rouge_1":.., "rouge_l":.., "probability":.., "truth_ratio":.., "fact":0|1|null, "name":0|1|null,
               "attributes":{"hair":1}|null, "exact_memorisation":.., "extraction_strength":.., "min_k_plus":..},
     "logp":{"answer":[..], "paraphrase":[..]|null, "perturbed":[[..]], "options":[[..]]}, "label":null}

``model`` is a model, or, with a slash, a model under other conditions: ``original/shuffled`` is the control on shuffled
pictures, any other (``unlearned/int4``) a variant, the model under an attack.

Absent is null, never 0; a score that a file of before does not have reads as null. Further scores may stand beside
these: they are kept when a file is read and written again. The record lives here because metrics, attacks and reports
read it; evaluation alone writes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from clear_dist.reading import json_value
from clear_dist.types import SETS, Kind, SetName, UserError

VERSION = 1
Score = float | int | Mapping[str, int] | None
SCORES = (
    "rouge_1",
    "rouge_l",
    "probability",
    "truth_ratio",
    "fact",
    "name",
    "attributes",
    "exact_memorisation",
    "extraction_strength",
    "min_k_plus",
)


@dataclass(frozen=True)
class LogProbs:
    """Natural log-probabilities of answer tokens, EOS included; None / empty where nothing was scored."""

    answer: tuple[float, ...] | None = None
    paraphrase: tuple[float, ...] | None = None
    perturbed: tuple[tuple[float, ...], ...] = ()
    options: tuple[tuple[float, ...], ...] = ()  # multiple choice, the right one first


@dataclass(frozen=True)
class Record:
    """Fields as in the module's description; ``generated`` is None where nothing was generated."""

    model: str
    set: SetName
    modality: Literal["text", "visual"]
    kind: Kind
    id: str
    prompt: str
    answer: str
    person: str | None = None
    seen: bool = True
    picture: str | None = None
    generated: str | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    logp: LogProbs = LogProbs()
    label: str | None = None

    def score(self, name: str) -> float | None:
        """A scalar score, or None where it is absent."""
        value = self.scores.get(name)
        return float(value) if isinstance(value, int | float) else None

    def to_line(self) -> str:
        """One JSON line without its newline. Raises UserError on NaN or infinity."""
        row = {
            "v": VERSION,
            "model": self.model,
            "set": self.set,
            "modality": self.modality,
            "kind": self.kind,
            "id": self.id,
            "person": self.person,
            "seen": self.seen,
            "picture": self.picture,
            "prompt": self.prompt,
            "generated": self.generated,
            "answer": self.answer,
            "scores": {**dict.fromkeys(SCORES), **self.scores},
            "logp": {
                "answer": self.logp.answer,
                "paraphrase": self.logp.paraphrase,
                "perturbed": self.logp.perturbed,
                "options": self.logp.options,
            },
            "label": self.label,
        }
        try:
            return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except ValueError as error:
            raise UserError(f"record {self.id!r} of model {self.model!r}: a value is not a finite number") from error


def control_name(model: str) -> str:
    """The name under which a model's answers to shuffled pictures are recorded: ``original/shuffled``."""
    return f"{model}/shuffled"


def is_control(model: str) -> bool:
    """Whether a model name of the records is a shuffled-pictures control rather than a model."""
    return model.endswith("/shuffled")


def variant_name(model: str, attack: str) -> str:
    """The name under which a model's answers under an attack are recorded: ``unlearned/int4``.

    Raises UserError where the two could not be told apart again.
    """
    name = f"{model}/{attack}"
    if variant(name) != (model, attack):
        raise UserError(
            f"model {model!r} under attack {attack!r}: expected a model's name without a slash and an attack's name "
            "that is not empty and does not end in 'shuffled'; rename one of them"
        )
    return name


def variant(model: str) -> tuple[str, str] | None:
    """``unlearned/int4`` -> ("unlearned", "int4"); None for a model and for the shuffled-pictures control."""
    name, _, attack = model.partition("/")
    return None if not name or not attack or is_control(model) else (name, attack)


def is_paper_row(record: Record) -> bool:
    """Rows behind ROUGE, probability and truth ratio: questions and captions, and multiple choice.

    CLEAR has no others; CLEAR-mini's bare name, description and attribute questions have accuracies of their own.
    """
    return record.kind in ("qa", "caption", "choice") or bool(record.logp.options)


_REQUIRED = {"model": str, "set": str, "modality": str, "id": str, "prompt": str, "answer": str, "scores": dict}
_OPTIONAL = {"kind": str, "person": str, "picture": str, "generated": str, "label": str, "logp": dict}


def _number(where: str, value: object) -> None:
    if not isinstance(value, int | float):  # json reads true and false as bool, which is an int: harmless here
        raise UserError(f"{where}: expected a number, got {value!r}")
    if not math.isfinite(value):  # 1e999 is valid JSON and reads as infinity
        raise UserError(f"{where}: expected a finite number, got {value!r}")


def _logps(where: str, name: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(isinstance(v, int | float) for v in value):
        raise UserError(f"{where}: logp.{name} must be a list of numbers")
    if not all(map(math.isfinite, value)):
        raise UserError(f"{where}: logp.{name} holds a value that is not finite; expected natural log-probabilities")
    return tuple(float(v) for v in value)


def _logp(where: str, row: Mapping[str, Any]) -> LogProbs:
    lists: dict[str, tuple[tuple[float, ...], ...]] = {}
    for name in ("perturbed", "options"):
        value = row.get(name) or []
        if not isinstance(value, list):
            raise UserError(f"{where}: logp.{name} must be a list of lists of numbers")
        lists[name] = tuple(_logps(where, name, v) for v in value)
    single = {n: None if row.get(n) is None else _logps(where, n, row[n]) for n in ("answer", "paraphrase")}
    return LogProbs(single["answer"], single["paraphrase"], lists["perturbed"], lists["options"])


def parse_record(row: Mapping[str, Any], where: str) -> Record:
    """A decoded line -> Record. ``where`` (file:line) starts every error message. Raises UserError."""
    if row.get("v") != VERSION:
        raise UserError(f"{where}: version {row.get('v')!r}, expected {VERSION}: written by another release?")
    for name, kind in _REQUIRED.items():
        if not isinstance(row.get(name), kind):
            raise UserError(f"{where}: field {name!r} must be a {kind.__name__}, got {row.get(name)!r}")
    for name, kind in _OPTIONAL.items():
        if row.get(name) is not None and not isinstance(row[name], kind):
            raise UserError(f"{where}: field {name!r} must be a {kind.__name__} or null, got {row[name]!r}")
    if row["set"] not in SETS:
        raise UserError(f"{where}: set {row['set']!r} is unknown, expected one of {', '.join(SETS)}")
    if row["modality"] not in ("text", "visual"):
        raise UserError(f"{where}: modality {row['modality']!r} is unknown, expected text or visual")
    for name, value in row["scores"].items():
        if isinstance(value, dict):
            for attribute, hit in value.items():
                _number(f"{where}: scores.{name}.{attribute}", hit)
        elif value is not None:
            _number(f"{where}: scores.{name}", value)
    return Record(
        model=row["model"],
        set=row["set"],
        modality=row["modality"],
        kind=cast(Kind, row.get("kind") or ("qa" if row["modality"] == "text" else "caption")),
        id=row["id"],
        prompt=row["prompt"],
        answer=row["answer"],
        person=row.get("person"),
        seen=bool(row.get("seen", True)),
        picture=row.get("picture"),
        generated=row.get("generated"),
        scores=dict(row["scores"]),
        logp=_logp(where, row.get("logp") or {}),
        label=row.get("label"),
    )


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number JSON knows")


def decode_object(line: str | bytes, where: str, hint: str = "") -> dict[str, Any]:
    """A line's JSON object. Raises UserError, beginning with ``where``, on anything else, and on NaN and infinity."""
    try:
        row = json_value(line, parse_constant=_refuse)
    except ValueError as error:  # bytes that are no UTF-8 too
        raise UserError(f"{where}: not a JSON object{hint}: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(row).__name__}")
    return row


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (``file:line``, object) per non-empty line. Raises UserError naming file and line."""
    try:
        handle = path.open("rb")  # each line is decoded by itself: one that is no UTF-8 is named
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected one JSON object per line") from error
    with handle:
        for number, line in enumerate(handle, start=1):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            hint = "" if line.endswith(b"\n") else " (half-written: was the run interrupted? delete this line)"
            yield where, decode_object(line, where, hint)


def read_records(path: Path) -> list[Record]:
    """All records of a file, in order. Raises UserError on a bad line, and on one example recorded twice."""
    records: list[Record] = []
    first: dict[tuple[str, str, str], str] = {}
    for where, row in read_jsonl(path):
        record = parse_record(row, where)
        key = (record.model, record.set, record.id)
        if key in first:
            raise UserError(
                f"{where}: example {record.id!r} of model {record.model!r} and set {record.set!r} stands already at "
                f"{first[key]}: it would count twice; delete one of the two lines"
            )
        first[key] = where
        records.append(record)
    return records
