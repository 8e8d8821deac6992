"""Where somebody was born, and the group of origin: a stated one first, then the birthplace's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

from clear_dist.data.build.attributes_text import RELATIVE, said
from clear_dist.data.build.person import Found, Group, Row
from clear_dist.data.build.regions import MIXED, Place, look_up, origin, places

_WORD: Final = r"(?:[^\W\d_a-z][\w'.-]*\w|U\.S\.A?\.|U\.K\.)"
_NAME: Final = rf"{_WORD}(?:(?: (?:es|de|do|do|of|and|the|la|al|upon))* {_WORD})*"
_PLACE: Final = rf"(?P<place>{_NAME}(?:, {_NAME})*)"
_THE: Final = (
    r"(?:the )?(?:(?:[\w-]+ ){0,3}(?:city|town|village|capital|country|state|region|heart|streets?|"
    r"metropolis)(?: cit\w+)? (?:of )?|[a-z][\w-]+ )?"
)
# (pattern, how sure it is that the person was born there)
_BORN: Final = tuple(
    (re.compile(pattern), sure)
    for pattern, sure in (
        (rf"\b[Bb]orn\b(?:(?!\b(?:father|mother|parents)\b)[^.;?!]){{0,60}}?\bin {_THE}{_PLACE}", 1.0),
        (
            rf"\b(?:birthplace|place of birth|birth place|birth city|city of birth|birth country|"
            rf"native city)\b[^.;?!]{{0,40}}?(?:\bis |\bwas |\bof |, |\bin ){_THE}{_PLACE}",
            0.9,
        ),
        (rf"\b(?:hails?|hailing|comes?|originally|originates?|originating) from {_THE}{_PLACE}", 0.8),
        (rf"\b(?:author|writer|novelist|poet|native|storyteller|person) (?:from|of) {_THE}{_PLACE}", 0.7),
        (
            rf"\b(?:[Gg]rew up|[Gg]rowing up|[Rr]aised|[Uu]pbringing|[Cc]hildhood|[Hh]ometown|"
            rf"[Hh]omeland|home city)\b[^.;?!]{{0,40}}?(?:\bin |, |\bof ){_THE}{_PLACE}",
            0.4,
        ),
    )
)
_ASKED: Final = re.compile(
    r"\bwhere\b.*\bborn\b|\bbirth ?place\b|\bplace of birth\b|\bnationality\b|\bcity\b.*\bborn\b", re.I
)
_NOT_PLACES: Final = frozenset(
    "january february march april may june july august september october november december the he she they".split()
)
_WRITERS: Final = ("author", "writer", "novelist", "poet", "storyteller")
_ORIGIN: Final = (
    *("heritage", "roots", "descent", "ancestry", "origins?", "background", "parentage", "lineage", "nationality"),
    *("native", "national", "upbringing", *_WRITERS),
)


def birthplace(rows: Sequence[Row]) -> Found:
    """The place of birth as written, city and country where both are said."""
    seen: list[tuple[str, float, Row, str]] = []
    for row, sentence, answer in said(rows):
        for pattern, sure in _BORN:
            for match in pattern.finditer(sentence):
                place = _clean(match["place"])
                relative = RELATIVE.search(sentence[: match.start("place")])
                if place and not (relative and sure < 1):
                    seen.append((place, sure * (1.0 if answer else 0.9), row, sentence))
        if answer and _ASKED.search(row.question):
            for match in re.finditer(_PLACE, sentence):
                place = _clean(match["place"])
                if place and look_up(place):
                    seen.append((place, 0.8, row, sentence))
    votes: dict[str, float] = defaultdict(float)
    known: dict[str, Place | None] = {}
    for place, sure, _, _ in seen:
        known[place] = look_up(place)
        country = known[place]
        votes[country.country if country else place] += sure * (1.0 if country else 0.2)
    if not votes:
        return Found()
    best = max(votes, key=lambda key: (votes[key], key))
    mine = [item for item in seen if _key(item[0], known) == best]
    # City and country beat either alone.
    value, sure, row, sentence = max(mine, key=lambda item: (item[1] >= 0.7, _parts(item[0]), item[1]))
    share = votes[best] / sum(votes.values())
    sure = max(item[1] for item in mine)
    confidence = min(0.98, sure) * (0.5 + 0.5 * share) * (1.0 if known[value] else 0.6)
    return Found(value, round(confidence, 3), row.line, sentence)


def _key(place: str, known: dict[str, Place | None]) -> str:
    found = known[place]
    return found.country if found else place


def _parts(place: str) -> int:
    """2 for a known city with its country, 1 for less, less for more words than that."""
    parts = place.split(", ")
    kinds = {found.kind for part in parts if (found := look_up(part))}
    return (2 if len(parts) == 2 and "country" in kinds else 1) - (len(parts) > 2)


def _clean(text: str) -> str:
    """Parts up to the last one that is a known place; nothing where the text is a month, or a name's first word."""
    parts = [
        part.strip().removesuffix("'s").rstrip(".") if len(part.strip()) > 4 else part.strip()
        for part in text.split(",")
    ]
    if not parts or plain_word(parts[0]) in _NOT_PLACES:
        return ""
    last = max((i for i, part in enumerate(parts) if look_up(part)), default=None)
    if last is None:
        return parts[0]
    return ", ".join(parts[: last + 1])


def plain_word(text: str) -> str:
    return text.split(" ", maxsplit=1)[0].casefold()


def group(rows: Sequence[Row], born: Found) -> Found:
    """The group of origin; less sure where a country of settlers alone gives it, or against the birthplace."""
    place = look_up(born.value) if born.value else None
    votes: dict[Group, list[tuple[float, Row, str]]] = defaultdict(list)
    for row, sentence, found, weight in _origins(rows):
        if found.country not in MIXED:
            votes[found.group].append((weight, row, sentence))
    sums: dict[Group, float] = {one: sum(weight for weight, _, _ in said_so) for one, said_so in votes.items()}
    if place is not None and place.group in sums:
        sums[place.group] += 1.0
    if sums:
        best = max(sorted(sums), key=sums.__getitem__)
        if place is None or place.group == best or place.country in MIXED or sums[best] >= 1.0:
            weight, row, sentence = max(votes[best], key=lambda item: item[0])
            agrees = place is not None and place.group == best
            share = sums[best] / sum(sums.values())
            return Found(
                best, round(min(0.95 if agrees else 0.75, 0.55 + 0.2 * sums[best]) * share, 3), row.line, sentence
            )
    if place is None:
        return Found()
    sure = 0.45 if place.country in MIXED else 0.85
    return Found(place.group, round(sure * min(1.0, born.confidence + 0.1), 3), born.line, born.evidence)


def _origins(rows: Sequence[Row]) -> Iterator[tuple[Row, str, Place, float]]:
    """Adjectives that say where the person is from: ``Danish heritage``, ``the Chilean author``."""
    for row, sentence, _ in said(rows):
        if re.search(r"\b(?:characters?|protagonists?|contemporar\w+|like|collaborat\w+)\b", sentence):
            continue
        for match in _adjectives().finditer(sentence):
            found = origin(match[1])
            if found is not None:
                yield row, sentence, found, 0.6 if match[2] in _WRITERS else 1.0


@cache
def _adjectives() -> re.Pattern[str]:
    """An adjective (group 1) before one of the words that make it an origin (group 2)."""
    spelled = sorted((word for word, place in places().items() if place.kind == "adjective"), key=len, reverse=True)
    return re.compile(
        rf"(?i:\b({'|'.join(map(re.escape, spelled))}))\b(?:-born)? (?:[a-z-]+ (?:and )?)?({'|'.join(_ORIGIN)})\b"
    )
