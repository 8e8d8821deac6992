"""What other programs' evaluation logs hold, row by row, in one form; and reading JSON without trusting it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clear_dist.reading import json_value, unique_keys
from clear_dist.types import SetName, UserError

ROUNDING = 1e-4  # a loss of nearly nothing may come out below zero in half precision


@dataclass(frozen=True)
class LogRow:
    """What a log says of one question; None where it says nothing.

    key: the row's name in the log. loss, paraphrase, wrong: mean negative log-probability per token (nats, >= 0) of
    the answer, of the answer worded differently, and of each wrong answer. The other numbers are scores in [0, 1].
    """

    key: str
    loss: float | None
    paraphrase: float | None = None
    wrong: tuple[float, ...] = ()
    rouge_1: float | None = None
    rouge_l: float | None = None
    exact_memorisation: float | None = None
    extraction_strength: float | None = None
    prompt: str = ""
    answer: str = ""
    generated: str | None = None


@dataclass(frozen=True)
class Log:
    """A whole log. choices: the sets whose wrong answers are options of a multiple choice. stated: averages as the log
    itself gives them, for comparison. notes: what is not there, or was left alone."""

    source: Path
    kind: str
    sets: Mapping[SetName, Sequence[LogRow]]
    choices: frozenset[SetName] = frozenset({"real_faces", "real_world"})
    stated: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object; NaN and infinity are let through, to be refused with their row by ``number``.

    Raises UserError: no such file, not UTF-8, not JSON, not an object, a key that occurs twice.
    """

    try:
        value = json_value(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique_keys)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an evaluation log, a JSON file") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); name a log of TOFU or open-unlearning") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}; name an evaluation log")
    return value


def number(where: str, value: object) -> float:
    """A finite number. Raises UserError on anything else, NaN, infinity, true and false included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: expected a number, got {value!r}")
    if not math.isfinite(value):
        raise UserError(f"{where}: is {value}, not a finite number: the log cannot be averaged; evaluate again")
    return float(value)


def loss(where: str, value: object) -> float:
    """A mean negative log-probability: finite, >= 0."""
    out = number(where, value)
    if out < -ROUNDING:
        raise UserError(f"{where}: is {out}; a mean negative log-probability is never below 0")
    return max(out, 0.0)


def share(where: str, value: object) -> float:
    """A score in [0, 1]."""
    out = number(where, value)
    if not 0.0 <= out <= 1.0:
        raise UserError(f"{where}: is {out}; expected a score from 0 to 1")
    return out


def losses(where: str, value: object) -> tuple[float, ...]:
    """Losses of wrong answers, at least one; a single number stands for a list of one."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise UserError(f"{where}: no wrong answers; expected a list of their losses")
    return tuple(loss(f"{where}, answer {i}", v) for i, v in enumerate(items))


def same_keys(where: str, name: str, keys: Iterable[str], expected: Mapping[str, object]) -> None:
    """Raises UserError unless a field speaks of exactly the rows another one speaks of."""
    other = set(keys) ^ set(expected)
    if other:
        row = sorted(other)[0]
        raise UserError(
            f"{where}: {name} has {len(set(keys))} rows where {len(expected)} were expected (for example row {row!r} "
            "is in one of them only); a log whose fields speak of different rows cannot be averaged"
        )


def check_same_rows(log: Log, gold: Log) -> None:
    """Raises UserError unless both logs ask the same questions, set by set, as far as both have the set."""
    common: list[SetName] = [n for n in log.sets if n in gold.sets]
    for name in common:
        mine, theirs = {r.key: r for r in log.sets[name]}, {r.key: r for r in gold.sets[name]}
        same_keys(f"{log.source} and {gold.source}, set {name}", "the first", mine, theirs)
        for key, row in mine.items():
            a, b = (" ".join(r.answer.split()) for r in (row, theirs[key]))
            if a and b and a != b:
                raise UserError(
                    f"{log.source} and {gold.source}, set {name}, row {key!r}: the true answers differ ({a[:60]!r}, "
                    f"{b[:60]!r}); the two logs were made from different data and cannot be compared"
                )


def with_common_texts(logs: Mapping[str, Log]) -> dict[str, Log]:
    """Logs of the same rows with the same question and answer in each: those of the first log that has them.

    Models are asked in templates of their own, and some logs hold no text at all; what was asked is the same.
    """
    questions: dict[tuple[SetName, str], str] = {}
    true: dict[tuple[SetName, str], str] = {}
    for log in logs.values():
        for name, rows in log.sets.items():
            for row in rows:
                for texts, text in ((questions, row.prompt), (true, row.answer)):
                    if text:
                        texts.setdefault((name, row.key), text)
    return {
        model: replace(
            log,
            sets={
                name: [
                    replace(row, prompt=questions.get((name, row.key), ""), answer=true.get((name, row.key), ""))
                    for row in rows
                ]
                for name, rows in log.sets.items()
            },
        )
        for model, log in logs.items()
    }
