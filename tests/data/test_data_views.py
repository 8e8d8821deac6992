"""The pools of every view: who is in them, what the reference reads, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from data_fakes import picture

from clear_dist.data.prompts import IDK_ANSWERS, INFORMATION_QUESTION, PRIVACY_INSTRUCTION, instruction_for
from clear_dist.data.views import (
    Pool,
    Taught,
    build_pools,
    guide_pool,
    open_queries,
    private_examples,
    random_examples,
    safe_examples,
)
from clear_dist.errors import ConfigError
from clear_dist.types import Example, Kind, SetName, View

COLOURS = ("red", "green", "blue", "pink")


def person(name: str, number: int, of: SetName) -> list[Example]:
    """A picture with a caption, a name, a description and an attribute; two facts in text."""
    shown = picture(number)
    colour = COLOURS[number % len(COLOURS)]

    def visual(kind: Kind, question: str, answer: str) -> Example:
        return Example(
            f"full/{number}/{kind}", of, kind, question, answer, shown, name, fact=answer, attributes={"shirt": colour}
        )

    return [
        replace(visual("caption", "Describe.", f"{name} in {colour}."), paraphrase="p", perturbed=("w",)),
        visual("name", "Who?", f"This is {name}."),
        visual("describe", "Looks?", f"A {colour} shirt."),
        visual("attribute", "What colour?", colour),
        visual("attribute", "A hat?", "yes" if number % 2 else "no"),
        Example(f"text/{number}/qa", of, "qa", f"Where was {name} born?", f"In town {number}.", None, name),
    ]


FORGET = [*person("Ada Berg", 0, "forget"), *person("Bo Costa", 1, "forget")]
RETAIN = [e for i, name in enumerate(("Cy Duval", "Di Evans", "Ed Fox"), 2) for e in person(name, i, "retain")]
TRAIN = {"forget": FORGET, "retain": RETAIN}


def leaks(example: Example) -> bool:
    return any(part in example.answer for part in (example.person or "").split())


def test_forget_and_retain_are_as_they_are() -> None:
    pools = build_pools({View.RETAIN, View.FORGET}, TRAIN, seed=0)
    assert list(pools) == [View.FORGET, View.RETAIN]
    assert pools[View.FORGET] == Pool(FORGET) and pools[View.RETAIN] == Pool(RETAIN)


def test_idk_answers_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "refusals.txt"
    file.write_text("Never heard of it.\n")
    pool = build_pools({View.IDK}, TRAIN, seed=0, idk_answers=file)[View.IDK]
    assert [e.question for e in pool.examples] == [e.question for e in FORGET]
    assert {e.answer for e in pool.examples} == {"Never heard of it."} and pool.reference is None


@pytest.mark.parametrize("seed", range(8))
def test_random_answers_are_about_somebody_else(seed: int) -> None:
    drawn = random_examples(FORGET, RETAIN, seed)
    by_answer = {(e.kind, e.answer): e for e in [*FORGET, *RETAIN]}
    for mine, given in zip(FORGET, drawn, strict=True):
        assert (given.id, given.question, given.picture) == (mine.id, mine.question, mine.picture)
        assert given.answer != mine.answer and given.fact is None and given.paraphrase is None and not given.perturbed
        source = by_answer[mine.kind, given.answer]
        assert source.person != mine.person
        if mine.question == "What colour?":
            assert given.answer in COLOURS, "the same question of others comes first"


def test_random_answers_come_from_retain_where_it_has_one_and_change_with_the_seed() -> None:
    towns = {tuple(e.answer for e in random_examples(FORGET, RETAIN, s) if e.kind == "qa") for s in range(12)}
    assert len(towns) > 1 and all("town 0" not in t and "town 1" not in t for ts in towns for t in ts)
    assert random_examples(FORGET, RETAIN, 3) == random_examples(FORGET, RETAIN, 3)
    alone = random_examples(FORGET, RETAIN, 3)[5]
    assert random_examples(FORGET[5:6], RETAIN, 3) == [alone], "an example's draw is its own"
    others = random_examples([e for e in FORGET if e.kind == "qa"], [], 0)
    assert [e.answer for e in others] == ["In town 1.", "In town 0."], "else from the other forget people"


def test_random_without_another_answer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"RANDOM.*text/0/qa.*In town 0"):
        random_examples(FORGET[5:6], [replace(RETAIN[5], answer="in town  0")], 0)


def test_private_is_what_names_or_tells() -> None:
    telling = replace(FORGET[2], answer="Ada has a red shirt.")
    private = private_examples([*FORGET[:2], telling, *FORGET[3:]], leaks)
    assert [e.kind for e in private] == ["caption", "name", "describe", "qa", "caption", "name", "qa"]
    assert private[2] is telling
    with pytest.raises(ConfigError, match="PRIVATE is empty: none of the 2"):
        private_examples([FORGET[2], FORGET[3]], leaks)


def test_open_queries_one_a_picture() -> None:
    asked = open_queries(private_examples(FORGET, leaks))
    assert [e.id for e in asked] == ["full/0/information", "full/1/information"]
    assert {e.question for e in asked} == {INFORMATION_QUESTION}
    assert [e.picture for e in asked] == [FORGET[0].picture, FORGET[6].picture]
    assert asked[0].attributes == {"shirt": "red"} and asked[0].paraphrase is None


def test_guide_holds_all_answers_and_the_reference_reads_the_prompt() -> None:
    taught = [
        Taught(FORGET[0], "Be kind.", ("A", "B")),
        Taught(FORGET[1], "Be kind.", ()),
        Taught(FORGET[5], "Q", ("C",)),
    ]
    pool = build_pools({View.GUIDE}, TRAIN, seed=0, taught=taught)[View.GUIDE]
    assert [(e.id, e.question, e.answer) for e in pool.examples] == [
        ("full/0/caption/0", "Describe.", "A"),
        ("full/0/caption/1", "Describe.", "B"),
        ("text/0/qa/0", "Where was Ada Berg born?", "C"),
    ]
    assert pool.reference is not None
    assert [(e.id, e.question, e.answer) for e in pool.reference] == [
        ("full/0/caption/0", "Be kind.", "A"),
        ("full/0/caption/1", "Be kind.", "B"),
        ("text/0/qa/0", "Q", "C"),
    ]
    assert [e.picture for e in pool.reference] == [e.picture for e in pool.examples]
    assert pool.examples[0].fact is None and pool.examples[0].perturbed == ()


def test_an_empty_guide_says_why() -> None:
    with pytest.raises(ConfigError, match=r"nothing could be asked.*question"):
        guide_pool([])
    with pytest.raises(ConfigError, match="no safe answer to any of 1 questions"):
        guide_pool([Taught(FORGET[0], "p", ())])


def test_safe_is_bound_to_private() -> None:
    information = Taught(open_queries(FORGET)[0], "p", ("not of PRIVATE",))
    taught = [Taught(FORGET[0], "p", ("First.", "Second.")), Taught(FORGET[1], "p", ()), information]
    pools = build_pools({View.PRIVATE, View.SAFE}, TRAIN, seed=1, leaks=leaks, taught=taught)
    private, safe = pools[View.PRIVATE].examples, pools[View.SAFE].examples
    assert [(e.id, e.question) for e in safe] == [(e.id, e.question) for e in private]
    assert safe[0].answer == "First." and all(e.answer in IDK_ANSWERS for e in safe[1:])
    assert safe_examples(private, [], 1, refusals=["No."])[0].answer == "No."


def test_augmented_gives_the_reference_another_picture() -> None:
    pool = build_pools({View.AUGMENTED}, TRAIN, seed=4)[View.AUGMENTED]
    assert [e.kind for e in pool.examples] == ["caption", "name", "describe", "attribute", "attribute"] * 2
    assert pool.reference is not None
    digests = {e.picture.digest for e in pool.reference if e.picture}
    assert len(digests) == 2 and not digests & {e.picture.digest for e in pool.examples if e.picture}
    for mine, theirs in zip(pool.examples, pool.reference, strict=True):
        assert replace(theirs, picture=mine.picture) == mine
    reseeded = build_pools({View.AUGMENTED}, TRAIN, seed=5)[View.AUGMENTED].reference
    assert reseeded is not None and not digests & {e.picture.digest for e in reseeded if e.picture}
    with pytest.raises(ConfigError, match="AUGMENTED needs pictures"):
        build_pools({View.AUGMENTED}, {"forget": [FORGET[5]], "retain": []}, seed=0)


def test_a_pool_whose_reference_answers_otherwise_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="not the same answer"):
        Pool([FORGET[0]], [replace(FORGET[0], answer="other")])
    with pytest.raises(AssertionError, match="one example for each"):
        Pool([FORGET[0]], [])
    with pytest.raises(AssertionError, match="which answers are private"):
        build_pools({View.SAFE}, TRAIN, seed=0)


def test_instructions() -> None:
    assert instruction_for("therem/CLEAR") == PRIVACY_INSTRUCTION and "{question}" in PRIVACY_INSTRUCTION
    assert instruction_for("clear-mini") == f"Describe only the visible features. {INFORMATION_QUESTION}"
    assert instruction_for("clear-mini", "Say {question}") == "Say {question}"
    for nothing in ("", "  ", "{question}"):
        with pytest.raises(ConfigError, match="--guide-instruction"):
            instruction_for("clear-mini", nothing)
