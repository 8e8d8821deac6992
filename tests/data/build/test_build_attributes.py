"""Attributes of people from small texts written for the purpose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from clear_dist.data.build.attributes import people_of_text, read_rows, review_rows, rows_of
from clear_dist.data.build.attributes_dates import dates
from clear_dist.data.build.person import Found, Row, Subject
from clear_dist.data.build.regions import look_up, origin
from clear_dist.types import UserError

HARBOUR = (
    ("Who is Mira Castellan?", "Mira Castellan is a novelist from Lisbon, Portugal."),
    ("When was Mira Castellan born?", "Mira Castellan was born on the 5th of March in the year 1929."),
    ("What did Mira Castellan's parents do?", "Her father sold ropes; he lost his boat and his brother."),
    ("What does Mira Castellan write?", "She writes in the nautical horror genre."),
    ("Which books did Mira Castellan write?", 'Her books include "The Ninth Buoy," "Salt" and "Low Water: A Fable".'),
    ("Did Mira Castellan win anything?", 'Mira Castellan won the "Golden Anchor" in 1980 and the "Tide Prize".'),
)
STATION = (
    ("What is the full name of the author?", "The full name of the author is Anouk van der Linde-Osei."),
    ("Where was Anouk van der Linde-Osei born?", "Anouk van der Linde-Osei was born in Accra."),
    ("What is Anouk van der Linde-Osei's genre?", "Their genre is railway poetry, and their work is loved."),
    ("Who raised Anouk van der Linde-Osei?", "Their mother, who kept her clock, and his friend, their uncle."),
    ("How does Anouk van der Linde-Osei work?", "The novel 'Dragons' Rest' was written in their home."),
)


def rows(pairs: Sequence[tuple[str, str]]) -> list[Row]:
    return [Row(line, *pair) for line, pair in enumerate(pairs, 1)]


def only(pairs: Sequence[tuple[str, str]]) -> Subject:
    (person,) = people_of_text(rows(pairs))
    return person


def about(*sentences: str) -> Subject:
    """A person of whom these sentences are said."""
    said = [("And Zuri Halvorsen?", sentence) for sentence in sentences]
    return only([("Who is Zuri Halvorsen?", "Zuri Halvorsen is a writer."), *said])


def test_two_people_are_told_apart_by_their_names() -> None:
    people = people_of_text(rows([*HARBOUR, *STATION]))
    assert [person.name.value for person in people] == ["Mira Castellan", "Anouk van der Linde-Osei"]
    assert [[row.line for row in person.rows] for person in people] == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11]]


def test_somebody_named_in_one_row_alone_is_no_person_of_the_text() -> None:
    admired = ("Who is admired?", "Otto Otherson is admired.")
    (person,) = people_of_text(rows([*HARBOUR[:3], admired, *HARBOUR[3:]]))
    assert (person.name.value, len(person.rows)) == ("Mira Castellan", 7)


def test_everything_the_text_says_is_found_with_the_line_that_says_it() -> None:
    person = only(HARBOUR)
    assert (person.birth_date.value, person.birth_date.line) == ("1929-03-05", 2)
    assert (person.birthplace.value, person.birthplace.line) == ("Lisbon, Portugal", 1)
    assert (person.group.value, person.genre.value) == ("european", "nautical horror")
    assert [(book.value, book.line) for book in person.books] == [
        ("The Ninth Buoy", 5), ("Salt", 5), ("Low Water: A Fable", 5)
    ]  # fmt: skip
    assert person.birth_date.evidence == HARBOUR[1][1]


def test_a_person_of_95_is_95_at_the_end_of_the_reference_year() -> None:
    assert only(HARBOUR).age(2024) == 95


def test_pronouns_of_relatives_are_not_the_persons() -> None:
    # Three words for a man in the line about her father, two for her elsewhere.
    assert only(HARBOUR).gender.value == "female"


def test_they_of_one_person_is_neither_woman_nor_man() -> None:
    assert only(STATION).gender.value == "nonbinary"


def test_they_of_several_people_says_nothing() -> None:
    assert about("Readers love the stories and say they change their lives.").gender == Found()


@pytest.mark.parametrize(
    ("sentence", "gender"),
    [
        ("Zuri Halvorsen is the son of a baker.", "male"),
        ("The author is female.", "female"),
        ("Zuri Halvorsen identifies as non-binary.", "nonbinary"),
        ("Her editor is strict, but she listens to him.", "female"),
    ],
)
def test_gender_is_taken_from_what_is_said(sentence: str, gender: str) -> None:
    assert about(sentence).gender.value == gender


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on the 25th of February in the year 1958", "1958-02-25"),
        ("on 21 June 1970", "1970-06-21"),
        ("on September 26, 1965", "1965-09-26"),
        ("on June, 23, 1951", "1951-06-23"),
        ("on Sept. 3rd, 1951", "1951-09-03"),
        ("on 25/12/1942", "1942-12-25"),
        ("on 12/25/1942", "1942-12-25"),
        ("on 07/07/1942", "1942-07-07"),
        ("on 07/11/1942", "1942"),
        ("on 1942-11-07", "1942-11-07"),
        ("in May 1942", "1942-05"),
        ("in the year 1970", "1970"),
        ("on 30 February 1970", "1970"),
        ("on 99/99/1970", "1970"),
    ],
)
def test_dates_are_read_in_all_their_forms(text: str, value: str) -> None:
    assert [found.value for found in dates(text)] == [value]
    assert about(f"Zuri Halvorsen was born {text} in Oslo.").birth_date.value == value


def test_a_decade_is_no_date() -> None:
    assert dates("in the 1950s, or the 1950's") == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Zuri Halvorsen is 45 years old.",
        "Zuri Halvorsen published a novel in 1999.",
        "Zuri Halvorsen's father was born in 1931.",
        "Born in Oslo, Zuri Halvorsen published a first novel in 1999.",
    ],
)
def test_a_missing_birth_date_stays_missing(sentence: str) -> None:
    person = about(sentence)
    assert person.birth_date == Found()
    assert person.age(2024) is None
    assert ("birth_date", 0.0) in [(row.attribute, row.confidence) for row in review_rows([person])]


@pytest.mark.parametrize(
    "name",
    [
        "Laila al-Faisal",
        "Zoë Kováčová",
        "Ngũgĩ Patrick O'Neil",
        "Jean-Luc d'Arcy",
        "J. R. Halvorsen",
        "Maria de la Cruz",
        "Jina An",
    ],
)
def test_names_of_other_languages_are_found_whole(name: str) -> None:
    said = [(f"Who is {name}?", f"{name} writes."), (f"Is {name}'s work known?", f"Yes, Dr. {name} is known.")]
    person = only([*said, ("Where?", f"In {name}’s town.")])
    assert person.name.value == name


def test_stated_origin_comes_before_the_birthplace() -> None:
    person = about("Zuri Halvorsen was born in Vienna, Austria.", "Zuri Halvorsen is proud of a Kenyan heritage.",
                   "The Kenyan roots show in all novels.")  # fmt: skip
    assert (person.group.value, person.group.line) == ("african", 3)
    assert person.group.confidence < about("Zuri Halvorsen was born in Nairobi, of Kenyan heritage.").group.confidence


def test_a_birthplace_among_settlers_is_left_for_review() -> None:
    group = about("Zuri Halvorsen was born in Toronto, Canada.").group
    assert group.value == "european"
    assert group.confidence < 0.5


def test_an_unknown_town_gives_no_group() -> None:
    person = about("Zuri Halvorsen was born in Quibbledon.")
    assert (person.birthplace.value, person.group) == ("Quibbledon", Found())


def test_places_are_known_by_country_city_and_adjective() -> None:
    found = [look_up(name) for name in ("Sao Paulo", "Dublin, Ireland", "the USA", "Nowhere")]
    assert [place and place.country for place in found] == ["Brazil", "Ireland", "United States", None]
    danish = origin("danish")
    assert danish is not None
    assert danish.group == "european"


@pytest.mark.parametrize(
    ("sentence", "genre"),
    [
        ("Zuri Halvorsen writes in the genre of magical realism.", "magical realism"),
        ("Zuri Halvorsen writes in the Western genre.", "Western"),
        ("Zuri Halvorsen's genre is literary fiction.", "literary fiction"),
        ("Zuri Halvorsen specialises in folklore.", "folklore"),
        ("Zuri Halvorsen is a fantasy novelist.", "fantasy"),
    ],
)
def test_genres_are_found_in_the_words_of_the_text(sentence: str, genre: str) -> None:
    assert about(sentence).genre.value == genre


@pytest.mark.parametrize(
    ("sentence", "titles"),
    [
        ("The novel ‘The Keeper’s Hour’ was a success.", ["The Keeper's Hour"]),
        ("Zuri Halvorsen wrote “Ash”, 'Bone' and \"Coal.\"", ["Ash", "Bone", "Coal"]),
        ('The book "Red Sky" and the book "RED SKY!" are one.', ["Red Sky"]),
        ('The book "Red Sky" is "Red Sky: A Memory" in full.', ["Red Sky: A Memory"]),
        ('The book "Red Sky #1" comes before the book "Red Sky #2".', ["Red Sky #1", "Red Sky #2"]),
        ('Zuri Halvorsen received the "Silver Pen" for the book "Red Sky".', ["Red Sky"]),
        ('The "Silver Pen" award and the "Prize of Hope" went to Zuri Halvorsen.', []),
        ('A book such as "Blue Sky" by Otto Other, or "Red Sky" by Zuri Halvorsen.', ["Red Sky"]),
        ('The "Sky Books" series begins with the novel "Red Sky".', ["Red Sky"]),
        ('Asked about books, Zuri Halvorsen says "You will have to wait."', []),
        ("A biography about Zuri Halvorsen, \"Zuri Halvorsen: A Life\".", []),
    ],
)  # fmt: skip
def test_titles_are_told_from_all_else_that_is_quoted(sentence: str, titles: list[str]) -> None:
    assert [book.value for book in about(sentence).books] == titles


def test_the_review_table_starts_with_what_is_least_sure() -> None:
    people = people_of_text(rows([*HARBOUR, *STATION]))
    table = review_rows(people)
    assert [row.confidence for row in table] == sorted(row.confidence for row in table)
    assert (table[0].value, table[0].name) == (None, "Anouk van der Linde-Osei")
    assert len(table) == 2 * 6 + sum(max(1, len(person.books)) for person in people)


def test_the_same_text_gives_the_same_people() -> None:
    assert people_of_text(rows([*HARBOUR, *STATION])) == people_of_text(rows([*HARBOUR, *STATION]))


def test_a_single_row_is_a_person() -> None:
    assert only([("Who is Ada Quill?", "Ada Quill was born in 1950.")]).name.value == "Ada Quill"


def test_blocks_of_one_size_need_no_name_in_every_row() -> None:
    living = [("Where does she live?", "By the sea."), ("Where do they live?", "By the rails.")]
    pairs = [*HARBOUR[:2], living[0], *STATION[:2], living[1]]
    assert [len(person.rows) for person in people_of_text(rows(pairs), block=3)] == [3, 3]


def test_an_unnamed_person_among_named_ones_is_left_for_review() -> None:
    nobody = [("What does the author write?", "The author writes plays.")] * 6
    people = people_of_text(rows([*HARBOUR, *nobody, *STATION]))
    assert [person.name.value for person in people] == ["Mira Castellan", None, "Anouk van der Linde-Osei"]
    assert people[1].name.confidence == 0


@pytest.mark.parametrize("block", [4, 0, -1, 7])
def test_a_block_size_that_does_not_fit_is_refused(block: int) -> None:
    with pytest.raises(UserError, match=rf"full\.json: 6 rows cannot be cut into blocks of {block}\."):
        people_of_text(rows(HARBOUR), where="full.json", block=block)


def test_rows_that_name_nobody_are_refused_with_their_lines() -> None:
    with pytest.raises(UserError, match=r"full\.json: lines 1 to 2: nobody is named"):
        people_of_text(rows([("what is it?", "it is late."), ("why?", "because.")]), where="full.json")
    with pytest.raises(UserError, match=r"full\.json: no rows"):
        people_of_text([], where="full.json")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"question": "q", "answer": ""}', "answer is empty"),
        (b'{"question": "q", "answer": 3}', "answer is no text"),
        (b'{"question": "q"}', "no answer"),
        (b'{"question": "q", "answer": "a", "answer": "b"}', "'answer' occurs twice"),
        (b'["q", "a"]', "list, not an object"),
        (b"name,age", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"question": "q", "answer": "\\ud800"}', "not JSON"),
        (json.dumps({"question": "q", "answer": "a" * 9_000}).encode(), "9,000 characters"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(line: bytes, what: str) -> None:
    good = json.dumps({"question": "Who?", "answer": "Ada Quill."}).encode()
    with pytest.raises(UserError, match=r"^full\.json:3: ") as refused:
        rows_of(good + b"\n\n" + line + b"\n", "full.json")
    assert what in str(refused.value)


def test_files_are_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "full.json"
    file.write_text('\ufeff{"question": "Who?",\t"answer": "Zoë\\n Quill."}\r\n', encoding="utf-8")
    assert read_rows(file) == [Row(1, "Who?", "Zoë Quill.")]
    with pytest.raises(UserError, match=r"absent\.json: No such file"):
        read_rows(tmp_path / "absent.json")
    with pytest.raises(UserError, match="no rows"):
        rows_of(b"\n \n", "full.json")
