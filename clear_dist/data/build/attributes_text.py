"""Sentences of rows, and words for relatives, whom pronouns may mean instead of the person."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from clear_dist.data.build.attributes_names import tidy
from clear_dist.data.build.person import Row

RELATIVE: Final = re.compile(
    r"\b(?:fathers?|mothers?|parents?'?|dad|mom|mum|brothers?|sisters?|siblings?|husband|wife|spouse|grandfather|"
    r"grandmother|grandparents?|uncle|aunt|sons?|daughters?|children|mentor|partner)\b",
    re.IGNORECASE,
)
_END: Final = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]*[^\W\d_a-z])")
_NO_END: Final = re.compile(r"(?:\b(?:Dr|Prof|Mr|Mrs|Ms|St|Jr|Sr|vs|etc)|\b[A-Z])\.[\"')]*\s*$")


def sentences(text: str) -> list[str]:
    """``text`` (with straight quotation marks) cut after full stops that end a sentence."""
    out: list[str] = []
    start = 0
    text = tidy(text)
    for match in _END.finditer(text):
        if not _NO_END.search(text[max(start, match.start() - 8) : match.end()].rstrip()):
            out.append(text[start : match.end()].strip())
            start = match.end()
    return [sentence for sentence in (*out, text[start:].strip()) if sentence]


def said(rows: Sequence[Row]) -> Iterator[tuple[Row, str, bool]]:
    """(row, sentence, whether it is of the answer), in order."""
    for row in rows:
        for sentence in sentences(row.question):
            yield row, sentence, False
        for sentence in sentences(row.answer):
            yield row, sentence, True
