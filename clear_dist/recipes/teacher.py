"""The teacher's answers: what the original model says about forget pictures when it is told to keep private things to
itself. Made once before training, checked, cached; the views GUIDE and SAFE are built from them.

PUBG (arXiv 2506.02541, reconstructed from summaries). Known: the reference distribution is the original model given
an in-context instruction to leave private information out and to describe visible features only. Ours: the wording
of the instruction, the number of sampled answers, that an answer which leaks is drawn again, then made with the
private words forbidden, and otherwise never used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clear_dist.data.clear import cache_directory
from clear_dist.data.load import Dataset
from clear_dist.data.prompts import INFORMATION_QUESTION, instruction_for
from clear_dist.data.views import Leaks, Taught, open_queries, private_examples
from clear_dist.engine.sample import AnswerSampler
from clear_dist.engine.world import World, barrier, gather
from clear_dist.errors import ConfigError
from clear_dist.metrics.leak import Private, find_leaks, name_parts, private_of
from clear_dist.models import ModelInfo, load_model, weights_digest
from clear_dist.services.progress import say
from clear_dist.types import Example

from .common import only_on_main, spells
from .teacher_draw import Ask, Sampler, TeacherSettings, safe_answers, visible_values

VERSION = 1  # of everything that decides an answer here; part of the cache's key
SHOWN = 5  # questions named where none of the answers could be used


@dataclass
class TeacherReport:
    """Counts of answers, samples x questions in all.

    kept: used; of these redrawn: after one that could not be used; repaired: with the private words forbidden.
    dropped: questions none of whose answers could be used, with the reason of the last one.
    """

    questions: int = 0
    kept: int = 0
    redrawn: int = 0
    repaired: int = 0
    lost: int = 0
    dropped: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        out = [
            f"teacher: {self.kept} safe answers to {self.questions} questions ({self.redrawn} drawn again, "
            f"{self.repaired} with private words forbidden, {self.lost} given up)"
        ]
        for name, reason in list(self.dropped.items())[:SHOWN]:
            out.append(f"  no safe answer to {name}: {reason}")
        more = len(self.dropped) - SHOWN
        return [*out, f"  and {more} more"] if more > 0 else out


def leaks_of(private: Mapping[str, Private]) -> Leaks:
    """Whether an example's own answer gives its person away: what makes an example PRIVATE."""

    def leaks(example: Example) -> bool:
        known = private.get(example.person or "")
        return known is not None and bool(find_leaks(example.answer, known, example.question, visible_values(example)))

    return leaks


def teach(
    data: Dataset,
    info: ModelInfo,
    world: World,
    *,
    instruction: str | None = None,
    samples: int = 1,
    seed: int = 0,
) -> tuple[list[Taught], TeacherReport]:
    """The original's answers for a dataset's PRIVATE examples, and for PUBG's open query on each of their pictures.

    info: the original. The open query is left out where its tokenizer lacks a word of it.
    Raises ConfigError: an instruction with a word that the tokenizer does not know.
    """
    private = private_of([*data.train["forget"], *data.sets["forget"]])
    settings = TeacherSettings(instruction_for(data.name, instruction), samples, seed)
    examples = private_examples(data.train["forget"], leaks_of(private))
    _check_spelling(settings.instruction, info)
    if spells(INFORMATION_QUESTION, info):
        examples += open_queries(examples)
    people = [person for group in data.people.values() for person in group]
    weights, kept = only_on_main(world, lambda: weights_digest(info.adapter or info.path)), info.base_weights
    return teacher_answers(
        examples,
        lambda: AnswerSampler(load_model(info, device=world.device)),
        private,
        settings,
        world,
        weights=" ".join([weights, *[str(info.path)] * bool(info.adapter), *[kept] * (kept != "full")]),
        people=people,
    )


def teacher_answers(
    examples: Sequence[Example],
    original: Callable[[], Sampler],
    private: Mapping[str, Private],
    settings: TeacherSettings,
    world: World,
    *,
    weights: str,
    people: Sequence[str] = (),
) -> tuple[list[Taught], TeacherReport]:
    """Ask the original about every example with a picture (and without one, where the instruction has ``{question}``).

    Args:
        original: opens the model; not called where the answers are in the cache.
        private: person -> what must not be said.
        weights: digest of the original's weights, part of the cache's key.
        people: names of everybody; a safe answer calls nobody by a part of any of them.

    Returns one ``Taught`` for each example that was asked, in order, and what happened. The answers do not depend on
    the number of ranks (but for rounding). A collective: every rank calls it.
    """
    asked = _asks(examples, private, settings)
    asks = list({ask.key: ask for ask in reversed(asked)}.values())[::-1]  # of equal ones the first
    if not asks:
        return [], TeacherReport()
    key = _digest(asks, settings, weights, people)
    path = cache_directory() / "teacher" / f"{key[:32]}.jsonl"
    rows = only_on_main(world, lambda: _read(path, key, len(asks)))
    if rows is None:
        say(f"teacher: asking the original {len(asks)} questions, {settings.samples} answers each", world.main)
        mine = asks[world.rank :: world.size]
        # Every rank opens the model even where it has nothing to ask, so that none fails alone.
        share = safe_answers(mine, original(), settings, name_parts(people))
        shares = gather(world, share)
        rows = [shares[i % world.size][i // world.size] for i in range(len(asks))]
        if world.main:
            _write(path, key, rows)
        barrier(world)
    else:
        say(f"teacher: answers from the cache ({path})", world.main)
    by_key = {ask.key: row for ask, row in zip(asks, rows, strict=True)}
    report = _report(asks, rows)
    say("\n".join(report.lines()), world.main)
    return [Taught(e, ask.prompt, tuple(by_key[ask.key]["answers"])) for e, ask in _paired(examples, asked)], report


def _paired(examples: Sequence[Example], asked: Sequence[Ask]) -> list[tuple[Example, Ask]]:
    by_id = {e.id: e for e in examples}
    return [(by_id[ask.example_id], ask) for ask in asked]


def _asks(examples: Sequence[Example], private: Mapping[str, Private], settings: TeacherSettings) -> list[Ask]:
    """What is asked for each example that can be asked for; equal keys are asked once."""
    varies = "{question}" in settings.instruction
    out: list[Ask] = []
    for example in examples:
        if example.picture is None and not varies:
            continue  # one fixed prompt, and nothing to look at
        prompt = settings.instruction.replace("{question}", example.question)
        # Another person's picture, or another private answer, needs a check of its own.
        about = [prompt, example.picture.digest if example.picture else example.answer, example.person]
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        out.append(Ask(key, example.id, prompt, example, private.get(example.person or "")))
    return out


def _report(asks: Sequence[Ask], rows: Sequence[Mapping[str, Any]]) -> TeacherReport:
    report = TeacherReport(questions=len(asks))
    for ask, row in zip(asks, rows, strict=True):
        report.kept += len(row["answers"])
        report.redrawn += row["redrawn"]
        report.repaired += row["repaired"]
        report.lost += row["lost"]
        if not row["answers"]:
            report.dropped[ask.example_id] = row["reason"]
    return report


def _digest(asks: Sequence[Ask], settings: TeacherSettings, weights: str, people: Sequence[str]) -> str:
    """SHA-256 over all that an answer depends on."""
    numbers = [settings.instruction, settings.samples, settings.seed, settings.temperature, settings.top_p]
    numbers += [settings.tries, settings.max_new_tokens]
    known = [
        [
            ask.key,
            None if ask.private is None else [ask.private.name, ask.private.values, ask.private.aliases],
            visible_values(ask.example),
        ]
        for ask in asks
    ]
    return hashlib.sha256(json.dumps([VERSION, weights, numbers, sorted(people), known]).encode()).hexdigest()


def _read(path: os.PathLike[str], key: str, count: int) -> list[dict[str, Any]] | None:
    """The rows of a cache file; None where there is none, or it is not whole."""
    try:
        with open(path, encoding="utf-8") as file:
            header, *rows = (json.loads(line) for line in file)
    except (OSError, ValueError):
        return None
    return rows if header == {"v": VERSION, "key": key, "rows": count} and len(rows) == count else None


def _write(path: Any, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A header and a line a question, in one step: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    lines = [{"v": VERSION, "key": key, "rows": len(rows)}, *rows]
    part.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    os.replace(part, path)


def _check_spelling(instruction: str, info: ModelInfo) -> None:
    text = instruction.replace("{question}", "").strip()
    if not spells(text, info):
        raise ConfigError(
            f"--guide-instruction: the tokenizer of {info.name} does not know every word of {text!r}; use others."
        )
