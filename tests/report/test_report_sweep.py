"""The table of a sweep against values by hand, its Markdown, and pictures that hold many methods."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from sweep_rows import anchors, curve, row

from clear_dist.report.front import front
from clear_dist.report.sweep import best_points, front_points, label, lines, markdown, relative, report, sweep_table
from clear_dist.report.sweep_curves import medians

SEEDS = (0, 1, 2)
# original: names .8, facts 1 on forget; .9, 1 on retain. gold: names 0, facts .2 on forget.
ROWS = [
    *(row("npo", s, (0.0, 0.2 + 0.08 * s), (0.9, 0.9), seconds=30 + s) for s in SEEDS),
    *anchors(SEEDS),
    *(row("ga", s, (0.0, 0.0), (0.09, 0.1)) for s in (0, 1)),
    {"run": "ga-seed2", "method": "ga", "seed": 2, "grid": {}, "set": {}, "objective": None, "error": "not | finite"},
    {"run": "rmu-seed0", "method": "rmu", "seed": 0, "grid": {}, "set": {}, "objective": None, "skipped": "no layer 7"},
    row("npo", 0, (0.4, 0.6), (0.9, 1.0), {"lr": 0.0003, "set.beta": 0.5}),
]


def test_forget_is_measured_between_gold_and_original_retain_from_nothing() -> None:
    by_name = {line.name: line for line in lines(ROWS)}
    assert list(by_name) == ["original", "gold", "npo", "ga", "rmu", "npo lr=0.0003 beta=0.5"]
    npo = by_name["npo"].values
    assert npo["forget name"] == (0.0, 0.0, 0.0)
    assert npo["forget fact"] == pytest.approx((0.0, 0.1, 0.2))  # (.2 + .08 s - .2) / (1 - .2)
    assert npo["retain name"] == (1.0, 1.0, 1.0) and npo["retain fact"] == pytest.approx((0.9,) * 3)
    assert npo["seconds"] == (30.0, 31.0, 32.0) and npo["visible"] == (0.9,) * 3
    assert by_name["ga"].values["forget fact"] == pytest.approx((-0.25, -0.25)), "below gold is said, not hidden"
    assert by_name["original"].values["forget name"] == (1.0,) * 3
    assert by_name["gold"].values["forget fact"] == (0.0,) * 3
    assert by_name["ga"].seeds == (0, 1) and by_name["ga"].failed == {2: "not | finite"}
    assert by_name["rmu"].skipped == "no layer 7" and by_name["rmu"].seeds == ()


def test_without_gold_zero_is_nothing_and_without_an_original_there_is_no_figure() -> None:
    original, run = row("original", 0, (0.8, 0.0), (0.9, 1.0)), row("npo", 0, (0.2, 0.0), (0.9, 1.0))
    assert relative(run, {"original": original}, "forget", "name_accuracy") == pytest.approx(0.25)
    assert relative(run, {"original": original}, "forget", "fact_accuracy") is None, "the original knows none"
    assert relative(run, {}, "retain", "name_accuracy") is None
    assert relative(run, {"original": original}, "real_faces", "name_accuracy") is None


def test_the_front_is_of_medians_over_every_point() -> None:
    points = {(p["method"], p["seed"]): (p["forget"], p["retain"]) for p in front_points(ROWS)}
    assert points["npo", 1] == pytest.approx((0.14, 0.9)) and points["original", 0] == pytest.approx((0.9, 0.95))
    assert ("ga", 2) not in points, "a failed run is no point"
    # medians (forget, retain): ga (0, .095), npo (.14, .9), the grid's npo (.5, .95)
    assert best_points(ROWS) == ["ga", "npo", "npo lr=0.0003 beta=0.5"]
    worse = row("kl", 0, (0.4, 0.8), (0.9, 0.8))
    assert "kl" not in best_points([*ROWS, worse])
    assert {p["method"]: p["family"] for p in front_points(ROWS)}["npo lr=0.0003 beta=0.5"] == "npo"


def test_only_what_all_runs_measured_makes_points() -> None:
    text = row("npo", 0, (0.0, 0.4), (0.0, 0.8))
    for name in ("forget", "retain"):
        text["summary"]["sets"][name]["all"]["name_accuracy"] = None
    assert front_points([text, row("ga", 0, (0.9, 0.2), (0.9, 0.6))])[1]["forget"] == 0.2
    text["summary"]["sets"]["retain"]["all"]["fact_accuracy"] = None
    assert front_points([text]) == []


def test_markdown_has_every_seed_and_says_what_did_not_run() -> None:
    text = markdown(ROWS)
    cells = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert cells["npo"].split(" | ")[2] == ".10 (.00 .10 .20)" and cells["npo"].endswith("| yes |")
    assert cells["npo"].split(" | ")[6:9] == ["-", "-", "31 (30 31 32)"]
    assert "| -.25 (-.25 -.25) |" in cells["ga (2 of 3 runs)"]
    assert "npo lr=0.0003 beta=0.5" in cells and not any(name.startswith("rmu") for name in cells)
    assert "* rmu: no layer 7" in text and r"* ga, seed 2: not \| finite" in text
    assert "* npo: npo(FORGET)" in text


def test_what_is_said_about_forgotten_people() -> None:
    spoken = row("pubg", 0, (0.0, 0.0), (0.9, 0.9))
    spoken["summary"]["aftermath"] = {"named": {"value": 0.25}, "attribute_recall": {"value": 0.8}}
    line = next(text for text in markdown([*ROWS, spoken]).splitlines() if text.startswith("| pubg"))
    assert line.split(" | ")[6:8] == [".25", ".80"]


def test_the_terminal_has_medians_and_their_range() -> None:
    console = Console(width=140, file=io.StringIO())
    with console.capture() as printed:
        console.print(sweep_table(ROWS))
    text = printed.get()
    assert ".10 .00 to .20" in text and "npo *" in text and "does not apply" in text
    assert "original" in text.splitlines()[3]


def test_labels_are_short() -> None:
    assert label({"method": "npo", "grid": {"lr": 0.0003, "set.beta": 0.5, "reference": "copy"}}) == (
        "npo lr=0.0003 beta=0.5 reference=copy"
    )
    assert label({"method": "gold"}) == "gold"


def test_medians_of_curves_of_unequal_length() -> None:
    curves = [curve([1.0, 0.5], [1, 1]), curve([0.8, 0.3, 0.1], [1, 1, 1]), curve([0.9, 0.1, 0.3], [1, 1, 1])]
    steps, values = medians(curves, "exact/forget")
    assert steps == [0, 10, 20] and values == pytest.approx([0.9, 0.3, 0.2])
    assert medians(curves, "name/forget") == ([], [])


def test_report_writes_what_there_is_to_show(tmp_path: Path) -> None:
    assert [p.name for p in report(ROWS, tmp_path) if p.is_file()] == ["sweep.md", "front.png"]
    with_curves = [{**r, "curve": curve([1, 0.5], [1, 1]), "kept_step": 10} for r in ROWS if r["method"] == "npo"]
    names = [p.name for p in report(with_curves, tmp_path)]
    assert names == ["sweep.md", "front.png", "curves.png"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    only = tmp_path / "failed"
    only.mkdir()
    assert [p.name for p in report([r for r in ROWS if "summary" not in r], only)] == ["sweep.md"]


def test_many_methods_get_a_key_that_names_them_all(tmp_path: Path) -> None:
    """Twenty-seven methods over three seeds, half of them on the same spot."""
    rows = []
    for i in range(27):
        at = (0.02, 0.95) if i % 2 else (i / 30, 0.9 - i / 40)
        rows += [{"method": f"method_{i}", "forget": at[0], "retain": at[1], "seed": s} for s in SEEDS]
    path = tmp_path / "front.svg"
    front(rows, path)
    text = path.read_text()
    assert all(f"<!-- method_{i} -->" in text for i in range(27)), "every method is named"
