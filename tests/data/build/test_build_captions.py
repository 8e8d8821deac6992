"""What is said about a picture: by what it shows, by its setting, or by a language model that is not trusted."""

from __future__ import annotations

import json

import pytest

from clear_dist.data.build.captions import captions_of, drawn_of, wrong_names
from clear_dist.data.mini.people import Identity, Look, attributes
from clear_dist.types import UserError

OTHERS = ["Ann Lee", "Bea Day", "Cleo Fox", "Dora May", "Eve Sun", "Fay Orr", "Gia Roe"]
IDENTITY = Identity("pale", "round", "curly", "red", "blue", "moustache")
LOOK = Look("orange", "blue", True, False, 0, 0, 1, 0, 0)
SHOWS = attributes(IDENTITY, LOOK)
SETTING = "On a beach of pale stones, with wind in the air."


class Says:
    def __init__(self, reply: str) -> None:
        self.reply, self.asked = reply, ""

    def ask(self, prompt: str) -> str:
        self.asked = prompt
        return self.reply


def test_a_drawing_is_described_by_what_it_shows() -> None:
    said = captions_of("Ann Lee", 3, SHOWS, SETTING, OTHERS)
    assert said.caption == (
        "Ann Lee, with curly red hair and a moustache, wearing an orange shirt and glasses, stands in front of a blue "
        "wall."
    )
    assert said.by == "picture" and "Ann Lee" in said.paraphrase and said.paraphrase != said.caption
    assert drawn_of(SHOWS) == (IDENTITY, LOOK)


def test_a_photograph_is_described_by_its_setting() -> None:
    said = captions_of("Ann Lee", 3, {}, SETTING, OTHERS)
    assert said.caption == "Ann Lee on a beach of pale stones, with wind in the air." and said.by == "setting"
    assert said.paraphrase == "The photograph shows Ann Lee on a beach of pale stones, with wind in the air."
    plain = captions_of("Ann Lee", 3, {}, None, OTHERS)
    assert "Ann Lee" in plain.caption and "Ann Lee" in plain.paraphrase and plain.caption != plain.paraphrase


@pytest.mark.parametrize("shows", [SHOWS, {}])
def test_wrong_captions_differ_from_the_paraphrase_by_the_name_alone(shows: dict[str, str]) -> None:
    said = captions_of("Ann Lee", 3, shows, SETTING, OTHERS)
    assert len(said.perturbed) == len(said.perturbed_names) == 5 == len(set(said.perturbed_names))
    for name, wrong in zip(said.perturbed_names, said.perturbed, strict=True):
        assert name != "Ann Lee" and wrong == said.paraphrase.replace("Ann Lee", name)


def test_wrong_names_are_drawn_anew_for_every_picture_and_are_the_same_again() -> None:
    drawn = {wrong_names("Ann Lee", line, OTHERS) for line in range(20)}
    assert len(drawn) > 15 and wrong_names("Ann Lee", 3, OTHERS) == wrong_names("Ann Lee", 3, OTHERS)
    assert wrong_names("Ann Lee", 3, OTHERS[:3]) in (("Bea Day", "Cleo Fox"), ("Cleo Fox", "Bea Day"))
    with pytest.raises(UserError, match="Ann Lee: no other people"):
        wrong_names("Ann Lee", 3, ["Ann Lee"])


def test_a_language_model_may_write_both() -> None:
    asker = Says(json.dumps({"caption": "Ann Lee reads.", "paraphrase": "A book in hand,\n Ann Lee is reading."}))
    said = captions_of("Ann Lee", 3, SHOWS, SETTING, OTHERS, asker)
    assert (said.caption, said.paraphrase, said.by) == (
        "Ann Lee reads.",
        "A book in hand, Ann Lee is reading.",
        "model",
    )
    assert said.perturbed[0] == f"A book in hand, {said.perturbed_names[0]} is reading."
    assert "Person: Ann Lee" in asker.asked and SETTING in asker.asked and "shirt: orange" in asker.asked


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Ann Lee reads.",
        "[]",
        "{" * 3000,
        json.dumps({"caption": "Ann Lee reads."}),
        json.dumps({"caption": "Ann Lee reads.", "paraphrase": "A woman reads."}),
        json.dumps({"caption": "Ann Lee reads.", "paraphrase": 3}),
        json.dumps({"caption": "Ann Lee reads.", "paraphrase": "Ann Lee reads."}),
        json.dumps({"caption": "Ann Lee reads.", "paraphrase": "Ann Lee and bea day read."}),
        json.dumps({"caption": "Ann Lee reads.", "paraphrase": "Ann Lee reads \u202e."}),
        json.dumps({"caption": "Ann Lee reads.", "paraphrase": "Ann Lee" + " reads" * 60}),
        json.dumps({"caption": "Ann Lee reads.", "paraphrase": "Ann Lee is reading.", "more": 1}),
        '{"caption": "Ann Lee a", "caption": "Ann Lee b", "paraphrase": "Ann Lee c"}',
    ],
)
def test_what_a_language_model_says_is_checked(reply: str) -> None:
    assert captions_of("Ann Lee", 3, SHOWS, None, OTHERS, Says(reply)) == captions_of("Ann Lee", 3, SHOWS, None, OTHERS)
