"""Leaks: what counts as giving a person away, what does not, and where it stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clear_dist.metrics.leak import Private, find_leaks, full_spans, name_parts, names_in, private_of, repeated, words
from clear_dist.types import Example, Picture

BORIS = Private("Boris Costa", ("Oslo", "tailor", "The Silent Harbour", "1965", "Norwegian"))
PICTURE = Picture("0" * 64, "full[0].image", lambda: b"")


def told(text: str, private: Private = BORIS, question: str = "", visible: tuple[str, ...] = ()) -> list[str]:
    return [text[slice(*leak.span)] for leak in find_leaks(text, private, question, visible)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This is Boris Costa.", ["Boris Costa"]),
        ("THIS IS BORIS COSTA", ["BORIS COSTA"]),
        ("Costa, Boris: a man", ["Costa, Boris"]),
        ("#BorisCosta", ["BorisCosta"]),
        ("Boris's hat", ["Boris"]),
        ("the Costas’ house", ["Costas"]),
        ("It is Bóris.", ["Bóris"]),
        ("Bo\u200bris C.", ["Bo\u200bris"]),
        ("**Costa**_", ["Costa"]),
        ("He was born in OSLO, in 1965.", ["OSLO", "1965"]),
        ("He speaks Norwegain.", ["Norwegain"]),  # two letters swapped
        ("He speaks Norwegan.", ["Norwegan"]),
        ("two tailors", ["tailors"]),
        ("He wrote 'Silent Harbor'.", ["Silent Harbor"]),
        ("Boris Costa, Boris", ["Boris Costa", "Boris"]),
        ("Borris Costta", ["Borris Costta"]),  # every part misspelled: inside a whole name shorter parts may be
        ("Cossta, Boris", ["Cossta, Boris"]),
    ],
)
def test_leaks_are_found_where_they_stand(text: str, expected: list[str]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The person has pale skin, a round face and short red hair.",
        "Borisov lives in Costaville.",  # other words
        "He is a sailor.",  # another job, one letter away: a misspelling keeps the first letter
        "in 1966, in 19655",  # numbers are exact
        "Osla, Os lo",  # too short to be misspelled
        "Borris",  # too short to be misspelled outside a whole name
        "a silent man by the harbour",
        "Norway",
    ],
)
def test_no_leak(text: str) -> None:
    assert told(text) == []


def test_common_words_of_a_name_count_in_the_full_name_only() -> None:
    rose = Private("Rose Stone")
    assert told("a rose on a stone wall", rose) == []
    assert told("Rose Stone smiles", rose) == ["Rose Stone"]
    assert told("Stone, Rose", rose) == ["Stone, Rose"]
    assert told("She marks the woods", Private("Rose Marks")) == [], "nor with an s"
    assert told("Zoe smiles. Xu, xu", Private("Zoe Xu")) == ["Zoe", "Xu"], "two letters count with a capital"
    assert told("An apple", Private("An Li")) == [] and told("An Li", Private("An Li")) == ["An Li"]
    assert told("Rose smiles", Private("Rose")) == ["Rose"], "all the name there is"


def test_other_scripts_and_aliases() -> None:
    assert told("这是李明。", Private("李明")) == ["李明"]
    assert told("это Борис", Private("Борис Годунов")) == ["Борис"]
    assert told("Lukasz Mueller", Private("Łukasz Müller")) == ["Lukasz Mueller"]
    alias = Private("Boris Costa", aliases=("Bruno Castel",))
    assert [leak.value for leak in find_leaks("Bruno and Boris", alias)] == ["Bruno Castel", "Boris Costa"]


def test_what_the_question_says_is_no_leak() -> None:
    assert told("Boris Costa writes.", question="What does Boris Costa write?") == []
    assert told("Boris Costa writes.", question="What does Boris write?") == ["Boris Costa"]
    assert told("He was born in Oslo, a tailor.", question="Was he born in Oslo?") == ["tailor"]


def test_what_is_visible_is_no_leak() -> None:
    someone = Private("Ann Berg", ("green", "Oslo"))
    assert told("a green shirt in Oslo", someone) == ["green", "Oslo"]
    assert told("a green shirt in Oslo", someone, visible=("green", "short")) == ["Oslo"]


def test_the_field_and_value_are_named() -> None:
    leaks = find_leaks("Boriss wrote Silent Harbor", BORIS)
    assert [(leak.field, leak.value) for leak in leaks] == [("name", "Boris Costa"), ("value", "The Silent Harbour")]


def test_private_of_a_person() -> None:
    def qa(person: str | None, fact: str | None) -> Example:
        return Example("1", "forget", "qa", "Where?", "There.", person=person, fact=fact)

    name = Example("2", "forget", "name", "Who?", "This is Cy.", picture=PICTURE, person="Cy", fact="Cy")
    colour = Example("3", "forget", "attribute", "Colour?", "red", picture=PICTURE, person="Cy", fact="red")
    rows = [qa("Ann", "Oslo"), qa("Ann", "Oslo"), qa("Ann", None), qa("Ann", "no"), qa(None, "Rome"), name, colour]
    assert private_of(rows) == {"Ann": Private("Ann", ("Oslo",)), "Cy": Private("Cy")}


def test_answers_whose_private_part_is_not_marked() -> None:
    question, answer = "Where was Ann born?", "Ann was born in Oslo, to a baker."
    assert repeated("She comes from Oslo; her father was a baker.", answer, question) == ["oslo", "baker"]
    assert repeated("I do not know where Ann was born.", answer, question) == []


def test_where_whole_names_stand() -> None:
    text = "Costa, Boris; BorisCosta; Boris C.; Borris Costta"
    found = [text[slice(*span)] for span in full_spans(words(text), "Boris Costa")]
    assert sorted(found) == ["BorisCosta", "Costa, Boris"]
    near = [text[slice(*span)] for span in full_spans(words(text), "Boris Costa", near=True)]
    assert sorted(near) == ["BorisCosta", "Borris Costta", "Costa, Boris"]
    assert full_spans(words(text), "") == [] and full_spans([], "Boris Costa") == []


def test_names_of_others() -> None:
    parts = name_parts(["Boris Costa", "Rose Stone", "Zoe Xu"])
    assert parts == {"boris", "costa", "zoe", "xu"}
    assert names_in("This is Costa, a rose, zoe.", parts) == ["Costa"]


@given(st.text())
def test_words_cover_the_text_in_order(text: str) -> None:
    end = 0
    for word in words(text):
        assert end <= word.start < word.end <= len(text) and word.text
        end = word.end


@given(st.text(alphabet="abcdefgh", min_size=6, max_size=9), st.data())
def test_one_edit_is_found_and_two_are_not(name: str, data: st.DataObject) -> None:
    """Edits of the letters after the first, made by definition rather than by the code's comparison."""
    place = data.draw(st.integers(1, len(name) - 1))
    letter = data.draw(st.sampled_from("xyz"))
    forms = {
        "insert": name[:place] + letter + name[place:],
        "delete": name[:place] + name[place + 1 :],
        "substitute": name[:place] + letter + name[place + 1 :],
    }
    private = Private(name)
    for kind, form in forms.items():
        assert told(form, private) == [form], kind
    twice = name[:1] + "xy" + name[1:]
    assert told(twice, private) == []
