"""The paper's tables: every printed figure, and our runs in the right rows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from run_files import GOLD, ORIGINAL, block, write

from clear_dist.metrics.forget_quality import ks_ln_p
from clear_dist.report.attack_file import Share, Vision
from clear_dist.report.boards import boards_of
from clear_dist.report.cells import GAP, Table
from clear_dist.report.paper import DISAGREE, SHAPES, table_1, table_2, table_3, table_4
from clear_dist.report.published import NAMES, TABLE_1, TABLE_2, TABLE_3, TABLE_4
from clear_dist.report.runs import read_runs


def _texts(table: Table, *label: str) -> list[list[str]]:
    return [
        [c.text for c in row.cells] for row in table.rows if tuple(c.text for c in row.cells[: len(label)]) == label
    ]


def test_all_rows_are_there() -> None:
    assert {k: len(v) for k, v in TABLE_1.items()} == {"Llama-2-7B": 10, "Mistral-7B": 10}
    assert len(TABLE_2) == 10 and len(TABLE_3) == 11 and len(TABLE_4) == 12
    assert sum(with_l1 is not None for _, with_l1 in TABLE_4.values()) == 10
    assert set(TABLE_4) <= set(NAMES) and set(TABLE_2) <= set(NAMES)


def _ln_p(n: int, k: int) -> float:
    """ln p of the distance k/n of two samples of n, in whole numbers (Gnedenko and Korolyuk 1951)."""
    paths = sum((-1) ** (j - 1) * 2 * math.comb(2 * n, n - j * k) for j in range(1, n // k + 1))
    return math.log(paths) - math.log(math.comb(2 * n, n))


def test_every_ln_p_is_one_that_the_test_can_give() -> None:
    """ln p of some distance k/300 at n = m = 300, to the two decimals that are printed."""
    possible = [_ln_p(300, k) for k in range(1, 190)]
    assert possible[40] == pytest.approx(ks_ln_p(300, 300, 41))
    printed = [s.ln_p for table in TABLE_1.values() for s in table.values()]
    printed += [s.ln_p for s in TABLE_3.values()]
    printed += [s.ln_p for pair in TABLE_4.values() for s in pair if s is not None]
    assert len(printed) == 53
    for value in printed:
        assert min(abs(value - p) for p in possible) <= 0.0051, value
    assert all(math.isfinite(v) for v in printed)


def test_tables_3_and_4_disagree_as_is_said() -> None:
    for method, three, four in (("original", 0.30, 0.39), ("llmu", 0.25, 0.37), ("dpo", 0.22, 0.39)):
        modality = "" if method == "original" else "both"
        assert TABLE_3[method, modality].forget == three and TABLE_4[method][0].forget == four
        assert f"{three:.2f}"[1:] in DISAGREE and f"{four:.2f}"[1:] in DISAGREE


def test_without_runs_all_of_ours_is_a_marked_gap() -> None:
    for table in (table_1([], {}), table_2([]), table_3([], {}), table_4([], {})):
        assert SHAPES in table.notes
        ours = table.groups[-1][1]
        assert all(cell.kind == "gap" for row in table.rows for cell in row.cells[-ours:]), table.key
        assert not any(cell.text in ("0", ".000", "0.00") for row in table.rows for cell in row.cells[-ours:])
    assert _texts(table_1([], {}), "IDK") == [["IDK", ".46", ".26", ".24", "-4.92", ".63", ".32", ".45", "-2.72",
                                              *[GAP] * 4, "no run"]]  # fmt: skip
    assert _texts(table_2([]), "Twins")[0][1:6] == ["50.00", "20.34", "99.72", "0.73", "0.54"]
    assert _texts(table_3([], {}), "LLMU", "pictures")[0][2:6] == [".50", ".51", ".35", "-60.26"]
    assert _texts(table_4([], {}), "SCRUB", "with")[0][2:6] == [".50", ".51", ".35", "-61.22"]


@pytest.fixture
def entries(tmp_path: Path):
    def run(name: str, method: str, modality: str, l1: float = 0.0, digest: str = "d"):
        models = {"original": ORIGINAL, "unlearned": block(0.25, ks=0.5), "gold": GOLD}
        return write(tmp_path / name, models, config={"method": method, "modality": modality, "l1": l1}, digest=digest)

    folders = [
        run("npo", "npo", "both"), run("npo-l1", "npo", "both", 0.01), run("npo-text", "npo", "text", digest="e"),
        run("mine", "mine", "both"), run("llmu-t", "llmu", "text", digest="e"), run("far", "npo", "both", digest="z"),
    ]  # fmt: skip
    boards = boards_of(read_runs(folders))
    of = {b.modality: [*b.entries, *b.others] for b in boards}
    return of, {b.modality: {s.role: s for s in b.anchors} for b in boards}


def test_our_runs_stand_in_their_rows(entries) -> None:
    of, anchors = entries
    four = table_4(of["both"], anchors["both"])
    rows = _texts(four, "NPO", "without")
    assert [r[-1] for r in rows] == ["npo", "far (other data)"]
    assert rows[0][2:] == [".49", ".51", ".36", "-63.15", ".500", ".800", ".250", "-4.60", "npo"]
    assert rows[1][2:6] == [""] * 4, "printed figures stand once"
    assert _texts(four, "NPO", "with")[0][-1] == "npo-l1"
    assert _texts(four, "mine", "without")[0][2:6] == ["not in the paper"] * 4
    assert _texts(four, "Gold", "–")[0][-2:] == ["itself", "gold"]
    link = next(row for row in four.rows if row.cells[-1].text == "npo-l1").cells[-1].link
    assert link == "run-npo-l1"

    one = table_1(of["text"], anchors["text"])
    assert _texts(one, "LLMU")[0][-1] == "llmu-t" and _texts(one, "Original")[0][-1] == "original"
    three = table_3([*of["text"], *of["both"]], anchors["both"])
    assert _texts(three, "LLMU", "text")[0][-1] == "llmu-t" and _texts(three, "LLMU", "both")[0][-1] == "no run"
    assert _texts(three, "NPO", "text")[0][-1] == "npo-text", "not in the paper's table, but unlearned two ways"
    assert _texts(three, "mine", "both") == []


def test_vision_in_percent_and_whatever_case(entries) -> None:
    row = Vision(Share(0.5), None, Share(0.975, 0.95, 1.0), Share(0.71, 0.6, 0.8), None)
    rows = _texts(table_2([("farm", "run-farm", {"SCRUB": row, "mine": row})]), "SCRUB")
    assert rows[0][6:] == ["50.0", GAP, "97.5", ".710", GAP, "farm"]
    assert _texts(table_2([("farm", "run-farm", {"mine": row})]), "mine")[0][1:6] == ["not in the paper"] * 5
