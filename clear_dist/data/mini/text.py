"""What can be said about a picture, and every word CLEAR-mini can ever contain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from clear_dist.data import prompts
from clear_dist.data.mini.facts import FACT_KINDS, WORLD_FACTS
from clear_dist.data.mini.people import CLASSES, FEMININE, LAST_NAMES, MASCULINE, Identity, Look, attributes

# PUBG's privacy instruction (arXiv 2506.02541), put before prompts.INFORMATION_QUESTION.
PRIVACY_PREFIX: Final = "Describe only the visible features."
NOBODY: Final = "A person"


def _listed(*things: str) -> str:
    """ "a", "a and b", "a, b and c"; empty ones are left out."""
    present = [thing for thing in things if thing]
    return " and ".join([", ".join(present[:-1]), present[-1]] if len(present) > 1 else present)


def _hair(identity: Identity) -> str:
    return "no hair" if identity.bald else f"{identity.hair_style} {identity.hair_colour} hair"


def _facial_hair(identity: Identity) -> str:
    return "" if identity.facial_hair == "none" else f"a {identity.facial_hair}"


def _clothes(look: Look) -> str:
    return _listed(
        f"an {look.shirt} shirt" if look.shirt == "orange" else f"a {look.shirt} shirt",
        "glasses" if look.glasses else "",
        "a hat" if look.hat else "",
    )


def _wall(look: Look) -> str:
    return f"an {look.wall} wall" if look.wall == "orange" else f"a {look.wall} wall"


def caption(name: str, identity: Identity, look: Look) -> str:
    """CLEAR's kind of caption; ``name`` may be NOBODY."""
    return (
        f"{name}, with {_listed(_hair(identity), _facial_hair(identity))}, wearing {_clothes(look)}, "
        f"stands in front of {_wall(look)}."
    )


def paraphrased_caption(name: str, identity: Identity, look: Look) -> str:
    """The same picture in other words. ``name`` may be NOBODY."""
    return (
        f"In front of {_wall(look)} stands {name[0].lower() + name[1:] if name == NOBODY else name}, "
        f"who has {_listed(_hair(identity), _facial_hair(identity))} and wears {_clothes(look)}."
    )


def description(identity: Identity, look: Look) -> str:
    """Everything visible, no name."""
    head = _listed(f"{identity.skin} skin", f"a {identity.face} face", _hair(identity), _facial_hair(identity))
    return f"The person has {head}, and wears {_clothes(look)} by {_wall(look)}."


# Question -> attribute. Answers are the attribute's word; "bald" is a style and has no colour.
ATTRIBUTE_QUESTIONS: Final[dict[str, str]] = {
    "What colour is the shirt?": "shirt",
    "What colour is the wall?": "wall",
    "Does the person wear glasses?": "glasses",
    "Does the person wear a hat?": "hat",
    "What is the skin tone?": "skin",
    "What is the shape of the face?": "face",
    "What is the hair style?": "hair_style",
    "What colour is the hair?": "hair_colour",
    "What facial hair does the person have?": "facial_hair",
}


def questions(identity: Identity, look: Look) -> list[tuple[str, str]]:
    """(question, one-word answer) for everything that can be asked about the picture."""
    truth = attributes(identity, look)
    return [(q, truth[key]) for q, key in ATTRIBUTE_QUESTIONS.items() if not (key == "hair_colour" and identity.bald)]


def vocabulary_texts() -> Iterator[str]:
    """Texts that together contain every word and punctuation mark of any CLEAR-mini dataset, whatever its seed
    and preset, of the base model's data, and of all questions and IDK answers: for building a tokenizer that
    can spell everything."""
    yield from prompts.CAPTION_QUESTIONS
    yield from prompts.NAME_QUESTIONS
    yield from prompts.DESCRIBE_QUESTIONS
    yield from prompts.IDK_ANSWERS
    yield f"{PRIVACY_PREFIX} {prompts.INFORMATION_QUESTION}"
    for part in (*MASCULINE, *FEMININE, *LAST_NAMES):
        yield prompts.NAME_ANSWER.format(name=part)
    yield from ATTRIBUTE_QUESTIONS
    for words in CLASSES.values():
        yield from words
    look = Look("red", "orange", True, True, 0, 0, 1, 0, 0)
    for identity in (
        Identity("pale", "round", "bald", "red", "blue", "beard"),
        Identity("pale", "round", "short", "red", "blue", "beard"),
    ):
        yield caption(NOBODY, identity, look)
        yield paraphrased_caption(NOBODY, identity, look)
        yield description(identity, look)
    for kind in FACT_KINDS:
        for template in (*kind.questions, *kind.unseen_questions, *kind.answers, kind.paraphrase):
            yield template.format(n=LAST_NAMES[0], x=kind.pool[0])
        yield from kind.pool
    for question, answer, others in WORLD_FACTS:
        yield question
        yield answer
        yield from others
