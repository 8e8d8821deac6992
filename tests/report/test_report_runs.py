"""Several runs: which are meant, which are of the same data, which are seeds of one method, and how they rank."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_files import GOLD, ORIGINAL, block, records, write

from clear_dist.report.attack_file import read_attack
from clear_dist.report.board import OTHER_DATA, board_table, competition, gold_distance, standings, vision_ranks
from clear_dist.report.boards import boards_of, front_image
from clear_dist.report.runs import entries_of, expand, groups_of, landmark, read_runs, same_data, slug
from clear_dist.types import UserError


def test_a_sweep_stands_for_its_finished_runs(tmp_path: Path) -> None:
    sweep = tmp_path / "all"
    for name in ("npo-seed0", "gold-seed0"):
        write(sweep / "runs" / name)
    single = write(tmp_path / "idk")
    rows = [
        {"run": "npo-seed0", "summary": {}},
        {"run": "gold-seed0", "summary": {}},
        {"run": "ga-seed0", "error": "x"},
    ]
    (sweep / "sweep.json").write_text(json.dumps(rows))
    assert [p.name for p in expand([sweep, single, single])] == ["npo-seed0", "gold-seed0", "idk"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "expected a list"),
        ('[{"run": "../../etc", "summary": {}}]', "no name of a directory"),
        ('[{"run": "gone", "summary": {}}]', "it has no summary.json"),
        ('[{"run": "a", "error": "x"}]', "no run of this sweep was finished"),
    ],
)
def test_a_broken_sweep_is_refused(tmp_path: Path, rows: str, said: str) -> None:
    (tmp_path / "sweep.json").write_text(rows)
    with pytest.raises(UserError, match=said):
        expand([tmp_path])


def test_a_directory_without_a_summary_is_refused_and_an_interrupted_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no summary.json here; name"):
        expand([tmp_path])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="began, but was never evaluated"):
        expand([tmp_path])


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    folders = [write(tmp_path / a / "unlearned") for a in ("x", "y")]
    assert [r.name for r in read_runs(folders)] == ["x/unlearned", "y/unlearned"]
    assert [r.name for r in read_runs(folders[:1])] == ["unlearned"]
    assert slug("a/b") != slug("a_b") != slug("a b") and slug("npo-1") == "npo-1"


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ({}, {}, True),
        ({}, {"digest": "e"}, False),
        ({}, {"rows": records(ids=("a", "c"))}, False),  # equal digests, but one was asked less
        ({}, {"rows": []}, True),  # digests are enough where nothing else is known
        ({"digest": None}, {"digest": None}, True),  # and so are records
        ({"digest": None}, {"digest": None, "rows": records(answer="Bo")}, False),
        ({"digest": None, "rows": []}, {"digest": None, "rows": []}, False),  # nobody knows
        ({}, {"digest": "e", "config": {"modality": "text"}}, True),  # another modality trained on: digests must differ
        ({}, {"digest": "e", "config": {"modality": "text"}, "rows": records(ids=("z",))}, False),
    ],
)
def test_same_data(tmp_path: Path, a: dict, b: dict, same: bool) -> None:
    one, two = read_runs([write(tmp_path / "a", **a), write(tmp_path / "b", **b)])
    assert same_data(one, two) is same and same_data(two, one) is same
    assert [len(g) for g in groups_of([one, two])] == ([2] if same else [1, 1])


def test_seeds_of_a_method_are_one_entry(tmp_path: Path) -> None:
    folders = [
        write(tmp_path / f"npo-seed{s}", {"unlearned": block(0.4 + s / 10)}, config={"method": "npo", "seed": s})
        for s in (0, 1, 2)
    ]
    folders += [write(tmp_path / "npo-l1-seed0", {"unlearned": block()}, config={"method": "npo", "l1": 0.01})]
    for name, model in (("original", ORIGINAL), ("gold", GOLD)):
        folders += [write(tmp_path / f"{name}-seed{s}", {name: model}, config={"seed": s}) for s in (0, 1)]
    runs = read_runs(folders)
    (group,) = groups_of(runs)
    npo, l1 = entries_of(group)
    assert (npo.name, len(npo.runs), l1.name, len(l1.runs)) == ("npo", 3, "npo-l1-seed0", 1)
    forget = npo.subject.estimate("sets", "forget", "all", "metric")
    assert forget is not None and (forget.value, forget.low, forget.high) == pytest.approx((0.5, 0.4, 0.6))
    assert all(set(a) == {"original", "gold"} for a in npo.anchors), "found in runs of their own"
    original = landmark("original", [npo, l1], group)
    assert original is not None and len(original.blocks) == 1, "the same one twice is shown once"
    assert len(entries_of(group, seeds_together=False)) == 4


def _entries(tmp_path: Path, **methods: dict):
    folders = [write(tmp_path / n, {"original": ORIGINAL, "unlearned": b, "gold": GOLD}) for n, b in methods.items()]
    (group,) = groups_of(read_runs(folders))
    return entries_of(group)


def test_the_papers_rule(tmp_path: Path) -> None:
    """Retain of the original is .9: the line is at .72."""
    entries = _entries(
        tmp_path,
        a=block(0.4, 0.9),
        b=block(0.2, 0.72),  # at the line
        c=block(0.1, 0.719),  # below it
        d=block(0.4004, 0.9),  # printed as a's
        e=block(0.6, 0.8),
    )
    found = standings(entries)
    assert [(s.entry.name, s.rank) for s in found] == [("b", 1), ("a", 2), ("d", 2), ("e", 4), ("c", None)]
    assert found[-1].why == "keeps 80% of Retain" and found[-1].kept == pytest.approx(0.719 / 0.9)
    table = board_table(found, [], "t", "k")
    assert [row.grey for row in table.rows] == [False] * 4 + [True]
    assert "80%" in table.notes[0] and "share a rank" in table.notes[0]


def test_without_an_original_or_a_figure_nothing_is_ranked(tmp_path: Path) -> None:
    lacking = block()
    lacking["sets"]["forget"]["all"]["metric"] = None
    (only,) = groups_of(read_runs([write(tmp_path / "a", {"unlearned": block()})]))
    assert standings(entries_of(only))[0].why == "no original to judge Retain by"
    (entry,) = _entries(tmp_path / "x", b=lacking)
    assert standings([entry])[0].why == "Forget or Retain metric not measured"


def test_distance_to_gold_by_hand(tmp_path: Path) -> None:
    (entry,) = _entries(tmp_path, a=block(names=0.1, facts=0.0))
    assert gold_distance(entry) == pytest.approx((0.1 + 0.1) / 2), "below gold counts as above it"
    (alone,) = groups_of(read_runs([write(tmp_path / "b", {"original": ORIGINAL, "unlearned": block()})]))
    assert gold_distance(entries_of(alone)[0]) is None


def test_runs_of_other_data_stand_in_no_ranking(tmp_path: Path) -> None:
    folders = [write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c", digest="other")]
    text = write(tmp_path / "t", config={"modality": "text"})
    boards = boards_of(read_runs([*folders, text]))
    assert [b.modality for b in boards] == ["text", "both"]
    both = boards[1]
    assert [e.name for e in both.entries] == ["a", "b"] and [e.name for e in both.others] == ["c"]
    assert {s.entry.name: (s.rank, s.why) for s in both.found}["c"] == (None, OTHER_DATA)
    image = front_image(both)
    assert image is not None and image.numbers is not None
    assert [row.cells[0].text for row in image.numbers.rows] == ["original", "gold", "a", "b"]


def test_ranks_of_equals() -> None:
    assert competition([3.0, 1.0, 1.0, 2.0]) == [4, 1, 1, 3] and competition([]) == []


VISION = {
    "original": {"retain_acc": 1.0, "u_lira": {"accuracy": {"value": 1.0, "ci": [0.99, 1.0]}}},
    "gold": {"retain_acc": 0.98, "u_lira": {"accuracy": {"value": 0.5}}},
    "scrub": {"retain_acc": 0.99, "forget_acc": 0.9, "u_lira": {"accuracy": {"value": 0.7, "ci": [0.6, 0.8]}}},
    "twins": {"retain_acc": 0.8, "u_lira": {"accuracy": {"value": 0.4}}},
    "ga": {"retain_acc": 0.79, "u_lira": {"accuracy": {"value": 0.5}}},
    "rmu": {"retain_acc": 0.9, "u_lira": None},
}


def test_vision_is_ranked_by_how_near_the_attack_comes_to_chance(tmp_path: Path) -> None:
    path = tmp_path / "attack.json"
    path.write_text(json.dumps(VISION))
    rows = read_attack(path)
    assert vision_ranks(rows) == {
        "twins": (1, ""),  # .4 is as good for an attacker as .6
        "scrub": (2, ""),
        "ga": (None, "keeps 79% of retain"),
        "rmu": (None, "U-LIRA or retain accuracy not measured"),
    }
    assert rows["scrub"].u_lira is not None and rows["scrub"].u_lira.low == 0.6 and rows["scrub"].u_mia is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "holds no method"),
        ({"a": 1}, "a: expected an object"),
        ({"a": {"retain_acc": 97.5}}, "a.retain_acc: expected a share between 0 and 1"),
        ({"a": {"u_lira": 0.5}}, "a.u_lira: expected an object"),
        ({"a": {"u_lira": {"accuracy": {"value": 0.5, "ci": [0.4]}}}}, r"accuracy.ci: expected \[low, high\]"),
        ({"a": {"u_lira": {"accuracy": {"value": True}}}}, "expected a share"),
    ],
)
def test_a_broken_attack_file_is_refused(tmp_path: Path, content: dict, said: str) -> None:
    (tmp_path / "attack.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        read_attack(tmp_path / "attack.json")
