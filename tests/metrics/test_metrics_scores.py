"""ROUGE, probabilities, truth ratio, accuracies and harmonic means on hand-made cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from clear_dist.metrics.accuracy import attribute_hits, contains, fold, hit
from clear_dist.metrics.probability import answer_probability, choice_probability, choice_share
from clear_dist.metrics.rouge import lcs_length, rouge_1_recall, rouge_l_recall
from clear_dist.metrics.truth_ratio import truth_ratio, truth_score
from clear_dist.metrics.utility import harmonic_mean, harmonic_means
from clear_dist.types import UserError

sentences = st.lists(
    st.sampled_from(["she", "wrote", "writes", "writing", "the", "novels", "novel,", "Taipei.", "1991", "é"]),
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(sentences.map(" ".join), sentences.map(" ".join))
def test_rouge_equals_the_package(generated: str, reference: str) -> None:
    package = RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(reference, generated)
    if reference.replace("é", "").strip():  # the package sees nothing in other letters
        assert rouge_l_recall(generated, reference) == pytest.approx(package["rougeL"].recall, abs=1e-12)
        assert rouge_1_recall(generated, reference) == pytest.approx(package["rouge1"].recall, abs=1e-12)
    assert rouge_l_recall(generated, reference) <= rouge_1_recall(generated, reference) <= 1


@settings(max_examples=60, deadline=None)
@given(st.text("ab é'-_1.A\n", max_size=30), st.text("ab é'-_1.A\n", max_size=30))
def test_rouge_equals_the_package_on_any_spelling(generated: str, reference: str) -> None:
    package = RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(reference, generated)
    if any(c in "abA1" for c in reference):
        assert rouge_1_recall(generated, reference) == pytest.approx(package["rouge1"].recall, abs=1e-12)
        assert rouge_l_recall(generated, reference) == pytest.approx(package["rougeL"].recall, abs=1e-12)


def test_rouge_1_by_hand() -> None:
    assert rouge_1_recall("novels she writes", "She writes novels") == 1.0  # order does not matter
    assert rouge_1_recall("the the the", "the cat and the dog") == pytest.approx(2 / 5)  # counted as often as both say
    assert rouge_1_recall("the", "the the") == 0.5
    assert rouge_1_recall("", "x") == 0.0 and rouge_1_recall("x", "") == 0.0 and rouge_1_recall("x", "?!") == 0.0
    assert rouge_1_recall("здесь Мария", "Мария живёт здесь") == pytest.approx(2 / 3)


def test_rouge_by_hand() -> None:
    assert rouge_l_recall("", "She writes novels") == 0.0
    assert rouge_l_recall("novels she writes", "She writes novels") == pytest.approx(2 / 3)  # order matters
    assert rouge_l_recall("SHE WROTE novel!", "She wrote novels.") == 1.0  # stems, case, punctuation
    assert rouge_l_recall("Anything", "?!") == 0.0
    assert rouge_l_recall("Мария живёт здесь", "Мария живёт в Киеве") == pytest.approx(0.5)  # not 0 for another script
    assert lcs_length("abcbdab", "bdcaba") == 4
    long = [str(i) for i in range(500)]
    assert lcs_length(long, long[::2]) == 250


def test_probability_is_length_normalised() -> None:
    assert answer_probability([math.log(0.25), math.log(1.0)]) == pytest.approx(0.5)
    assert answer_probability([-3.0]) == pytest.approx(math.exp(-3.0))


def test_multiple_choice_share() -> None:
    right, wrong = [math.log(0.6)], [math.log(0.2), math.log(0.2)]
    assert choice_probability([right, wrong, wrong]) == pytest.approx(0.6)
    assert choice_probability([right, wrong, [-9.0], [-1.0]]) == pytest.approx(
        choice_probability([right, [-1.0], wrong, [-9.0]])
    )  # the order of the wrong options does not matter
    assert choice_share([-2000.0, -2001.0]) == pytest.approx(1 / (1 + math.exp(-1)))  # exp() of either is 0
    assert choice_share([-4.0]) == 1.0


@pytest.mark.parametrize("bad", [[], [-1.0, math.nan], [-math.inf]])
def test_probability_refuses_what_is_no_number(bad: list[float]) -> None:
    with pytest.raises(UserError):
        answer_probability(bad)


def test_truth_ratio_means() -> None:
    paraphrase, wrong = math.log(0.5), [math.log(0.1), math.log(0.4)]
    assert truth_ratio(paraphrase, wrong, "arithmetic") == pytest.approx(0.25 / 0.5)
    assert truth_ratio(paraphrase, wrong, "geometric") == pytest.approx(0.2 / 0.5)
    assert truth_ratio(paraphrase, wrong[::-1], "arithmetic") == pytest.approx(0.5)
    assert math.isfinite(truth_ratio(-5000.0, [-1.0]))  # clipped, so that it can be stored


def test_truth_score_reads_the_set() -> None:
    assert truth_score(0.25, "forget") == 0.25 and truth_score(4.0, "forget") == 0.25
    assert truth_score(0.25, "retain") == 0.75 and truth_score(4.0, "real_world") == 0.0


@pytest.mark.parametrize(("paraphrase", "wrong"), [(-1.0, []), (-1.0, [math.nan]), (math.nan, [-1.0])])
def test_truth_ratio_refuses(paraphrase: float, wrong: list[float]) -> None:
    with pytest.raises(UserError):
        truth_ratio(paraphrase, wrong)


def test_truth_ratio_refuses_an_unknown_mean() -> None:
    with pytest.raises(UserError, match="harmonic"):
        truth_ratio(-1.0, [-1.0], "harmonic")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("This is Ann Reyes.", "ann reyes", True),
        ("This is Anna Reyes.", "Ann", False),
        ("It is Reyes's,  ann!", "Reyes", True),
        ("Zoë  O’Brien-Łuc", "zoe o'brien łuc", True),
        ("Red-hair, freckles", "red hair", True),
        ("hair red", "red hair", False),
        ("作者は東京都に住む", "東京", True),
        ("born 05/11/1991", "05-11-1991", True),
        ("", "Ann", False),
        ("anything", "...", False),
    ],
)
def test_contains(text: str, phrase: str, found: bool) -> None:
    assert contains(text, phrase) is found


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_fold_is_idempotent(text: str) -> None:
    assert fold(fold(text)) == fold(text)


def test_nothing_to_look_for_is_not_a_miss() -> None:
    assert hit("text", None) is None and hit("text", "?") is None and hit("text", "other") == 0
    assert attribute_hits("red hair", {"hair": "red", "hat": "none", "shirt": "blue"}) == {"hair": 1, "shirt": 0}
    assert attribute_hits("red hair", {"hat": "none"}) is None and attribute_hits("red hair", None) is None


def test_harmonic_mean() -> None:
    assert harmonic_mean([1.0, 0.5]) == pytest.approx(2 / 3)
    assert harmonic_mean([1.0, 0.0]) == 0.0
    assert harmonic_mean([1.0, None]) is None and harmonic_mean([]) is None
    rows = harmonic_means(np.array([[1.0, 0.5], [0.0, 1.0], [np.nan, 1.0]]))
    assert rows[0] == pytest.approx(2 / 3) and rows[1] == 0.0 and np.isnan(rows[2])
