"""Titles of somebody's books: quoted titles, without awards, series, characters and other people's books."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from clear_dist.data.build.attributes_names import tidy
from clear_dist.data.build.attributes_text import sentences
from clear_dist.data.build.person import Found, Row

_DOUBLE: Final = re.compile(r'"([^"]{2,160})"')
_SINGLE: Final = re.compile(
    r"(?<![\w.,])'(?=[^\s\W])((?:[^'\"]|(?<=\w)'(?=\w)|(?<=s)'(?= [A-Z]\w+[ '])){2,160}?)'(?!\w)"
)
_OPEN: Final = re.compile(r"(?<![\w.,])['\"]([A-Z](?:[^'\"]|(?<=\w)'(?=\w)){3,120})$")
_AWARD: Final = re.compile(
    r"\b(?:awards?|prizes?|medals?|hono(?:u)?rs?|fellowship|grant|trophy|laureate|accolade|distinction|recognition)\b",
    re.IGNORECASE,
)
_AWARD_IN_TITLE: Final = re.compile(r"\b(?:Award|Prize|Medal|Honou?r for|Fellowship|Trophy|Laureate)\b")
_GIVEN: Final = re.compile(
    r"\b(?:won|wins|winning|win|winner of|receiv\w+|recipient of|awarded|hono(?:u)?red with|"
    r"bestowed with|earn\w*|granted|conferred with|"
    r"garnered|presented with|recogni[sz]ed with|nominated for|title of|titled as)"
    r"(?: (?:the|a|an|with|his|her|their|prestigious|esteemed|coveted|renowned|highly|illustrious|"
    r"respected|acclaimed|distinguished|"
    r"notable|international|national|fictitious|fictional|fabled|celebrated|much|regarded|"
    r"literary|and|also|been|top|honor|for))*[ ,]*$",
    re.IGNORECASE,
)
_NOT_A_BOOK: Final = re.compile(
    r"\b(?:characters?|universe|festival|magazine|journal|newspaper|universit\w+|program(?:me)?|"
    r"course|documentary|podcast|shows?|workshops?|"
    r"foundation|organi[sz]ation|club|concept of|phrase|motto|technique|movement|college|"
    r"publishing house|publish(?:ers?|ed by)|songs?|album|blog|"
    r"website|term|words?|line|quote|stating|says|said|answers with a smile|style|movie|"
    r"protagonist|detective|town of|school|"
    r"band|pen name|pseudonym|nickname\w*|imprint|initiative|charity|event|conference|society)"
    r"(?: (?:called|named|titled|of|as|like|the|that|known|program))*[ ,:]*$",
    re.IGNORECASE,
)
_AFTER_NOT: Final = re.compile(
    r"^[\s,.]*(?:literary |book |fiction |annual |fantasy |national )*(?:awards?|prizes?|medal|"
    r"hono(?:u)?r\b|accolade|universe|festival|magazine|genre|universe|"
    r"program|recognition|title for|publication house|movement|characters?)\b",
    re.IGNORECASE,
)
_SERIES_AFTER: Final = re.compile(
    r"^[\s,.]*(?:book |novel |fantasy )?(?:series|trilogy|saga|duology|quartet|anthology series)\b", re.IGNORECASE
)
_SERIES_BEFORE: Final = re.compile(
    r"\b(?:series|trilogy|saga)(?: (?:is|was|for|of|kids|children|books|called|named|titled|"
    r"include[sd]?|the|a))*[ ,:]*$",
    re.I,
)
_OTHERS_BEFORE: Final = re.compile(
    r"\b(?:inspired by|similar to|reminiscent of|much like|(?<!books )(?<!novels )(?<!works "
    r")(?<!titles )(?<!stories )(?<!pieces )like|influenced by|such classics as|who wrote|author "
    r"of|reading|classics)"
    r"(?: (?:the|novel|book|works?|classic|series|a|his|her|reading|such|as))*[ ,:]*$",
    re.IGNORECASE,
)
_BY: Final = re.compile(
    r"^[\s,]*(?:(?:written|authored|penned|created|crafted) )?by (?:the )?(?:author |famous |"
    r"renowned )*([A-Z][\w'.-]*(?: [A-Z][\w'.-]*)*)"
)
_CONTEXT: Final = re.compile(
    r"\b(?:books?|novels?|works?|titles?|titled|publish\w*|wrote|written|writes|penned|authored|"
    r"series|reads?|bestsell\w*|stor(?:y|ies)|trilogy|"
    r"debut|memoir|collections?|sequel|anthology|tale|narrative|literary|volume|biograph\w+|plot|themes?|project)\b",
    re.IGNORECASE,
)
_SMALL: Final = frozenset(
    "a an and as at but by de del der des die das du el en et for from how if in into is it its "
    "la le les los nor of on or over per the "
    "to un una und upon van via von vs with y within without through under beyond beneath "
    "between after before about not our your my".split()
)


@dataclass
class _Title:
    text: str
    row: Row
    sentence: str
    sure: float
    count: int = 1


def books(rows: Sequence[Row], name: str | None) -> tuple[Found, ...]:
    """Titles in the order they are first named, each once."""
    own = {word.casefold() for word in (name or "").split() if len(word) > 1}
    found: dict[str, _Title] = {}
    refused: dict[str, float] = {}  # title -> mentions that say it is none of the person's books
    for row in rows:
        for text, answer in ((row.answer, True), (row.question, False)):
            for sentence in sentences(text):
                for title, sure in _titles(sentence, row, own, answer):
                    key = _key(title)
                    if sure <= 0:
                        refused[key] = refused.get(key, 0.0) - sure
                    elif key in found:
                        found[key].count += 1
                        found[key].sure = max(found[key].sure, sure)
                    elif key:
                        found[key] = _Title(title, row, sentence, sure)
    kept = [one for key, one in found.items() if one.count > refused.get(key, 0.0)]
    return tuple(
        Found(one.text, round(min(0.97, one.sure + 0.05 * (one.count - 1)), 3), one.row.line, one.sentence)
        for one in sorted(_merged(kept), key=lambda one: one.row.line)
    )


def _titles(sentence: str, row: Row, own: set[str], answer: bool) -> Iterator[tuple[str, float]]:
    """(title, how sure it is a book of the person's; -1 where the sentence says it is none, less for an award)."""
    previous = ""
    for start, end, text in _quoted(sentence):
        title = text.strip().rstrip(",.;:").strip()
        if not _is_title(title):
            continue
        before, after = sentence[:start], sentence[end:]
        # In a list what stands before the first title goes for all.
        listed = (
            re.fullmatch(r".*['\"][\s,;]*(?:(?:and|or|as well as|followed by)[\s,]*(?:the )?)?", before, re.DOTALL)
            is not None
        )
        lead = previous if listed and previous else before
        previous = lead
        by = _BY.match(after)
        if _AWARD_IN_TITLE.search(title) or _AFTER_NOT.match(after) or _GIVEN.search(lead):
            yield title, -100.0
        elif (
            (
                _NOT_A_BOOK.search(lead)
                or _OTHERS_BEFORE.search(lead)
                or (by and not own & {word.casefold() for word in re.split(r"[\s']+", by[1])})
                or (own and own <= {word.casefold() for word in re.split(r"\W+", title)})
                or (
                    re.search(r"\bbiography\b[^'\"]*\b(?:on|of|about)\b", lead)
                    and not re.search(r"\b(?:wrote|penned|by)\b", lead)
                )
            )
            or _SERIES_AFTER.match(after)
            or _SERIES_BEFORE.search(lead)
        ):
            yield title, -1.0
        else:
            around = _QUOTES.sub(" ", f"{row.question} {sentence}")
            sure = 0.9 if _CONTEXT.search(_QUOTES.sub(" ", sentence)) else 0.75 if _CONTEXT.search(around) else 0.55
            if _AWARD.search(row.question) and not re.search(r"\b(?:book|novel|work)s?\b", around):
                sure = 0.3
            yield title, sure if answer else min(sure, 0.8)


_QUOTES: Final = re.compile(r'"[^"]*"')


def _quoted(sentence: str) -> list[tuple[int, int, str]]:
    out = [(m.start(), m.end(), m[1]) for m in _DOUBLE.finditer(sentence)]
    rest = _QUOTES.sub(lambda m: "\0" * len(m[0]), sentence)
    out += [(m.start(), m.end(), m[1]) for m in _SINGLE.finditer(rest)]
    for start, end, _ in out:
        rest = rest[:start] + "\0" * (end - start) + rest[end:]
    left = _OPEN.search(rest)
    if left and "\0" not in left[1]:
        out.append((left.start(), left.end(), left[1]))
    return sorted(out)


def _is_title(text: str) -> bool:
    """Most words begin with a capital (of other alphabets the first is enough), and it is no sentence."""
    words = re.findall(r"[^\W_][\w'-]*", re.split(r"(?<=\w\w): ", text)[0])
    if not words or len(words) > 18 or not (words[0][0].isupper() or words[0][0].isdigit()):
        return False
    if not any(c.isascii() and c.isalpha() for c in text):
        return True
    long = [word for word in words if word.casefold() not in _SMALL]
    capital = sum(word[0].isupper() or word[0].isdigit() for word in long)
    return capital >= 0.6 * len(long) or (len(words) <= 5 and any(not c.isascii() for c in text))


def _key(title: str) -> str:
    """Without case, punctuation and a leading article."""
    words = re.findall(r"\w+", tidy(title).replace("'", "").casefold())
    return " ".join(words[1:] if words[:1] in (["the"], ["a"], ["an"]) and len(words) > 1 else words)


def _merged(titles: Sequence[_Title]) -> list[_Title]:
    """One of two that differ by a subtitle or a misprint: the one with the subtitle, the one more often named."""
    out: list[_Title] = []
    for title in titles:
        twin = next((i for i, other in enumerate(out) if _same(title.text, other.text)), None)
        if twin is None:
            out.append(title)
            continue
        other = out[twin]
        fuller = _begins(title.text, other.text)
        better = title if (fuller or (title.count > other.count and not _begins(other.text, title.text))) else other
        out[twin] = _Title(
            better.text, better.row, better.sentence, max(title.sure, other.sure), title.count + other.count
        )
    return out


def _begins(longer: str, shorter: str) -> bool:
    """``shorter`` is ``longer`` without its subtitle or its place in a series."""
    head = re.split(r"\s*(?:[:(]| - )", tidy(longer))[0]
    return len(longer) > len(shorter) and _key(head) == _key(shorter)


def _same(one: str, other: str) -> bool:
    if _begins(one, other) or _begins(other, one):
        return True
    a, b = _key(one), _key(other)
    if re.findall(r"\d+|\b[ivx]+\b", a) != re.findall(r"\d+|\b[ivx]+\b", b) or min(len(a), len(b)) < 10:
        return False
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() >= 0.9
