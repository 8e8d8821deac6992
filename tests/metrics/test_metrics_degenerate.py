"""Degenerate answers: measures against brute force, reasons, and thresholds from a model's own answers."""

from __future__ import annotations

import zlib
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clear_dist.metrics.degenerate import DEFAULT, Thresholds, degenerate, longest_loop, repetition, thresholds_of

SENTENCE = "The person has pale skin, a round face and short grey hair, and wears a red shirt by a white wall."
LOOP = "Hello " * 40


def test_measures_by_their_definition() -> None:
    measured = repetition(SENTENCE)
    said = SENTENCE.lower().replace(",", "").replace(".", "").split()
    assert measured.words == len(said) == 21
    assert measured.distinct == len(set(pairwise(said))) / 20
    assert measured.zlib == pytest.approx(len(SENTENCE) / len(zlib.compress(SENTENCE.encode(), 9)))
    assert measured.loop == 0.0
    loop = repetition(LOOP)
    assert loop.distinct == 1 / 39 and loop.loop == 1.0 and loop.zlib is not None and loop.zlib > 10
    short = repetition("A red hat.")
    assert short.distinct is None and short.zlib is None, "too short to tell"


@pytest.mark.parametrize(
    ("answer", "reasons"),
    [
        ("", {"empty"}),
        ("  \n\t", {"empty"}),
        ("🙂🎉", {"empty"}),
        ("- - -\n...", {"empty"}),
        (LOOP, {"distinct", "loop", "zlib", "endless"}),
        ("no no no", {"loop"}),
        ("ha" * 30, {"loop", "zlib"}),
        ("我不知道我不知道我不知道", {"distinct", "loop", "endless"}),
        (SENTENCE + " " + SENTENCE[:-20], {"endless"}),
        (SENTENCE + " " + SENTENCE[:30], set()),  # the beginning only: may go on otherwise
        (SENTENCE + " " + SENTENCE, set()),  # said twice, and closed
        (SENTENCE, set()),
        ("Red.", set()),
        ("very, very red", set()),
        ("He is 1000000000 years old.", set()),
        ("- Hair: short\n- Shirt: red\n- Wall: white\n- Hat: no\n- Glasses: no\n- Beard: no", set()),
        ("这个人穿着红色的衬衫，留着短短的灰色头发，站在一面白色的墙前。", set()),
    ],
)
def test_reasons(answer: str, reasons: set[str]) -> None:
    assert set(degenerate(answer)) == reasons


def test_a_loop_at_the_end_of_a_long_answer() -> None:
    rng = Random(0)
    start = " ".join(f"word{rng.randrange(10**9)}" for _ in range(100))
    assert degenerate(start + ".") == ()
    assert "loop" in degenerate(start + " by the wall, by the wall, by the wall, by the wall.")
    assert repetition(start + " by the wall by the wall by the wall.").loop == pytest.approx(9 / 109)


@given(st.lists(st.sampled_from("ab"), max_size=14))
def test_longest_loop_against_brute_force(said: list[str]) -> None:
    loop = longest_loop(said)
    best = 0
    for start in range(len(said)):
        for end in range(start + 1, len(said) + 1):
            part = said[start:end]
            for unit in range(1, len(part) // 3 + 1):
                if all(part[i] == part[i - unit] for i in range(unit, len(part))):
                    best = max(best, len(part))
    assert loop.length == best
    assert all(said[i] == said[i - loop.unit] for i in range(loop.start + loop.unit, loop.start + loop.length))


@given(st.text(max_size=80))
def test_any_text_can_be_measured(text: str) -> None:
    measured = repetition(text)
    assert 0 <= measured.loop <= 1 and (measured.distinct is None or 0 < measured.distinct <= 1)
    assert degenerate(text) == ("empty",) or measured.words > 0


def test_thresholds_of_the_originals_answers() -> None:
    assert thresholds_of([]) == DEFAULT
    assert thresholds_of(["Red.", "", "Ann."]) == DEFAULT, "short answers make nothing stricter"
    assert thresholds_of([SENTENCE] * 50) == DEFAULT
    formulaic = (
        "the hat is red and " * 4 + "so on and on it goes without a stop at all, now it is done for good.",
    ) * 20
    measured = repetition(formulaic[0])
    assert measured.zlib is not None
    lenient = thresholds_of(formulaic)
    assert lenient.loop == pytest.approx(max(DEFAULT.loop, 1.25 * measured.loop))
    assert lenient.zlib == pytest.approx(max(DEFAULT.zlib, 1.25 * measured.zlib))
    broken = thresholds_of([LOOP] * 20)
    assert broken == Thresholds(DEFAULT.distinct / 2, 2 * DEFAULT.loop, 2 * DEFAULT.zlib), "at most twice as lenient"
    assert degenerate(LOOP, broken)
