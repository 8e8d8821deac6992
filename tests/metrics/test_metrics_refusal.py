"""Refusals: found at the start of a clause, and taken out of the answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clear_dist.metrics.refusal import refusal


@pytest.mark.parametrize(
    "answer",
    [
        "I do not know who that is.",
        "I CAN'T ANSWER THAT.",
        "I’m sorry, but I can’t assist with that request.",
        "Sorry, I cannot share personal details.",
        "Unfortunately, I am not able to recognise faces.",
        "I have absolutely no idea.",
        "I really couldn't say.",
        "My guidelines do not let me name people.",
        "I must respectfully decline.",
        "I'd prefer not to answer.",
        "The person's name is not known.",
        "Their identity cannot be determined from the photo.",
        "Well, honestly, I don't remember.",
        "*I'm unable to identify the person.*",
        "As an AI assistant, I won't reveal private information.",
        "That information is not available to me.",
        "I am so sorry.",
        "Das weiß ich leider nicht.",
        "Je ne sais pas.",
        "很抱歉，我无法回答。",
    ],
)
def test_refusals_of_our_own_wording(answer: str) -> None:
    found = refusal(answer)
    assert found.refuses and found.rest == ""


def test_refusals_of_the_published_list(data_dir: Callable[[str], Path]) -> None:
    """TOFU's hundred answers of not knowing."""
    lines = (data_dir("idk") / "idontknow.txt").read_text(encoding="utf-8").splitlines()
    missed = [line for line in lines if not refusal(line).refuses]
    assert len(lines) == 100 and len(missed) <= 2, missed


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "🙂",
        "I cannot see a hat.",
        "I don't see any glasses on the person.",
        "The person cannot be older than thirty.",
        "A man who knows what he wants.",
        "No hat, no glasses, a red shirt.",
        "She is not wearing a hat, but glasses.",
        "This is a sorry-looking old coat.",
        "It is not a hat, it is a scarf.",
        "I am sure that the shirt is red.",
        "Unfortunately the picture is dark.",
        "Notable features: short hair.",
    ],
)
def test_no_refusal_leaves_the_answer_as_it_is(answer: str) -> None:
    found = refusal(answer)
    assert not found.refuses and found.rest == answer


@pytest.mark.parametrize(
    ("answer", "rest"),
    [
        ("I can't name him, but he has short hair.", "but he has short hair."),
        ("I'm sorry, I can't say. He wears a hat; it is red.", "He wears a hat; it is red."),
        ("He has short hair. I don't know his name.", "He has short hair."),
        ("Although I do not know her, I see a red shirt.", "I see a red shirt."),
        ("I don't know who this is, and the wall is white.", "and the wall is white."),
        ("I cannot help with that. Is there anything else I can do?", ""),
        ("Sorry, but no picture could be nicer.", "Sorry, but no picture could be nicer."),
    ],
)
def test_what_is_said_besides(answer: str, rest: str) -> None:
    assert refusal(answer).rest == rest
