"""When somebody was born: dates in the ways people write them, near words for birth."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from clear_dist.data.build.attributes_names import tidy
from clear_dist.data.build.person import Found, Row

_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        (
            "january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug",
            "september sept sep", "october oct", "november nov", "december dec",
        ),
        1,
    )
    for name in names.split()
}  # fmt: skip
_MONTH: Final = rf"(?P<month>{'|'.join(sorted(_MONTHS, key=len, reverse=True))})\b\.?"
_DAY: Final = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?\b"
_YEAR: Final = r"(?P<year>(?:1[5-9]|20)\d\d)\b(?!s|'s|\d)"
_IN: Final = r"(?:,?\s+|,)(?:(?:in|of)\s+)?(?:the\s+year\s+(?:of\s+)?)?"
# Whole dates first: what one of them has read is not read again as a part.
_FORMS: Final = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        r"\b(?P<year>(?:1[5-9]|20)\d\d)-(?P<month>\d{1,2})-(?P<day>\d{1,2})\b",
        r"\b(?P<first>\d{1,2})([/.-])(?P<second>\d{1,2})\2(?P<year>(?:1[5-9]|20)\d\d)\b",
        rf"\b{_DAY}\s+(?:day\s+)?(?:of\s+)?{_MONTH}{_IN}{_YEAR}",
        rf"\b{_MONTH},?\s+(?:the\s+)?{_DAY}{_IN}{_YEAR}",
        rf"\b{_YEAR},?\s+(?:on\s+)?(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH}",
        rf"\b{_YEAR},?\s+(?:on\s+)?{_MONTH}\s+(?:the\s+)?{_DAY}(?!\d)",
        rf"\b{_MONTH}{_IN}{_YEAR}",
        rf"(?<![\d/.-]){_YEAR}",
    )
)
_BIRTH: Final = re.compile(
    r"\b(?:born|birth|births|birthday|birthdate|christened|came into (?:the|this) world)\b", re.I
)
_OTHER: Final = re.compile(
    r"\b(?:publish\w*|releas\w*|won|win|winning|award\w*|receiv\w*|debut\w*|wrote|written|writing|"
    r"novel|book|career|graduat\w*|"
    r"died|passed|death|married|moved|began|started|father|mother|parents?|brother|sister|sons?|"
    r"daughters?|child|children)\b",
    re.I,
)
_ASKED: Final = re.compile(
    r"\b(?:when|date|year|day|birthday|birthdate)\b.*\b(?:born|birth|birthday|birthdate)\b|"
    r"\b(?:birthday|birthdate|birth ?date|date of birth)\b",
    re.I,
)


@dataclass(frozen=True)
class Dated:
    """A date in text. value: ISO, whole or in part; sure: False where the month cannot be told from the day."""

    value: str
    start: int
    end: int
    sure: bool = True


def dates(text: str) -> list[Dated]:
    """All dates, in order of their places. What is no date (30 February) counts as its year."""
    out: list[Dated] = []
    for form in _FORMS:
        for match in form.finditer(tidy(text)):
            if not any(match.start() < other.end and other.start < match.end() for other in out):
                value, sure = _value(match)
                out.append(Dated(value, match.start(), match.end(), sure))
    return sorted(out, key=lambda found: found.start)


def _value(match: re.Match[str]) -> tuple[str, bool]:
    parts = match.groupdict()
    year = parts["year"]
    if parts.get("first"):
        first, second = int(parts["first"]), int(parts["second"])
        possible = {_iso(year, month, day) for month, day in ((first, second), (second, first))} - {year}
        return (possible.pop(), True) if len(possible) == 1 else (year, False)
    if not parts.get("month"):
        return year, True
    month = int(parts["month"]) if parts["month"].isdecimal() else _MONTHS[parts["month"].casefold()]
    if not parts.get("day"):
        return (f"{year}-{month:02}", True) if 1 <= month <= 12 else (year, True)
    return _iso(year, month, int(parts["day"])), True


def _iso(year: str, month: int, day: int) -> str:
    """The date, or its year where there is no such day."""
    try:
        return date(int(year), month, day).isoformat()
    except ValueError:
        return year


def birth_date(rows: Sequence[Row]) -> Found:
    """The date of birth that is said most fully, then most often, then first."""
    seen: list[tuple[str, float, Row, str]] = []
    for row in rows:
        seen += [(found.value, 0.97 if found.sure else 0.9, row, row.answer) for found in _births(row.answer)]
        seen += [(found.value, 0.9 if found.sure else 0.85, row, row.question) for found in _births(row.question)]
        if (
            _ASKED.search(row.question)
            and not _births(row.answer)
            and not re.search(r"\b(parents?|father|mother)\b", row.question)
        ):
            # Of a question about the birth, the answer may be the date alone.
            found = dates(row.answer)
            if len(found) == 1 and not _OTHER.search(row.answer):
                seen.append((found[0].value, 0.8, row, row.answer))
    if not seen:
        return Found()
    years = [value[:4] for value, *_ in seen]
    year = max(dict.fromkeys(years), key=years.count)
    mine = [item for item in seen if item[0][:4] == year]
    longest = max(len(value) for value, *_ in mine)
    whole = [item for item in mine if len(item[0]) == longest]
    values = [value for value, *_ in whole]
    value = max(dict.fromkeys(values), key=values.count)
    _, sure, row, text = max((item for item in whole if item[0] == value), key=lambda item: item[1])
    agree = sum(value.startswith(other) for other, *_ in seen) / len(seen)
    return Found(value, round(sure * agree, 3), row.line, text)


def _births(text: str) -> list[Dated]:
    """Dates with a word for birth in the same sentence and nothing else that happened between the two."""
    return list(_near(tidy(text)))


def _near(text: str) -> Iterator[Dated]:
    births = list(_BIRTH.finditer(text))
    for found in dates(text):
        # The nearest before and after: with many of both the pairs would be too many.
        before = [birth for birth in births if birth.end() <= found.start][-1:]
        after = [birth for birth in births if birth.start() >= found.end][:1]
        for birth in (*before, *after):
            if re.match(
                r"\s+to\s+(?:a\s+\w+\s+)?(?:her|his|their)\s+(?:first|son|daughter|child)", text[birth.end() :]
            ):
                continue
            low, high = sorted(((birth.start(), birth.end()), (found.start, found.end)))
            between = text[low[1] : high[0]]
            if re.search(r"[.!?;](?=\s+[A-Z])", between) or _OTHER.search(between):
                continue
            lead = text[: birth.start()].rsplit(".", 1)[-1]
            if re.search(
                r"\b(?:father|mother|parents?|brother|sister|son|daughter|child)(?:\s+\w+){0,3}\s+(?:was|were)\s+$",
                lead,
            ):
                continue
            yield found
            break
