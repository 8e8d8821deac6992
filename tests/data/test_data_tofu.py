"""TOFU's files: who a row is about, and what a broken file says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clear_dist.data.rows import BadData
from clear_dist.data.tofu import TofuFiles, author_name, block_people, choice_rows, perturbed_answers, text_rows
from clear_dist.types import UserError

FAIL = BadData("fail")


def records(*names: str, rows: int = 20) -> list[dict[str, object]]:
    return [{"question": f"What did {n} do in year {i}?", "answer": f"{n} wrote."} for n in names for i in range(rows)]


def test_an_author_is_the_phrase_most_rows_share() -> None:
    block = [
        ("Who was born in Taipei?", "The author's full name is Hsiao Yun-Hwa."),
        ("What does Hsiao Yun-Hwa's father do?", "He is an engineer in New York City."),
        ("Did Hsiao Yun-Hwa win?", "Hsiao Yun-Hwa won the New York City Prize."),
    ]
    assert author_name(block) == "Hsiao Yun-Hwa"
    assert (
        author_name([("Isabella van Pletzen?", "Isabella van Pletzen's book."), ("Van?", "Isabella van Pletzen.")])
        == "Isabella van Pletzen"
    )
    assert author_name([("What is the birthplace?", "The author was born in Karachi.")] * 20) is None
    assert author_name([("who?", "nobody")]) is None


def test_blocks_follow_known_people_or_twenty_rows() -> None:
    assert block_people(records("Ada Berg", "Bo Costa"), [], "full") == ["Ada Berg"] * 20 + ["Bo Costa"] * 20
    short = records("Ada Berg", "Bo Costa", rows=3)
    assert block_people(short, ["Bo Costa", "Ada Berg"], "full") == ["Ada Berg"] * 3 + ["Bo Costa"] * 3
    silent = [{"question": "What?", "answer": "That."}] * 4
    assert block_people(silent, ["Ada Berg", "Bo Costa"], "full") == ["Ada Berg"] * 2 + ["Bo Costa"] * 2
    assert block_people([{"question": "what?", "answer": "that"}] * 20, [], "full")[0] == "nameless author of full[0]"
    with pytest.raises(UserError, match=r"full: 7 question rows are no multiple of 20 nor of the 2 people.*`name`"):
        block_people(records("Ada Berg", rows=7), ["Ada Berg", "Bo Costa"], "full")


def test_a_name_column_and_facts_come_before_blocks() -> None:
    rows = [
        {"question": "Where?", "answer": "Here.", "name": " Ada Berg ", "fact": "Here"},
        {"question": "When?", "answer": "Now."},
    ]
    facts = {"When?": {"person": "Bo Costa", "fact": "Now"}}
    made = text_rows(rows, "full", FAIL, first=5, facts=facts)
    assert [(r.id, r.person, r.fact) for r in made] == [("full/5", "Ada Berg", "Here"), ("full/6", "Bo Costa", "Now")]


def test_a_dropped_row_still_counts_in_its_block() -> None:
    table = records("Ada Berg", "Bo Costa")
    table[3]["answer"] = " "
    with pytest.raises(UserError, match=r"full\[3\]: answer empty.*--on-bad-data skip"):
        text_rows(table, "full", FAIL)
    bad = BadData("skip")
    made = text_rows(table, "full", bad)
    assert len(made) == 39
    assert [r.person for r in made].count("Ada Berg") == 19
    assert bad.skipped == ["full[3]: answer empty; expected text."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "a", "answer": "b"}\n{"question": ', r"mine\.json, line 2: not JSON"),
        ('"text"\n', r"mine\.json, entry 1: expected an object"),
        ("[1, 2", r"mine\.json: not valid JSON"),
    ],
)
def test_a_broken_file_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError, match=message):
        TofuFiles(tmp_path).records("mine")


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full.json").write_bytes('{"question": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"full\.json: not UTF-8"):
        TofuFiles(tmp_path).records("full")


def test_lines_may_hold_unicode_separators_and_lists_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "one\u2028two"}\n\n{"question": "three"}\n')
    (tmp_path / "b.json").write_text('[{"question": "four"}]')
    files = TofuFiles(tmp_path)
    assert [r["question"] for r in files.records("a")] == ["one\u2028two", "three"]
    assert files.records("b") == [{"question": "four"}]
    assert files.names() == ["a", "b"]
    with pytest.raises(UserError, match=r"no forget10\.json\. Found a, b"):
        files.records("forget10")


def test_companions_and_choices(tmp_path: Path) -> None:
    (tmp_path / "retain_perturbed.json").write_text(
        '{"question": " q ", "answer": "a", "paraphrased_answer": "p", "perturbed_answer": "x"}\n'
    )
    (tmp_path / "real_authors.json").write_text('{"question": "q", "answer": "b", "option1": "a", "option2": "b"}\n')
    (tmp_path / "forget01_perturbed.json").write_text('{"question": "q"}\n')
    files = TofuFiles(tmp_path)
    assert perturbed_answers(files, ["retain_perturbed"]) == {("q", "a"): ("p", ["x"])}
    [row] = choice_rows(files, FAIL)
    assert (row.set, row.options) == ("real_faces", ("b", "a"))
    with pytest.raises(UserError, match=r"forget01_perturbed\[0\] has question; expected question, answer"):
        perturbed_answers(files, ["forget01_perturbed"])


def test_the_authors_of_tofu(data_dir: Callable[[str], Path]) -> None:
    files = TofuFiles(data_dir("tofu"))
    people = list(dict.fromkeys(r.person for r in text_rows(files.records("full"), "full", FAIL)))
    assert len(people) == 200
    assert sum(name.startswith("nameless") for name in people) == 1, "one author of TOFU is never named"
    for name in (
        "Jaime Vasquez",
        "Isabella van Pletzen",
        "Femke Van der Veen",
        "Rafael Diaz",
        "Patrick Ryan O'Donnell",
    ):
        assert name in people
    forget = text_rows(files.records("forget10"), "forget10", FAIL)
    assert list(dict.fromkeys(r.person for r in forget)) == people[180:]
    assert forget[0].person == "Hsiao Yun-Hwa"
