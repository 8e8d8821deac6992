"""The page of a scale study: ideal lines, costs, what does not fit, names that are hard to show, broken files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from page_reader import Page
from synthetic_scale import LIMIT, make_study

from clear_dist.report import scale_bars, scale_lines
from clear_dist.report.draw import LIGHT
from clear_dist.report.scale_lines import Quantity, ticks
from clear_dist.report.scale_page import scale_report, scale_view
from clear_dist.report.scale_read import agreement, costs, line, read_study, scaled, value
from clear_dist.types import UserError

HARD = "<script>alert(1)</script> | $x$ `evil` \u202e"
STRONG = Quantity("tokens_per_s", "times", how="strong")
WEAK = Quantity("tokens_per_s", "kept", logarithmic=False, how="weak")


def panels(folder: Path, quantity: Quantity, scaling: str, models: tuple[str, ...] = ("small", "big")) -> Figure:
    data = read_study(folder)
    return scale_lines._panels(data, "half pictures", models, scaling, [quantity], LIGHT)


def drawn(axes: Axes) -> list[list[tuple[float, float]]]:
    """The lines of a panel as points."""
    lines = ((list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines)  # pyright: ignore[reportArgumentType]
    return [[(float(a), float(b)) for a, b in zip(x, y, strict=True)] for x, y in lines]


def test_scaling_beside_the_fewest_gpus() -> None:
    assert scaled([(8, 100.0), (16, 200.0), (32, 300.0)], "strong") == [(8, 8), (16, 16), (32, 24)]
    assert scaled([(8, 100.0), (16, 200.0), (32, 300.0)], "weak") == [(8, 100), (16, 100), (32, 75)]
    assert scaled([], "strong") == scaled([], "weak") == []


def test_ideal_lines_are_drawn_and_perfect_scaling_lies_on_them(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    content = json.loads((folder / "scale_study.json").read_text())
    for row in content["rows"]:  # perfect: tokens/s follow the GPUs
        for kind in ("predicted", "measured"):
            if row[kind] and row[kind]["step_s"]:
                row[kind]["tokens_per_s"] = 1000.0 * row["gpus"]
    (folder / "scale_study.json").write_text(json.dumps(content))
    strong, *_ = panels(folder, STRONG, "strong").axes
    lines = drawn(strong)
    assert lines[0] == [(1, 1), (2, 2), (4, 4)], "the ideal line"
    assert all(set(points) <= set(lines[0]) for points in lines)
    weak, *_ = panels(folder, WEAK, "weak").axes
    ideal, *others = drawn(weak)
    assert {y for _, y in ideal} == {100} and all({y for _, y in points} == {100} for points in others)


def test_scaling_falls_short_where_speed_does(tmp_path: Path) -> None:
    data = read_study(make_study(tmp_path))
    rows = data.pick(model="small", stage="z3", method="gd", scaling="strong")
    assert scaled(line(rows, "predicted", "tokens_per_s"), "strong")[-1] == (4, pytest.approx(1 / (0.9 / 4 + 0.1)))
    rows = data.pick(model="small", stage="z3", method="gd", scaling="weak")
    assert scaled(line(rows, "predicted", "tokens_per_s"), "weak")[-1] == (4, pytest.approx(100 / 1.2))
    assert [n for n, _ in line(rows, "measured", "tokens_per_s")] == [1, 2]


def test_the_baseline_costs_exactly_1_and_others_what_they_take(tmp_path: Path) -> None:
    data = read_study(make_study(tmp_path))
    for kind in ("predicted", "measured"):
        for field in ("step_s", "peak_bytes"):
            found = costs(data, "gd", "small", kind, field)
            assert found is not None and found.middle == found.low == found.high == 1.0
        assert (npo := costs(data, "npo", "small", kind, "step_s")) and npo.middle == pytest.approx(0.5)
        assert (kl := costs(data, "kl", "big", kind, "step_s")) and kl.middle == pytest.approx(1.5)
    assert costs(data, "kl", "nobody", "predicted", "step_s") is None
    table = scale_view(data, "x").blocks[5].tables[0]
    assert table.key == "costs" and [cell.text for cell in table.rows[0].cells[2:4]] == ["1", "1"]


def test_measured_by_predicted(tmp_path: Path) -> None:
    data = read_study(make_study(tmp_path))
    step, peak = agreement(data, "step_s"), agreement(data, "peak_bytes")
    assert step is not None and step.middle == pytest.approx(2) and step.count == len(data.measured)
    assert peak is not None and peak.middle == pytest.approx(1.05)
    assert "Measured step times are 2 times the predicted ones" in scale_view(data, "x").lead


def test_what_does_not_fit_is_never_a_speed(tmp_path: Path) -> None:
    folder = make_study(tmp_path, measured=False)
    data = read_study(folder)
    (row, *_) = data.pick(model="big", stage="z0", method="gd")
    row["predicted"]["tokens_per_s"] = 123.0  # type: ignore[index] even if a file has one
    assert value(row, "predicted", "tokens_per_s") is None and value(row, "predicted", "peak_bytes") == 120e9
    figure = panels(folder, Quantity("tokens_per_s", "tokens/s"), "weak")
    small, big = figure.axes
    assert len(drawn(small)) == 2 and len(drawn(big)) == 1, "z0 of the big model has no line"
    crosses = [len(found.get_offsets()) for found in big.collections]  # pyright: ignore[reportArgumentType]
    assert crosses == [3, 0]
    assert "does not fit" in [t.get_text() for t in figure.legends[0].get_texts()]


@pytest.mark.parametrize("how", ["strong", "weak"])
def test_nothing_is_drawn_outside_its_panel(tmp_path: Path, how: str) -> None:
    """Also where one stage gains much more than the others, from many more GPUs."""
    folder = make_study(tmp_path, models=("small", "other"))
    content = json.loads((folder / "scale_study.json").read_text())
    for row in content["rows"]:
        if row["stage"] == "z3" and row["gpus"] > 1:
            row["predicted"]["tokens_per_s"] *= 3
        if row["stage"] == "z0":
            row["predicted"]["tokens_per_s"] *= 100
    (folder / "scale_study.json").write_text(json.dumps(content))
    quantities = (STRONG if how == "strong" else WEAK, Quantity("tokens_per_s", "t"), Quantity("mfu", "m", 100, False))
    for quantity in quantities:
        for axes in panels(folder, quantity, how, ("small", "other")).axes:
            low, high = axes.get_ylim()
            assert all(low <= y <= high for points in drawn(axes) for _, y in points)


def test_bars_above_the_limit_are_hatched(tmp_path: Path) -> None:
    data = read_study(make_study(tmp_path))
    figure = scale_bars._memory(data, "half pictures", data.models, LIGHT)
    for axes in figure.axes:
        for bar in axes.patches:
            assert bool(bar.get_hatch()) == (bar.get_height() > LIMIT / 1e9)  # pyright: ignore[reportAttributeAccessIssue]
        limits = [line for line in axes.lines if set(line.get_ydata()) == {LIMIT / 1e9}]  # pyright: ignore[reportArgumentType]
        assert len(limits) == 1


def test_the_page_has_every_part_and_the_files_beside_it(tmp_path: Path) -> None:
    page, text = scale_report(make_study(tmp_path / "s", left_out=["zpp on 1 x h100-80g: one node"]))
    html = Page(page.read_text())
    said = text.read_text()
    for title in (
        "Speed",
        "MFU",
        "Memory",
        "Strong scaling",
        "Weak scaling",
        "What methods cost",
        "Measured against predicted",
    ):
        assert title in html.text and f"## {title}" in said
    assert "Left out: zpp on 1 x h100-80g: one node" in html.text
    names = {path.name for path in (tmp_path / "s" / "figures").glob("*.png")}
    assert names == {f"{n}.png" for n in ("speed", "mfu", "memory", "strong", "weak", "methods", "agreement")}
    assert all(tag.get("src", "").startswith("data:") for tag in html.all("img"))  # type: ignore[union-attr]
    assert all((tmp_path / "s" / "figures" / n).stat().st_size > 5000 for n in names)


@pytest.mark.usefixtures("unpainted")
def test_names_are_escaped(tmp_path: Path) -> None:
    folder = make_study(tmp_path, models=(HARD, "b"), mixes=(HARD,), left_out=[HARD])
    page, text = scale_report(folder)
    html = page.read_text()
    assert "<script>alert" not in html and "\u202e" not in html
    assert len(Page(html).scripts) == 1
    said = text.read_text()
    assert "<script>" not in said and "\u202e" not in said and r"\| $x$" not in said.replace(r"\$", "?")


@pytest.mark.usefixtures("unpainted")
def test_many_models_and_mixes_get_figures_of_their_own(tmp_path: Path) -> None:
    models = [f"m{i}" for i in range(6)]
    folder = make_study(tmp_path, models=models, mixes=("a", "b", "c", "d"), methods=("gd",), measured=False)
    view = scale_view(read_study(folder), "x")
    names = [image.name for image in view.images]
    assert {"speed-1-1", "speed-1-2", "speed-3-2"} <= set(names) and "speed-4-1" not in names
    assert len(set(names)) == len(names) and "methods" not in names and "agreement" not in names
    assert any("first 3 mixes" in note for note in view.notes)
    assert [block.key for block in view.blocks] == ["speed", "mfu", "memory", "strong", "weak"]
    assert all(len(table.rows) <= 72 for block in view.blocks for table in block.tables)


@pytest.mark.usefixtures("unpainted")
def test_text_only_models_have_no_images_a_second(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    content = json.loads((folder / "scale_study.json").read_text())
    for row in content["rows"]:
        for kind in ("predicted", "measured"):
            if row[kind] and row[kind]["step_s"]:
                row[kind]["images_per_s"] = 0.0
    (folder / "scale_study.json").write_text(json.dumps(content))
    image = scale_view(read_study(folder), "x").blocks[0].images[0]
    assert "images/s" not in image.alt and "tokens/s" in image.alt


def test_nothing_that_fits_is_still_a_page(tmp_path: Path) -> None:
    folder = make_study(tmp_path, models=("big",), measured=False)
    content = json.loads((folder / "scale_study.json").read_text())
    content["rows"] = [row for row in content["rows"] if row["stage"] == "z0"]
    (folder / "scale_study.json").write_text(json.dumps(content))
    view = scale_view(read_study(folder), "x")
    assert "0 of 18 points fit" in view.lead and [b.key for b in view.blocks] == ["speed", "memory", "methods"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": [{"model": "a"}]}, r"rows\[0\]\.gpus is missing"),
        ({"gpu": None}, ""),
    ],
)
def test_broken_files_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=r"scale_study\.json: cannot be read"):
        read_study(tmp_path / "nowhere")
    folder = make_study(tmp_path, **change)
    if words:
        with pytest.raises(UserError, match=words):
            read_study(folder)
    (folder / "scale_study.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_study(folder)
    (folder / "scale_study.json").write_text('{"v": 1}')
    with pytest.raises(UserError, match=r"scale_study\.json: machine is missing"):
        read_study(folder)


def test_ticks_of_less_than_a_decade() -> None:
    assert ticks(0.3, 4.0) == [0.5, 1.0, 2.0]
    assert ticks(1900.0, 6000.0) == [2000.0, 5000.0]
