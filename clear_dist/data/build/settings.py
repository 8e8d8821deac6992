"""Where a person may be photographed: sentences by topic, and the words by which a question is about that topic."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class Topic:
    """words: beginnings of words that speak for the topic. sentences: settings, fit for anybody."""

    name: str
    words: Sequence[str]
    sentences: Sequence[str]
    pattern: re.Pattern[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        words = "|".join(self.words)
        object.__setattr__(self, "pattern", re.compile(rf"\b(?:{words})", re.IGNORECASE))

    def hits(self, text: str) -> int:
        """How many different words of the text speak for the topic."""
        return len({found.lower() for found in self.pattern.findall(text)}) if self.words else 0


# Where two topics are equally likely the earlier one is meant: from the particular to the general.
TOPICS: Final = (
    Topic(
        "awards",
        ("award", "prize", "accolade", "medal", "honou?r", "recogni[sz]", "laureate", "bestow", "shortlist"),
        (
            "On a stage under warm lights, holding a small glass trophy.",
            "At a festive dinner table, with a medal on a ribbon.",
            "In front of a dark curtain, taking a framed certificate.",
            "At a lectern with a microphone, during a speech of thanks.",
            "In a large hall, while the audience behind applauds.",
        ),
    ),
    Topic(
        "screen",
        ("film", "movie", "televis", "adapt", "theatre", "theater", "screen", "stage", "documentar"),
        (
            "On a film set, beside a camera on a tripod.",
            "In the red seats of an empty cinema.",
            "Before the bright mirror of a dressing room.",
            "In a television studio, opposite an interviewer.",
            "On the wooden stage of a small theatre.",
        ),
    ),
    Topic(
        "teaching",
        ("teach", "universit", "student", "school", "educat", "lectur", "professor", "mentor", "workshop", "degree"),
        (
            "In a bright classroom, in front of a blackboard full of notes.",
            "In a lecture hall with rising rows of seats.",
            "At a round table with young students and open notebooks.",
            "On the steps of an old university building.",
            "In a quiet reading room, with a pile of papers.",
        ),
    ),
    Topic(
        "family",
        ("parent", "mother", "father", "family", "child", "upbring", "sibling", "brother", "sister", "grand"),
        (
            "At a kitchen table, with an open album of family pictures.",
            "In a living room with framed portraits on the wall.",
            "On the porch of an old wooden house, in evening light.",
            "In a garden with a swing that hangs from an apple tree.",
            "Beside a chest of drawers full of old letters and toys.",
        ),
    ),
    Topic(
        "birth",
        ("born", "birth", "gender", "full name", "age\\b", "identi"),
        (
            "Against a plain light wall, looking straight into the camera.",
            "By a window with soft daylight from one side.",
            "At a table with a birthday cake and a few candles.",
            "In a photographer's studio, before a grey backdrop.",
            "In a doorway, with one shoulder against the frame.",
        ),
    ),
    Topic(
        "travel",
        ("travel", "abroad", "journey", "international", "translat", "language", "foreign", "explor", "global", "tour"),
        (
            "On a railway platform, with a worn leather suitcase.",
            "On the deck of a ferry, with the sea behind.",
            "At a café table with a folded map and a cup of tea.",
            "On a mountain path, with a rucksack and a scarf.",
            "In the hall of an airport, before a tall window.",
            "In a crowded market, among stalls of fruit and cloth.",
        ),
    ),
    Topic(
        "city",
        ("city", "town", "countr", "capital", "birthplace", "cultur", "heritage", "communit", "local", "homeland"),
        (
            "In a narrow street with old houses and hanging laundry.",
            "On a bridge over a wide river, with a skyline behind.",
            "In a busy square, near a stone fountain.",
            "At a street corner in the rain, under an umbrella.",
            "On a rooftop above the city at sunset.",
            "Beside a painted wall in a lively part of town.",
        ),
    ),
    Topic(
        "nature",
        (
            "nature",
            "natural",
            "environment",
            "health",
            "geolog",
            "science",
            "scien",
            "medic",
            "garden",
            "sea\\b",
            "food",
        ),
        (
            "In a greenhouse, between tall green plants.",
            "On a beach of pale stones, with wind in the air.",
            "In a forest clearing, in the first light of the morning.",
            "At a workbench with stones, leaves and a magnifying glass.",
            "Beside a lake, on a bench with peeling paint.",
        ),
    ),
    Topic(
        "readers",
        (
            "reader",
            "fan\\b",
            "fans\\b",
            "audience",
            "critic",
            "recept",
            "popular",
            "review",
            "sales",
            "bestsell",
            "impact",
        ),
        (
            "In a bookshop, signing copies for a row of readers.",
            "On a podium at a book fair, with a microphone in one hand.",
            "In an armchair, talking to a small circle of listeners.",
            "At a café table, reading a newspaper.",
            "Between posters at the entrance of a reading.",
        ),
    ),
    Topic(
        "plans",
        ("upcoming", "future", "project", "plan", "collaborat", "next\\b", "currently", "forthcoming", "latest"),
        (
            "Before a wall of coloured notes and pinned sketches.",
            "At a meeting table, in conversation with an editor.",
            "On the way down a corridor, with a folder under one arm.",
            "At a window at dusk, thinking, with a notebook.",
            "In a video call, in front of an open laptop.",
        ),
    ),
    Topic(
        "books",
        (
            "book",
            "novel",
            "title",
            "series",
            "publish",
            "stor(?:y|ies)",
            "character",
            "plot",
            "poem",
            "poetry",
            "works\\b",
        ),
        (
            "In front of a tall shelf, with an open book in both hands.",
            "On a library ladder, between crowded shelves.",
            "In a deep armchair, beside a lamp and a tower of books.",
            "At a printing press, looking at fresh pages.",
            "At a stall of second-hand books by the river.",
            "At a desk where several novels lie open.",
        ),
    ),
    Topic(
        "writing",
        ("writ(?:e|es|ing)\\b", "style", "genre", "theme", "inspir", "influen", "process", "draft"),
        (
            "At a wooden desk, writing by hand in a notebook.",
            "At an old typewriter, with crumpled paper on the floor.",
            "In a study at night, lit by a desk lamp.",
            "In the corner of a café, with a laptop and a coffee.",
            "On a park bench, with a pencil and a small notebook.",
            "At a desk by an attic window, with rain outside.",
            "On a train, writing beside the window.",
        ),
    ),
    Topic(
        "everyday",
        (),
        (
            "On a walk through a park in autumn.",
            "At a breakfast table with bread and fruit.",
            "In a kitchen, with steam rising from a pot.",
            "On a sofa, with a cat asleep close by.",
            "At an outdoor café in the sun.",
            "On a bicycle beside a canal.",
        ),
    ),
)
