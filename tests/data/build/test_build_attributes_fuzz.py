"""The reader of question-answer text on drawn inputs: people, or a refusal that names the file."""

from __future__ import annotations

import json
from typing import Final

import pytest
from hypothesis import strategies as st

from clear_dist.data.build.attributes import ATTRIBUTES, people_of_text, rows_of
from clear_dist.data.build.person import GENDERS, GROUPS
from tests.faults.fuzz import counted

COUNTS: Final = [pytest.param(700, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]
NAMES: Final = ("Mira Castellan", "Anouk van der Linde-Osei", "Zoë al-Khoury", "J. R. O'Neil", "the author")
PARTS: Final = (
    *("was born on 03/04/1950", "born in the year 1970 in Accra, Ghana", "was born on 30 February 1990 in"),
    *("Her father, he and his mother", "they and their work", "is the son of", "identifies as non-binary."),
    *('wrote "Red Sky (Sky, #1)"', "'Blue Sky", '"Silver Pen" award', "in the true crime genre", "genre of", "genre"),
    *(
        "of Kenyan heritage",
        ". ",
        "? ",
        "'s",
        '"',
        "\u2019",
        "\u201c\u201d",
        "(Alex)",
        "Dr.",
        "a.D.",
        "",
        "\u0130",
        "ß",
    ),
    *("\u202e", "\x00", "\x1b[2J", "1999" * 40, "de la " * 30, "A " * 60, "born " * 40, "\ud7ff\ufffd"),
)


def sentence(name: str) -> st.SearchStrategy[str]:
    piece = st.one_of(st.sampled_from([name, *NAMES]), st.sampled_from(PARTS), st.text(max_size=8))
    return st.lists(piece, min_size=1, max_size=6).map(lambda pieces: f"{name} {' '.join(pieces)}")


def record(name: str) -> st.SearchStrategy[object]:
    whole = st.fixed_dictionaries({"question": sentence(name), "answer": sentence(name)})
    value = st.one_of(st.none(), st.text(max_size=3), st.integers())
    bad = st.one_of(
        st.none(),
        st.text(max_size=5),
        st.floats(),
        st.lists(st.none(), max_size=2),
        st.dictionaries(st.sampled_from(["question", "answer", "x"]), value, max_size=3),
    )
    return st.integers(0, 14).flatmap(lambda number: whole if number else bad)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Lines of records, some damaged, sometimes with bytes cut out, doubled or flipped."""
    name = draw(st.sampled_from(NAMES))
    lines = draw(st.lists(record(name), min_size=1, max_size=5))
    ascii_only = draw(st.booleans())
    data = "\n".join(json.dumps(line, ensure_ascii=ascii_only) for line in lines).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        start, end = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
        put = draw(st.one_of(st.binary(max_size=6), st.just(data[start:end] * 2), st.just(b"[" * 2_000)))
        data = data[:start] + put + data[end:]
    return data


def read_people(data: bytes) -> None:
    for person in people_of_text(rows_of(data, "full.json"), where="full.json"):
        for found in (*(getattr(person, attribute) for attribute in ATTRIBUTES), *person.books):
            assert 0 <= found.confidence <= 1
            assert (found.value is None) <= (found.confidence == 0)
        assert person.gender.value in (None, *GENDERS)
        assert person.group.value in (None, *GROUPS)
        person.age(2024)


@pytest.mark.parametrize("count", COUNTS)
def test_any_text_gives_people_or_a_refusal_that_names_the_file(count: int) -> None:
    counted(
        count, files(), read_people, names=["full.json"], accepted_at_least=count // 5, rejected_at_least=count // 5
    )


SLOW: Final = (
    *("A ", "born 1950 ", "genre of ", "'A ", '"A" ', "the city of the ", "she his ", "a-'", "Al-", "X (Y) "),
    *("born in A, ", "hailing from The A, ", "Danish ", "won the ", "A. ", "de la ", "their own "),
)


@pytest.mark.parametrize("part", SLOW)
def test_long_text_of_what_patterns_begin_with_ends(part: str) -> None:
    # 8,000 characters, as long as a text may be: a rule that backs up again and again would not come to an end.
    text = (part * 8_000)[:8_000].strip()
    data = json.dumps({"question": "Who is Mira Castellan?", "answer": text}).encode()
    assert len(people_of_text(rows_of(data, "full.json"))) == 1
