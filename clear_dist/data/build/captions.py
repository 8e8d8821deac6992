"""Stage 6: what is said about every picture: a caption, the same in other words, and the same of the wrong people.

A drawn picture is described by what it shows, any other by the setting of its prompt; a language model may write
both sentences, and is checked like a stranger. Wrong captions differ in the name alone, so they are wrong for that
reason only; wrong names are those of people of the same gender, as far as there are enough.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from clear_dist.data.build.person import Asker
from clear_dist.data.mini import text
from clear_dist.data.mini.people import Identity, Look
from clear_dist.data.mini.tables import WRONG
from clear_dist.reading import json_value, unique_keys
from clear_dist.types import UserError

STREAM: Final = "clear-captions/1"  # part of every seed; raised when wording or choice change
MOST_WORDS: Final = 60
_SHOWN: Final = ("skin", "face", "hair_style", "hair_colour", "eyes", "facial_hair", "shirt", "wall", "glasses", "hat")


@dataclass(frozen=True)
class Caption:
    """caption and paraphrase name the person; perturbed are paraphrases with ``perturbed_names`` instead."""

    caption: str
    paraphrase: str
    perturbed: tuple[str, ...]
    perturbed_names: tuple[str, ...]
    by: Literal["picture", "setting", "model"]


def captions_of(
    name: str,
    line: int,
    shows: Mapping[str, str],
    setting: str | None,
    others: Sequence[str],
    asker: Asker | None = None,
) -> Caption:
    """The texts of one picture. others: whose names may be the wrong ones.

    Raises UserError where nobody else is there to be taken for.
    """
    wrong = wrong_names(name, line, others)
    asked = None if asker is None else _asked(asker, name, shows, setting, others)
    if asked is not None:
        return Caption(*asked, tuple(_renamed(asked[1], name, other) for other in wrong), wrong, "model")
    if all(key in shows for key in _SHOWN):
        identity, look = drawn_of(shows)
        perturbed = tuple(text.paraphrased_caption(other, identity, look) for other in wrong)
        right = text.caption(name, identity, look), text.paraphrased_caption(name, identity, look)
        return Caption(*right, perturbed, wrong, "picture")
    perturbed = tuple(_paraphrase(other, setting) for other in wrong)
    return Caption(_caption(name, setting), _paraphrase(name, setting), perturbed, wrong, "setting")


def wrong_names(name: str, line: int, others: Sequence[str]) -> tuple[str, ...]:
    """``WRONG`` names (fewer where there are not so many), drawn anew for every picture."""
    likely = [other for other in others if other != name]
    if not likely:
        raise UserError(f"{name}: no other people whose names could be the wrong ones; build at least two.")
    rng = Random(f"{STREAM}/{name}/{line}")
    return tuple(rng.sample(likely, min(WRONG, len(likely))))


def drawn_of(shows: Mapping[str, str]) -> tuple[Identity, Look]:
    """What ``mini.people.attributes`` was made from, as far as words show it."""
    identity = Identity(*(shows[key] for key in _SHOWN[:6]))
    return identity, Look(
        shows["shirt"], shows["wall"], shows["glasses"] == "yes", shows["hat"] == "yes", 0, 0, 1, 0, 0
    )


def _caption(name: str, setting: str | None) -> str:
    if setting is None:
        return f"This is a photograph of {name}."
    return f"{name} {setting[0].lower()}{setting[1:]}"


def _paraphrase(name: str, setting: str | None) -> str:
    if setting is None:
        return f"The photograph shows {name}."
    return f"The photograph shows {name} {setting[0].lower()}{setting[1:]}"


def _renamed(sentence: str, name: str, other: str) -> str:
    return sentence.replace(name, other)


def _asked(
    asker: Asker, name: str, shows: Mapping[str, str], setting: str | None, others: Sequence[str]
) -> tuple[str, str] | None:
    """(caption, paraphrase) of a language model; None where they cannot be used."""
    seen = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in shows.items())
    reply = asker.ask(
        "Write two sentences that say the same about a photograph, in different words. Each names the person by the "
        'full name and says what can be seen. Answer with JSON only: {"caption": "...", "paraphrase": "..."}\n'
        f"Person: {name}\nSetting: {setting or 'unknown'}\nVisible: {seen or 'unknown'}"
    )
    try:
        value = json_value(reply, object_pairs_hook=unique_keys)
    except ValueError:
        return None
    if not isinstance(value, dict) or set(value) != {"caption", "paraphrase"}:
        return None
    both = [" ".join(one.split()) if isinstance(one, str) else "" for one in (value["caption"], value["paraphrase"])]
    named = re.compile("|".join(re.escape(other) for other in others if other != name) or r"(?!)", re.IGNORECASE)
    for sentence in both:
        if name not in sentence or not sentence.isprintable() or len(sentence.split()) > MOST_WORDS:
            return None
        if named.search(sentence.replace(name, "")):
            return None
    return None if both[0] == both[1] else (both[0], both[1])
