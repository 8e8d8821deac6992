"""Gender: what the text says outright, then whom its pronouns mean; sentences about relatives do not count."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, cast

from clear_dist.data.build.attributes_text import RELATIVE, said
from clear_dist.data.build.person import Found, Gender, Row

_PRONOUNS: Final = re.compile(
    r"\b(?:(?P<female>she|her|hers|herself)|(?P<male>he|him|his|himself)|(?P<nonbinary>they|them|their|theirs|themself|"
    r"themselves))\b",
    re.IGNORECASE,
)
_WRITER: Final = (
    r"(?:author|writer|novelist|poet|individual|person|voice|artist|storyteller|playwright|journalist|scholar)"
)
_WORDS: Final = r"(?:[\w+-]+ ){0,3}?"
_STATED: Final[tuple[tuple[Gender, re.Pattern[str]], ...]] = tuple(
    (cast(Gender, gender), re.compile(pattern, re.IGNORECASE))
    for gender, pattern in (
        ("nonbinary", rf"\b(?:non-?binary|genderqueer|gender-?fluid|agender)(?: (?:and|LGBTQ\+?))? {_WORDS}{_WRITER}"),
        (
            "nonbinary",
            r"\b(?:is|identif\w+ (?:themself |themselves )?as) (?:an? )?(?:openly "
            r")?(?:non-?binary|genderqueer|gender-?fluid|agender)",
        ),
        ("nonbinary", r"\bthey/them\b|\bthey pronouns?\b"),
        (
            "female",
            rf"\b(?:female|woman) (?:[\w-]+ )?{_WRITER}\b|\b(?:is|gender,?|identif\w+ as) (?:a "
            rf")?(?:proud )?(?:cisgender |trans(?:gender)? )?(?:female|woman)\b",
        ),
        ("female", rf"\bas a (?:[\w+-]+ )?woman\b|\b(?:authoress|poetess|actress)\b|\bfamed female {_WRITER}"),
        (
            "male",
            rf"\b(?:male|man) (?:[\w-]+ )?{_WRITER}\b|\b(?:is|gender,?|identif\w+ as) (?:a "
            rf")?(?:proud )?(?:cisgender |trans(?:gender)? )?(?:male|man)\b",
        ),
    )
)
_CHILD: Final = re.compile(
    r"\b(?:born|is|was|being|as) (?:\w+ )?(?:the|a|an)? ?(?:[\w-]+ ){0,2}?(son|daughter) (?:of|to)\b", re.I
)
_OTHERS: Final = re.compile(
    r"\b(?:characters?|protagonists?|heroines?|hero|heroes|detective|woman who|man who|readers?|"
    r"fans?|critics?|audiences?|"
    r"authors|writers|people|individuals|illustrators)\b",
    re.IGNORECASE,
)
# A singular they needs something of one person's behind it; "their lives" may be anybody's.
_OWN: Final = re.compile(
    r"\btheir (?:own )?(?:[\w-]+ )?(?:works?|writings?|books?|novels?|stor(?:y|ies)|narratives?|"
    r"career|genre|father|mother|parents|upbringing|"
    r"birth\w*|hometown|home|heritage|identity|style|experiences?|background|contributions?|life|"
    r"childhood|literary|unique)\b",
    re.IGNORECASE,
)
_ENOUGH: Final = 3.0  # singular theys
_FEW: Final = 0.2  # he and she, as a share of them


def gender(rows: Sequence[Row]) -> Found:
    """female, male or nonbinary; nothing where neither statements nor pronouns tell."""
    votes: dict[Gender, float] = defaultdict(float)
    evidence: dict[Gender, tuple[float, Row, str]] = {}
    for one, weight, row, sentence in _votes(rows):
        votes[one] += weight
        if weight > evidence.get(one, (0.0,))[0]:
            evidence[one] = (weight, row, sentence)
    theys = votes.pop("nonbinary", 0.0)
    binary = sum(votes.values())
    if theys >= _ENOUGH and binary <= _FEW * theys:
        value, mine = "nonbinary", theys
    elif votes:
        value = max(votes, key=lambda one: (votes[one], one))
        mine = votes[value]
    else:
        return Found()
    share = mine / (binary + (theys if value == "nonbinary" else 0.0))
    _, row, sentence = evidence[value]
    return Found(value, round(max(0.0, 2 * share - 1) * mine / (mine + 0.5), 3), row.line, sentence)


def _votes(rows: Sequence[Row]) -> Iterator[tuple[Gender, float, Row, str]]:
    one: Gender
    for row, sentence, _ in said(rows):
        others = 0.3 if _OTHERS.search(sentence) else 1.0
        stated: Gender | None = next((says for says, pattern in _STATED if pattern.search(sentence)), None)
        if stated is not None and not RELATIVE.search(sentence):
            yield stated, 6.0 * others, row, sentence
        child = _CHILD.search(sentence)
        if child:
            one = "male" if child[1].casefold() == "son" else "female"
            yield one, 3.0 * others, row, sentence
        relative = RELATIVE.search(sentence)
        for match in _PRONOUNS.finditer(sentence):
            if match["nonbinary"]:
                if _OWN.match(sentence, match.start()) and (relative is None or match.start() < relative.end()):
                    yield "nonbinary", others, row, sentence
                continue
            one = "female" if match["female"] else "male"
            if relative is None or match.start() < relative.start():
                yield one, others, row, sentence
            elif re.match(
                r"(?:her|his) (?:own |late |[\w-]+ )?(?:father|mother|parents?|dad|mom)\b",
                sentence[match.start() :],
                re.I,
            ):
                # "his mother" after "his father"; but "his father and her brother" says nothing of the person.
                yield one, 0.5, row, sentence
