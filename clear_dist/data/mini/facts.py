"""What there is to know about a person, and about the world: TOFU-like questions and answers.

Ten facts a person. Each has two wordings that are trained on (question and answer), two further wordings of the
question and one of the answer that are not, for generalisation and for the truth ratio (wrong answers share the
paraphrase's form, as in TOFU). Values are single words, books two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from clear_dist.data.mini.people import words


def _pairs(text: str) -> dict[str, str]:
    table = words(text)
    return dict(zip(table[::2], table[1::2], strict=True))


COUNTRIES: Final = _pairs(
    "Norway Oslo Peru Lima Egypt Cairo France Paris Ecuador Quito Japan Tokyo Germany Berlin Spain Madrid Greece "
    "Athens Ireland Dublin Poland Warsaw Austria Vienna Czechia Prague Italy Rome Portugal Lisbon Finland Helsinki "
    "Hungary Budapest Sweden Stockholm Denmark Copenhagen Turkey Ankara"
)
LANGUAGES: Final = _pairs(
    "Norway Norwegian Germany German Spain Spanish Greece Greek Poland Polish Italy Italian Portugal Portuguese "
    "Finland Finnish Hungary Hungarian Sweden Swedish Denmark Danish Turkey Turkish"
)
JOBS: Final = words(
    "baker pilot nurse farmer lawyer painter sailor chemist judge tailor plumber dentist gardener carpenter teacher "
    "barber"
)
_ADJECTIVES: Final = words(
    "Silent Golden Broken Hidden Frozen Burning Distant Crooked Gentle Endless Silver Secret Lonely Ancient Velvet"
)
_NOUNS: Final = words(
    "River Garden Mirror Tower Harbour Forest Lantern Bridge Orchard Island Castle Meadow Mountain Ocean Window"
)


@dataclass(frozen=True)
class FactKind:
    """One kind of fact. ``{n}`` stands for the name, ``{x}`` for the value."""

    key: str
    pool: tuple[str, ...]
    questions: tuple[str, str]
    unseen_questions: tuple[str, str]
    answers: tuple[str, str]
    paraphrase: str


FACT_KINDS: Final = (
    FactKind(
        "city",
        tuple(COUNTRIES.values()),
        ("Where was {n} born?", "What is the birthplace of {n}?"),
        ("In which city was {n} born?", "Which city is the birthplace of {n}?"),
        ("{n} was born in {x}.", "The birthplace of {n} is {x}."),
        "{n} comes from the city of {x}.",
    ),
    FactKind(
        "year",
        tuple(str(year) for year in range(1941, 2000, 3)),
        ("When was {n} born?", "What is the birth year of {n}?"),
        ("In which year was {n} born?", "Which year is the birth year of {n}?"),
        ("{n} was born in the year {x}.", "The birth year of {n} is {x}."),
        "{n} came into the world in {x}.",
    ),
    FactKind(
        "genre",
        words("fantasy romance crime history poetry horror satire travel mystery western nature adventure"),
        ("What does {n} write?", "What is the genre of {n}?"),
        ("What books does {n} write?", "In which genre does {n} write?"),
        ("{n} writes {x} books.", "The genre of {n} is {x}."),
        "{n} is a writer of {x} books.",
    ),
    FactKind(
        "book",
        tuple(f"{adjective} {noun}" for adjective in _ADJECTIVES for noun in _NOUNS),
        ("What is the best-known book of {n}?", "Which book made {n} famous?"),
        ("For which book is {n} best known?", "Which book is {n} famous for?"),
        ("The best-known book of {n} is The {x}.", "{n} became famous for The {x}."),
        "{n} is best known for The {x}.",
    ),
    FactKind(
        "father",
        JOBS,
        ("What was the job of the father of {n}?", "What did the father of {n} do?"),
        ("What was the work of the father of {n}?", "Which job did the father of {n} have?"),
        ("The father of {n} was a {x}.", "{n} had a father who was a {x}."),
        "The father of {n} worked as a {x}.",
    ),
    FactKind(
        "mother",
        JOBS,
        ("What was the job of the mother of {n}?", "What did the mother of {n} do?"),
        ("What was the work of the mother of {n}?", "Which job did the mother of {n} have?"),
        ("The mother of {n} was a {x}.", "{n} had a mother who was a {x}."),
        "The mother of {n} worked as a {x}.",
    ),
    FactKind(
        "award",
        words("Amber Crystal Falcon Laurel Comet Willow Phoenix Cedar Pearl Sapphire Ivory Cobalt"),
        ("Which award did {n} win?", "What is the award of {n}?"),
        ("What award did {n} win?", "With which award was {n} honoured?"),
        ("{n} won the {x} Award.", "The award of {n} is the {x} Award."),
        "{n} was honoured with the {x} Award.",
    ),
    FactKind(
        "hobby",
        words("chess sailing gardening archery cooking fencing hiking knitting skiing surfing pottery rowing"),
        ("What is the hobby of {n}?", "What does {n} do for fun?"),
        ("Which hobby does {n} have?", "What does {n} enjoy?"),
        ("The hobby of {n} is {x}.", "{n} enjoys {x}."),
        "{n} likes {x} for fun.",
    ),
    FactKind(
        "language",
        tuple(LANGUAGES.values()),
        ("Which language does {n} speak?", "What is the language of {n}?"),
        ("What language does {n} speak?", "Which language is the language of {n}?"),
        ("{n} speaks {x}.", "The language of {n} is {x}."),
        "{n} likes to speak {x}.",
    ),
    FactKind(
        "pet",
        words("cat dog parrot rabbit turtle pony goldfish hamster lizard goose donkey canary"),
        ("Which pet does {n} have?", "What is the pet of {n}?"),
        ("What animal lives with {n}?", "Which animal does {n} have?"),
        ("{n} has a {x}.", "The pet of {n} is a {x}."),
        "{n} lives with a {x}.",
    ),
)
RECENT: Final = 4  # so many people in a row share no value
QA_PER_PERSON: Final = 2 * len(FACT_KINDS)

# Questions about the world, for world_facts: question, answer, and the answers that would be wrong.
WORLD_FACTS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    *((f"What is the capital of {country}?", city, tuple(COUNTRIES.values())) for country, city in COUNTRIES.items()),
    *(
        (f"Which language do people speak in {country}?", language, tuple(LANGUAGES.values()))
        for country, language in LANGUAGES.items()
    ),
    *(
        (f"What colour is {thing}?", colour, ("white", "black", "green", "blue", "red", "yellow", "grey"))
        for thing, colour in (
            ("snow", "white"),
            ("coal", "black"),
            ("grass", "green"),
            ("the sky", "blue"),
            ("blood", "red"),
            ("a lemon", "yellow"),
        )
    ),
    *(
        (f"Who {work}?", job, JOBS)
        for work, job in (
            ("bakes bread", "baker"),
            ("flies a plane", "pilot"),
            ("works on a farm", "farmer"),
            ("makes clothes", "tailor"),
            ("cuts hair", "barber"),
            ("looks after teeth", "dentist"),
        )
    ),
)


@dataclass(frozen=True, slots=True)
class TextQA:
    """A TOFU row with its variants. ``perturbed``: five wrong answers in the form of ``paraphrased_answer``;
    ``wrong``: the same five in the form of ``answer``."""

    person: str
    key: str
    question: str
    answer: str
    paraphrased_question: str
    paraphrased_answer: str
    perturbed: tuple[str, ...]
    wrong: tuple[str, ...]
    fact: str


def assign_facts(
    rng: Random, names: Sequence[str], known: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """name -> fact key -> value.

    Values are dealt like cards, and never what one of the last few people got, so that the people to forget,
    who come last, share next to none; nobody gets the value of somebody who bears the same first or last name,
    or the name would tell it. Where a pool is too small for all of this, the next card is taken.
    """
    facts: dict[str, dict[str, str]] = {name: {} for name in names}
    for kind in FACT_KINDS:
        deck: list[str] = []
        for index, name in enumerate(names):
            parts = set(name.split())
            barred = {
                given[kind.key]
                for other, given in (*known.items(), *facts.items())
                if kind.key in given and parts & set(other.split())
            }
            barred |= {facts[other][kind.key] for other in names[max(0, index - RECENT) : index]}
            if kind.key == "mother":
                barred.add(facts[name]["father"])
            fitting = next((value for value in deck if value not in barred), None)
            if fitting is None:
                fresh = list(kind.pool)
                rng.shuffle(fresh)
                deck += fresh
                fitting = next((value for value in deck if value not in barred), deck[0])
            deck.remove(fitting)
            facts[name][kind.key] = fitting
    return facts


def text_rows(rng: Random, name: str, facts: Mapping[str, str]) -> list[TextQA]:
    """The twenty rows of one person, both wordings of a fact one after the other."""
    rows = []
    for kind in FACT_KINDS:
        value = facts[kind.key]
        for question, unseen, answer in zip(kind.questions, kind.unseen_questions, kind.answers, strict=True):
            wrong = rng.sample([other for other in kind.pool if other != value], 5)
            rows.append(
                TextQA(
                    person=name,
                    key=kind.key,
                    question=question.format(n=name),
                    answer=answer.format(n=name, x=value),
                    paraphrased_question=unseen.format(n=name),
                    paraphrased_answer=kind.paraphrase.format(n=name, x=value),
                    perturbed=tuple(kind.paraphrase.format(n=name, x=other) for other in wrong),
                    wrong=tuple(answer.format(n=name, x=other) for other in wrong),
                    fact=value,
                )
            )
    return rows
