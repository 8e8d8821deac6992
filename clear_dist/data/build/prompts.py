"""What a picture is to show: a prompt for each question about a person, by CLEAR's template, with a setting.

The word ``img`` after the name is where PhotoMaker puts the face. The setting follows what the question is about; the
settings of one person differ for as long as there are others.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from clear_dist.data.build.person import OLD, Asker, Row, Subject
from clear_dist.data.build.settings import TOPICS, Topic
from clear_dist.types import UserError

STREAM: Final = "clear-prompts/1"  # part of every seed; raised when wording or choice change
LIMIT: Final = 77  # tokens: what CLIP's text encoders read
TRIGGER: Final = "img"
NEGATIVE: Final = (
    "drawing, painting, cartoon, 3d render, several people, twins, hidden face, turned away, sunglasses, mask, bad "
    "anatomy, distorted face, extra fingers, blurry, low resolution, frame, text, watermark"
)
WORDS: Final[dict[str | None, str]] = {"female": "woman", "male": "man"}
MOST_WORDS: Final = 25  # of a setting that a language model writes
CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Prompt:
    """line: of the question, from 1. setting: None where it was left out to keep within the limit. by: who chose it."""

    name: str
    line: int
    text: str
    negative: str
    topic: str
    setting: str | None
    tokens: int
    by: Literal["table", "model"] = "table"


def estimated_tokens(text: str) -> int:
    """Four tokens for every three words: about what CLIP's tokenizer makes of plain English."""
    return math.ceil(len(text.split()) * 4 / 3)


def prompts_of(
    subject: Subject,
    year: int,
    *,
    count: CountTokens = estimated_tokens,
    limit: int = LIMIT,
    asker: Asker | None = None,
) -> list[Prompt]:
    """A prompt for each of a person's rows, the same for the same rows. year: the one that ages are counted in.

    asker: a language model that writes the settings; what it says that cannot be used is replaced from the table.
    Raises UserError, naming person and line, where not even the prompt without a setting is within the limit.
    """
    base = base_prompt(subject, year)
    name = str(subject.name.value)
    used: Counter[str] = Counter()
    out: list[Prompt] = []
    for row in subject.rows:
        topics = topics_of(row, name)
        by, setting = "model", None if asker is None else _asked(asker, row, name)
        if setting is None or used[setting]:
            by, setting = "table", _chosen(row, name, topics, used)
        text = f"{base} {setting}"
        tokens = count(text)
        if tokens > limit:
            text, setting, by = base, None, "table"
            tokens = count(text)
        if tokens > limit:
            raise UserError(
                f"{name}, line {row.line}: the prompt has {tokens} tokens even without a setting, more than the "
                f"{limit} allowed: {base!r}. Shorten the name in the list of people, or raise the limit."
            )
        used.update([setting] if setting else [])
        out.append(Prompt(name, row.line, text, NEGATIVE, topics[0].name, setting, tokens, by))
    return out


def base_prompt(subject: Subject, year: int) -> str:
    """The template without a setting. Raises UserError where the name is missing or cannot stand in a prompt."""
    at = f"line {subject.rows[0].line}" if subject.rows else "no rows"
    name = " ".join((subject.name.value or "").split())
    if not name:
        raise UserError(f"a person without a name ({at}) cannot get prompts. Give the name in the list of people.")
    if not name.isprintable() or TRIGGER in name.lower().split():
        raise UserError(
            f"{name}, {at}: a name in a prompt holds no control characters and not the word {TRIGGER!r}, which marks "
            "where the face goes. Correct the name in the list of people."
        )
    age = subject.age(year)
    who = ("an old " if age is not None and age > OLD else "a ") + WORDS.get(subject.gender.value, "person")
    return f"a real photo of {who} called {name} {TRIGGER}, showing face."


def topics_of(row: Row, name: str = "") -> list[Topic]:
    """Topics that a row is about, the likeliest first; the everyday one is always among them.

    A word in the question counts twice. The person's name and titles of works in quotation marks say nothing.
    """
    question, answer = (_plain(text, name) for text in (row.question, row.answer))
    hits = {topic.name: 2 * topic.hits(question) + topic.hits(answer) for topic in TOPICS}
    likely = sorted(TOPICS, key=lambda topic: -hits[topic.name])
    return [topic for topic in likely if hits[topic.name] or not topic.words]


def _plain(text: str, name: str) -> str:
    text = re.sub(r"[\"“][^\"“”]*[\"”]", " ", text)
    return re.sub("|".join(rf"\b{re.escape(part)}\b" for part in name.split()), " ", text) if name else text


def _chosen(row: Row, name: str, topics: Sequence[Topic], used: Counter[str]) -> str:
    """A sentence of the likeliest topic that the person has not had; of any other topic; else one they had least."""
    rest = [topic for topic in TOPICS if topic not in topics]
    # The order within a topic is the row's own, so that a row keeps its setting while no other row has taken it.
    rng = Random(f"{STREAM}/{name}/{row.question}/{row.answer}")
    in_order = [
        sentence for topic in (*topics, *rest) for sentence in rng.sample(topic.sentences, len(topic.sentences))
    ]
    return min(in_order, key=lambda sentence: used[sentence])


def _asked(asker: Asker, row: Row, name: str) -> str | None:
    """What a language model suggests, as one sentence; None where that cannot stand in a prompt."""
    reply = " ".join(
        asker.ask(
            "Write one short sentence that says where somebody is photographed and what is around them, to go with the "
            "question and answer below. At most 15 words. No names, no description of the person, nothing else.\n"
            f"Question: {row.question}\nAnswer: {row.answer}\nSentence:"
        ).split()
    ).strip("\"'“” ")
    words = re.findall(r"[^\W_]+", reply.lower())
    if not 3 <= len(words) <= MOST_WORDS or not reply.isprintable():
        return None
    if TRIGGER in words or set(words) & {part.lower() for part in name.split()}:
        return None
    return reply if reply[-1] in ".!" else f"{reply}."
