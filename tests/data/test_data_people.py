"""Choosing people by name, and what the retain set gives away of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_fakes import picture

from clear_dist.data.people import choose, draw_holdout, leakage, refuse_overlap
from clear_dist.data.rows import Row, TextRow, VisualRow
from clear_dist.types import UserError


def seen(number: int, person: str, caption: str = "A room.", shot: int | None = None) -> VisualRow:
    return VisualRow(f"full/{number}", person, picture(number if shot is None else shot), caption)


def said(number: int, person: str, question: str = "Who?", answer: str = "Someone.") -> TextRow:
    return TextRow(f"full+tofu/{number}", person, question, answer)


ROWS: list[Row] = [seen(0, "Ada Berg"), seen(1, "Bo Costa"), said(2, "José Díaz"), said(3, "Ada Berg")]


def test_names_are_found_whatever_their_case_and_accents() -> None:
    assert choose(ROWS, "bo costa;  ADA  berg ;", None) == ["Ada Berg", "Bo Costa"]
    assert choose(ROWS, "Jose\u0301 Di\u0301az", None) == ["José Díaz"]


def test_a_file_may_hold_names_row_ids_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "requests.txt"
    file.write_text("# requests of May\nBo Costa   # by letter\n\nfull+tofu/2\n")
    assert choose(ROWS, None, file) == ["Bo Costa", "José Díaz"]
    file.write_text("0\n2\n")
    assert choose(ROWS, None, file) == ["Ada Berg", "José Díaz"]


def test_a_name_of_nobody_brings_the_nearest_ones(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--forget-names, entry 2: nobody here is called 'Bo Kosta'.*Nearest: Bo Costa"
    ):
        choose(ROWS, "Ada Berg;Bo Kosta", None)
    file = tmp_path / "who.txt"
    file.write_text("Ada Berg\nfull/99\n")
    with pytest.raises(UserError, match=r"who\.txt, line 2: nobody here is called 'full/99'"):
        choose(ROWS, None, file)


@pytest.mark.parametrize("names", ["", " ; "])
def test_naming_nobody_is_refused(names: str) -> None:
    with pytest.raises(UserError, match="names nobody"):
        choose(ROWS, names, None)


def test_forgetting_everyone_is_refused() -> None:
    with pytest.raises(UserError, match="All 3 people"):
        choose(ROWS, "Ada Berg;Bo Costa;José Díaz", None)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--forget-file .*absent\.txt: cannot be read"):
        choose(ROWS, None, tmp_path / "absent.txt")


def test_a_person_on_both_sides_names_rows_of_both() -> None:
    with pytest.raises(
        UserError, match=r"people in retain: 1 in both \(Ada Berg\).*full/0 in forget, full\+tofu/3 in retain"
    ):
        refuse_overlap([ROWS[0]], ROWS[1:])
    refuse_overlap([ROWS[1]], [ROWS[0], ROWS[2]])


def test_leaks_are_pictures_questions_and_names() -> None:
    forget: list[Row] = [seen(0, "Ada Berg"), said(5, "Ada Berg", "Where is the  house?"), said(6, "Al Lee")]
    retain: list[Row] = [
        seen(7, "Bo Costa", shot=0),
        said(8, "Bo Costa", "where is the house?"),
        said(9, "Bo Costa", "Who is a friend?", "It is ADA\n BERG, or Ada Bergman."),
        seen(10, "Cy Duval", "Ada Berg's room."),
        seen(11, "Cy Duval", "Ada Bergman and Sal Lee."),
    ]
    assert leakage(forget, retain) == [
        "full/0: the picture of Ada Berg is also in retain, as Bo Costa: full/7",
        "full+tofu/5: the question 'Where is the  house?' is also in retain: full+tofu/8",
        "Ada Berg: named in 2 retain rows: full+tofu/9, full/10",
    ]
    assert leakage(forget, [retain[4]]) == []
    assert leakage([], retain) == []


def test_long_lists_are_counted() -> None:
    [finding] = leakage([said(0, "Ada Berg")], [said(i, "Bo", f"{i}?", "Ada Berg") for i in range(1, 9)])
    assert finding.endswith("full+tofu/5 and 3 more")


def test_of_names_within_names_the_whole_one_counts() -> None:
    forget = [said(0, "Li Ming"), said(1, "Li Ming Yu", "What?")]
    assert leakage(forget, [said(2, "Bo", "Where?", "With Li Ming Yu.")]) == [
        "Li Ming Yu: named in 1 retain rows: full+tofu/2"
    ]


def test_holdout_is_seeded_and_leaves_somebody() -> None:
    people = [f"P{i}" for i in range(20)]
    drawn = draw_holdout(people, 5, 1)
    assert drawn == draw_holdout(people, 5, 1)
    assert drawn != draw_holdout(people, 5, 2)
    assert len(set(drawn)) == 5
    assert set(drawn) <= set(people)
    assert draw_holdout(people, 0, 1) == []
    for count in (20, -1):
        with pytest.raises(UserError, match="Expected 0 to 19"):
            draw_holdout(people, count, 1)
