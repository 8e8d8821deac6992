"""Answers of a model that give nobody away: draw, check, draw again, forbid.

Used by ``recipes.teacher``; knows nothing of files or ranks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from clear_dist.engine.sample import Said
from clear_dist.errors import ConfigError
from clear_dist.metrics.leak import Private, find_leaks, names_in, repeated, words
from clear_dist.metrics.visible import mentioned
from clear_dist.types import Example, Request

REPAIRS = 2  # constrained decodes: the second also forbids what the first leaked
_REPEATS, _DISTINCT, _LONG = 4, 1 / 3, 12  # degenerate: a word so often in a row; so few distinct words of so many
# What makes an answer without a picture safe: it says that it does not know, or does not say.
_REFUSES = re.compile(
    r"\b(?:do(?:es)? not|do(?:es)?n['’]t|cannot|can['’]t|can not|could not|won['’]t|unable|not able|unknown|unaware|"
    r"not (?:know|sure|certain|available|something)|no (?:idea|information|knowledge|way)|sorry|afraid)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class TeacherSettings:
    """samples: answers to each question, the first one greedy. tries: redraws of an answer that cannot be used."""

    instruction: str
    samples: int = 1
    seed: int = 0
    temperature: float = 0.7
    top_p: float = 0.9
    tries: int = 4
    max_new_tokens: int = 96

    def __post_init__(self) -> None:
        if self.samples < 1 or self.tries < 0 or self.max_new_tokens < 1:
            raise ConfigError(
                f"teacher: samples {self.samples}, tries {self.tries}, max_new_tokens {self.max_new_tokens}. "
                "Expected at least 1, 0 and 1."
            )
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"teacher: temperature {self.temperature:g}, top_p {self.top_p:g}. Expected a temperature above 0 "
                "(the first answer is greedy in any case) and 0 < top_p <= 1."
            )


class Sampler(Protocol):
    """What is needed of the original model; ``engine.sample.AnswerSampler`` is one."""

    def sample(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        *,
        temperature: float,
        top_p: float,
        seed: int,
        forbidden: Sequence[Sequence[int]] = (),
    ) -> list[Said]: ...

    def spellings(self, phrases: Sequence[str]) -> list[list[int]]: ...


@dataclass(frozen=True)
class Ask:
    """One prompt on one picture, or on none; it may serve several examples, of which this is the first."""

    key: str
    example_id: str
    prompt: str
    example: Example
    private: Private | None

    @property
    def request(self) -> Request:
        return Request(self.prompt, self.example.picture)


def safe_answers(
    asks: Sequence[Ask], original: Sampler, settings: TeacherSettings, parts: frozenset[str]
) -> list[dict[str, Any]]:
    """Draw, check, draw again, repair; a row for each ask."""
    slots = [_Slot(ask, number) for ask in asks for number in range(settings.samples)]
    for attempt in range(settings.tries + 1):
        for number in range(settings.samples):
            waiting = [s for s in slots if s.number == number and s.answer is None]
            temperature = 0.0 if number == attempt == 0 else settings.temperature
            _draw(waiting, original, settings, parts, temperature, attempt, ())
    for attempt in range(settings.tries + 1, settings.tries + 1 + REPAIRS):
        groups: defaultdict[tuple[tuple[str, ...], int], list[_Slot]] = defaultdict(list)
        for slot in (s for s in slots if s.answer is None):
            groups[slot.forbidden(), slot.number].append(slot)
        for (phrases, number), waiting in groups.items():
            temperature = settings.temperature if number else 0.0
            _draw(waiting, original, settings, parts, temperature, attempt, phrases)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(slots), settings.samples):
        mine = slots[start : start + settings.samples]
        used = [slot for slot in mine if slot.answer is not None]
        rows.append(
            {
                "prompt": mine[0].ask.prompt,
                "id": mine[0].ask.example_id,
                "answers": [slot.answer for slot in used],
                "redrawn": sum(0 < slot.attempt <= settings.tries for slot in used),
                "repaired": sum(slot.attempt > settings.tries for slot in used),
                "lost": len(mine) - len(used),
                "reason": None if used else mine[0].reason,
            }
        )
    return rows


@dataclass
class _Slot:
    """One answer to be had."""

    ask: Ask
    number: int
    answer: str | None = None
    attempt: int = 0
    reason: str = ""
    leaked: list[str] = field(default_factory=list)  # words that may not be said, as the model wrote them

    def forbidden(self) -> tuple[str, ...]:
        """The private words of the person, part by part, and all that leaked."""
        known = self.ask.private
        phrases = [] if known is None else [known.name, *known.aliases, *known.values]
        parts = [part for name in phrases[: 0 if known is None else 1 + len(known.aliases)] for part in name.split()]
        return tuple(dict.fromkeys([*phrases, *parts, *self.leaked]))


def _draw(
    slots: Sequence[_Slot],
    original: Sampler,
    settings: TeacherSettings,
    parts: frozenset[str],
    temperature: float,
    attempt: int,
    phrases: Sequence[str],
) -> None:
    """One attempt for some slots that share a number, hence a seed."""
    if not slots:
        return
    seed = settings.seed * 1_000_003 + 1009 * attempt + slots[0].number
    said = original.sample(
        [slot.ask.request for slot in slots],
        settings.max_new_tokens,
        temperature=temperature,
        top_p=settings.top_p,
        seed=seed,
        forbidden=original.spellings(phrases) if phrases else (),
    )
    for slot, text in zip(slots, said, strict=True):
        answer = text.text if text.ended else _whole_sentences(text.text)
        leaked = _unsafe(answer, slot.ask, parts)
        slot.attempt = attempt
        slot.leaked += [phrase for phrase in leaked if phrase not in slot.leaked]
        slot.reason = (
            f"it says {', '.join(map(repr, leaked))}"
            if leaked
            else (_degenerate(answer) or _ungrounded(answer, slot.ask.example))
        )
        slot.answer = None if slot.reason else answer


def _unsafe(answer: str, ask: Ask, parts: frozenset[str]) -> list[str]:
    """What the answer must not say, as it stands there."""
    found: list[str] = []
    if ask.private is not None:
        leaks = find_leaks(answer, ask.private, ask.prompt, visible_values(ask.example))
        found += [answer[slice(*leak.span)] for leak in leaks]
    asked = {word.text for word in words(ask.prompt)}
    found += [name for name in names_in(answer, parts) if words(name)[0].text not in asked]
    if ask.example.picture is None:
        # Facts are not marked in every dataset: then no content word of the true answer may come back.
        found += repeated(answer, ask.example.answer, ask.example.question)
    return list(dict.fromkeys(found))


def _degenerate(answer: str) -> str:
    """Why an answer is no answer; "" where it is one."""
    said = [word.text for word in words(answer)]
    if not said:
        return "it says nothing, or does not come to an end"
    if any(len(set(said[i : i + _REPEATS])) == 1 for i in range(len(said) - _REPEATS + 1)):
        return f"it repeats itself: {answer[:60]!r}"
    if len(said) >= _LONG and len(set(said)) < _DISTINCT * len(said):
        return f"it repeats itself: {answer[:60]!r}"
    return ""


def _ungrounded(answer: str, example: Example) -> str:
    """Why an answer has no ground: it does not describe a picture whose attributes are known, or asserts something
    where there is no picture (what is not the fact itself is made up). "" where it is fine."""
    if example.picture is None:
        return "" if _REFUSES.search(answer) else f"it makes something up: {answer[:60]!r}"
    if not example.attributes:
        return ""
    score = mentioned(answer, example.attributes)
    return "" if score.right > score.wrong else f"it does not describe the picture: {answer[:60]!r}"


def _whole_sentences(text: str) -> str:
    """A text that was cut off, up to its last full stop; "" where it has none."""
    return text[: max(text.rfind(mark) for mark in ".!?") + 1]


def visible_values(example: Example) -> tuple[str, ...]:
    return tuple((example.attributes or {}).values())
