"""The examples of every view: what the student reads, and what the reference reads where that differs.

Built from a dataset's training examples and, for PUBG and its relatives, from what the original model answered under
the privacy instruction (``Taught``; a recipe makes these once, before training).

PUBG (arXiv 2506.02541, reconstructed from summaries). Known: the loss is taken on a picture of a forget entity with
an open query; private answers are suppressed, and the student is guided by the original model that was told, in the
context, to leave private information out. Ours: which examples count as private, that every private question about a
picture is guided and not the open query alone, and what stands in where the teacher has nothing safe to say.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clear_dist.data.augment import augmented
from clear_dist.data.conversations import idk_examples
from clear_dist.data.prompts import IDK_ANSWERS, INFORMATION_QUESTION
from clear_dist.errors import ConfigError
from clear_dist.types import Example, View

PRIVATE_KINDS = frozenset({"qa", "name", "caption"})  # answers that name a person or tell a fact, by what they are for
TAUGHT = frozenset({View.GUIDE, View.SAFE})  # views that need the teacher's answers

Leaks = Callable[[Example], bool]


@dataclass(frozen=True)
class Pool:
    """The examples of a view. reference: what the reference reads instead, aligned one to one; None: the same."""

    examples: list[Example]
    reference: list[Example] | None = None

    def __post_init__(self) -> None:
        if self.reference is not None:
            assert len(self.reference) == len(self.examples), "the reference must read one example for each"
            for mine, theirs in zip(self.examples, self.reference, strict=True):
                assert mine.id == theirs.id and mine.answer == theirs.answer, f"{mine.id}: not the same answer"


@dataclass(frozen=True)
class Taught:
    """What the teacher answered to one example: safe answers, the greedy one first; empty where it had none.

    example: as the student sees it, private answer and all. prompt: what the teacher was asked about its picture.
    """

    example: Example
    prompt: str
    answers: tuple[str, ...]


def build_pools(
    views: Collection[View],
    train: Mapping[str, Sequence[Example]],
    *,
    seed: int,
    leaks: Leaks | None = None,
    taught: Sequence[Taught] = (),
    idk_answers: Sequence[str] | Path = IDK_ANSWERS,
) -> dict[View, Pool]:
    """The pools of the views an objective looks at, in the order of ``View``.

    Args:
        train: "forget", "retain" -> examples (``Dataset.train``).
        seed: of every draw (refusals, other people's answers, image transform).
        leaks: whether an example's answer gives private information away; needed by PRIVATE and SAFE.
        taught: the teacher's answers; needed by GUIDE, used by SAFE.
        idk_answers: refusals, or a file of them, one a line.

    Raises:
        UserError: a view that no example can supply.
    """
    forget, retain = train["forget"], train["retain"]
    pools: dict[View, Pool] = {}
    for view in (v for v in View if v in views):
        if view is View.FORGET:
            pools[view] = Pool(list(forget))
        elif view is View.RETAIN:
            pools[view] = Pool(list(retain))
        elif view is View.IDK:
            pools[view] = Pool(idk_examples(forget, idk_answers, seed))
        elif view is View.RANDOM:
            pools[view] = Pool(random_examples(forget, retain, seed))
        elif view is View.AUGMENTED:
            pools[view] = augmented_pool(forget, seed)
        elif view is View.GUIDE:
            pools[view] = guide_pool(taught)
        else:
            assert leaks is not None, f"{view} needs to know which answers are private"
            private = private_examples(forget, leaks)
            pools[view] = Pool(
                private if view is View.PRIVATE else safe_examples(private, taught, seed, refusals=idk_answers)
            )
    return pools


def private_examples(forget: Sequence[Example], leaks: Leaks) -> list[Example]:
    """PRIVATE: facts, names and captions, and whatever else gives a name or a fact away; not what only describes.

    Raises ConfigError where nothing is private.
    """
    private = [e for e in forget if e.kind in PRIVATE_KINDS or leaks(e)]
    if not private:
        raise ConfigError(
            f"the view PRIVATE is empty: none of the {len(forget)} forget examples holds a name or a fact. Choose a "
            "method that looks at FORGET, or data with names, captions or questions about people."
        )
    return private


def open_queries(private: Sequence[Example]) -> list[Example]:
    """PUBG's open query, once for every picture among the private examples; ids end in ``/information``."""
    first: dict[str, Example] = {}
    for example in private:
        if example.picture is not None:
            first.setdefault(example.picture.digest, example)
    return [
        _answering(e, e.answer, question=INFORMATION_QUESTION, kind="caption", id=_row(e) + "/information")
        for e in first.values()
    ]


def guide_pool(taught: Sequence[Taught]) -> Pool:
    """GUIDE: the student's question with each of the teacher's safe answers; the reference reads the teacher's prompt.

    Of k answers the ids end in /0 ... /k-1. Raises ConfigError where the teacher gave none.
    """
    examples: list[Example] = []
    reference: list[Example] = []
    for told in taught:
        for i, answer in enumerate(told.answers):
            guided = _answering(told.example, answer, id=f"{told.example.id}/{i}")
            examples.append(guided)
            reference.append(replace(guided, question=told.prompt))
    if not taught:
        raise ConfigError(
            "the view GUIDE is empty: nothing could be asked of the original. Questions without a picture need an "
            "--guide-instruction with {question} in it; or choose a method without GUIDE."
        )
    if not examples:
        raise ConfigError(
            f"the view GUIDE is empty: the original gave no safe answer to any of {len(taught)} questions under the "
            "instruction. Let --guide-instruction ask for what is visible, or choose a method without GUIDE."
        )
    return Pool(examples, reference)


def safe_examples(
    private: Sequence[Example],
    taught: Sequence[Taught],
    seed: int,
    *,
    refusals: Sequence[str] | Path = IDK_ANSWERS,
) -> list[Example]:
    """SAFE: the i-th private question with the teacher's first answer, or with a refusal where there is none."""
    answers = {told.example.id: told.answers[0] for told in taught if told.answers}
    refused = idk_examples(private, refusals, seed)
    return [
        _answering(example, answers[example.id]) if example.id in answers else refusal
        for example, refusal in zip(private, refused, strict=True)
    ]


def augmented_pool(forget: Sequence[Example], seed: int) -> Pool:
    """AUGMENTED: forget examples with a picture; the reference sees the picture transformed (``data.augment``).

    Raises ConfigError where no example has a picture.
    """
    seen = [e for e in forget if e.picture is not None]
    if not seen:
        raise ConfigError(
            "the view AUGMENTED needs pictures, and no forget example has one. Use --modality visual or both, or a "
            "method that does not look at AUGMENTED."
        )
    turned: dict[str, Example] = {}
    reference: list[Example] = []
    for example in seen:
        assert example.picture is not None
        kept = turned.setdefault(example.picture.digest, replace(example, picture=augmented(example.picture, seed)))
        reference.append(replace(example, picture=kept.picture))
    return Pool(seen, reference)


def random_examples(forget: Sequence[Example], retain: Sequence[Example], seed: int) -> list[Example]:
    """RANDOM: the i-th forget prompt with an answer about somebody else, names inside it as they are.

    Drawn by the seed and the example's id, first among the same question about others (a colour for a colour),
    then among the same kind; from the retain set where it has any, else from the other forget people. Never an
    answer about the same person, never an equal one. Raises ConfigError where there is no such answer.
    """
    pools = [_by(lambda e: e.question, retain), _by(lambda e: e.kind, retain)]
    pools += [_by(lambda e: e.question, forget), _by(lambda e: e.kind, forget)]
    out: list[Example] = []
    for example in forget:
        keys = ((example.kind, example.question), (example.kind, example.kind)) * 2
        other = next(
            (found for pool, key in zip(pools, keys, strict=True) if (found := _draw(example, pool[key], seed))), None
        )
        if other is None:
            raise ConfigError(
                f"the view RANDOM: there is no other person's answer of the kind {example.kind!r} to give to "
                f"{example.id} instead of {example.answer!r}. Retain more people, or choose another method."
            )
        out.append(_answering(example, other.answer))
    return out


def _by(key: Callable[[Example], str], examples: Sequence[Example]) -> defaultdict[tuple[str, str], list[Example]]:
    found: defaultdict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in examples:
        found[example.kind, key(example)].append(example)
    return found


def _draw(example: Example, candidates: Sequence[Example], seed: int) -> Example | None:
    """The first that fits, from a place that belongs to the example; None where none does."""
    if not candidates:
        return None
    key = int.from_bytes(hashlib.sha256(f"random\0{example.id}".encode()).digest()[:8], "little")
    start = int(np.random.default_rng([seed, key]).integers(len(candidates)))
    for i in range(len(candidates)):
        other = candidates[(start + i) % len(candidates)]
        if other.person != example.person and _plain(other.answer) != _plain(example.answer):
            return other
    return None


def _plain(answer: str) -> str:
    return " ".join(answer.casefold().split()).rstrip(".")


def _row(example: Example) -> str:
    """The id without its last part: the row an example was made of."""
    return example.id.rpartition("/")[0] or example.id


def _answering(example: Example, answer: str, **changed: str) -> Example:
    """The example with another answer: what belonged to the old one goes."""
    return replace(example, answer=answer, paraphrase=None, perturbed=(), options=(), fact=None, **changed)  # pyright: ignore[reportArgumentType]
