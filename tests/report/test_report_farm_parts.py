"""Verdict, tables and figures of an attack on a farm, by hand; files that are refused."""

import json
from pathlib import Path

import pytest
from synthetic_farm import COLUMNS, ROWS, make_farm

from clear_dist.report.attack_file import Share, Vision, read_share
from clear_dist.report.draw import LIGHT
from clear_dist.report.farm_figures import _from_edge, color_of, reading_order, roc_image
from clear_dist.report.farm_panels import _moments, _range
from clear_dist.report.farm_read import Densities, Detail, Example, FarmData, is_farm, read_farm
from clear_dist.report.farm_tables import EXTREMES, exposed_tables, rates_table
from clear_dist.report.farm_verdict import found_out, judge_farm
from clear_dist.types import UserError


def _row(low: float, high: float, retain: float | None = 1.0) -> Vision:
    kept = None if retain is None else Share(retain)
    return Vision(None, None, kept, Share((low + high) / 2, low, high), None)


GOLD = _row(0.44, 0.56)


@pytest.mark.parametrize(
    ("row", "gold", "found"),
    [
        (_row(0.66, 0.76), GOLD, "told"),
        (_row(0.55, 0.65), GOLD, "unclear"),  # above chance, but not above gold's interval
        (_row(0.55, 0.65), None, "told"),
        (_row(0.45, 0.55), GOLD, "hidden"),
        (_row(0.5, 0.6), GOLD, "hidden"),  # chance on the edge lies within
        (_row(0.3, 0.45), GOLD, "told"),  # wrong more often than right: to be turned round
        (_row(0.55, 0.65), _row(0.6, 0.7), "unclear"),
        (Vision(None, None, None, Share(0.9), None), GOLD, "unclear"),
        (Vision(None, None, None, None, Share(0.9)), GOLD, "unknown"),
        (None, GOLD, "unknown"),
    ],
)
def test_who_is_found_out(row: Vision | None, gold: Vision | None, found: str) -> None:
    assert found_out(row, gold) == found


def _farm(**rows: Vision) -> FarmData:
    return FarmData(Path("f"), "f", rows, {})


ORIGINAL = _row(0.95, 1.0)


@pytest.mark.parametrize(
    ("data", "headline"),
    [
        (_farm(original=ORIGINAL, gold=GOLD, a=_row(0.45, 0.55), b=_row(0.7, 0.8)),
         "1 of 2 methods leaves no trace that U-LIRA finds, and keeps the rest."),
        (_farm(original=ORIGINAL, gold=GOLD, a=_row(0.45, 0.55), b=_row(0.45, 0.55, 0.8)),
         "2 of 2 methods leave no trace that U-LIRA finds, and keep the rest."),
        (_farm(original=ORIGINAL, gold=GOLD, a=_row(0.45, 0.55, 0.79)),
         "No method hides the forgotten people and keeps the rest."),
        (_farm(original=_row(0.45, 0.6), gold=GOLD, a=_row(0.45, 0.55)),
         "The attack does not recognise what the original learned: nothing can be concluded."),
        (_farm(gold=GOLD, a=_row(0.45, 0.55)), "The attack was not tried on the original: nothing can be concluded."),
        (_farm(original=ORIGINAL, gold=_row(0.52, 0.6), a=_row(0.45, 0.55)),
         "Gold is not at chance: the methods must be measured by gold."),
        (_farm(Original=ORIGINAL, GOLD=GOLD), "The attack works; no method was attacked."),
    ],
)  # fmt: skip
def test_headline(data: FarmData, headline: str) -> None:
    assert judge_farm(data).headline == headline


def test_verdict_lines() -> None:
    rows = {"original": ORIGINAL, "gold": _row(0.4, 0.6), "npo": _row(0.66, 0.76, 0.7), "ga": _row(0.3, 0.4, None)}
    lines = judge_farm(_farm(**rows)).lines
    assert [line.name for line in lines] == ["original", "gold", "npo", "ga"]
    assert [[words for _, words in line.pills] for line in lines] == [
        ["the attack works"], ["at chance"], ["found out", "rest lost"], ["found out"],
    ]  # fmt: skip
    assert "The interval is .20 wide: a leak much smaller than .10 would not be seen. That is wide" in lines[1].text
    assert lines[2].text == (
        "U-LIRA .71 [.66, .76]: forgotten people can be told from people never seen. Retain: 70% of the original's."
    )
    assert "below chance" in lines[3].text and "not known" in lines[3].text
    lost = judge_farm(_farm(original=_row(0.4, 0.6), gold=_row(0.52, 0.6), a=_row(0.45, 0.55))).lines
    assert lost[0].pills == (("no", "the attack does not work"),) and lost[1].pills == (("no", "not at chance"),)


def test_extremes_are_apart_and_by_the_mean_of_methods() -> None:
    def example(method: str, i: int, value: float | None) -> Example:
        return Example(method, f"p{i % 3}/{i}", f"p{i % 3}", value, None if value is None else 0.5)

    examples = [example("original", i, 1.0) for i in range(24)] + [example("gold", i, 0.5) for i in range(24)]
    examples += [example("a", i, i / 24) for i in range(24)] + [example("b", i, i / 48) for i in range(24)]
    examples += [example(m, 99, None) for m in ("a", "b")]  # enrolled: does not count
    people, pictures = exposed_tables(FarmData(Path("f"), "f", {}, {}, examples=tuple(examples)))
    names = [row.cells[1].text.split("/")[1] for row in pictures.rows]
    assert names == [*map(str, range(23, 13, -1)), *map(str, range(9, -1, -1))] and len(names) == 2 * EXTREMES
    first = pictures.rows[0].cells
    assert [c.text for c in first] == ["most", "p2/23", "p2", ".719", ".479", ".958", "1.000", ".500", ".500"]
    assert first[4].small == "b" and first[5].small == "a"
    assert [row.rule for row in pictures.rows].index(True) == EXTREMES
    assert [(r.cells[0].text, r.cells[1].text, r.cells[2].text) for r in people.rows] == [
        ("most", "p2", "8"), ("most", "p1", "8"), ("least", "p0", "8"),
    ]  # fmt: skip
    assert exposed_tables(FarmData(Path("f"), "f", {}, {})) == ()


def test_too_few_is_not_the_same_as_not_measured() -> None:
    detail = Detail(Share(0.7), {"0.001": None, "1e-2": Share(0.25, 0.2, 0.3)}, {}, "std")
    table = rates_table(FarmData(Path("f"), "f", {"a": GOLD}, {"a": {"u_lira": detail}}))
    assert table is not None
    assert [c.text for c in table.rows[0].cells] == ["a", ".700", "too few", ".250", *["not measured"] * 5]
    assert rates_table(FarmData(Path("f"), "f", {"a": GOLD}, {})) is None


def test_a_curve_is_cut_at_the_edge_of_the_axis() -> None:
    assert _from_edge(((0.0, 0.1), (0.002, 0.3), (1.0, 1.0))) == ((0.001, pytest.approx(0.2)), (0.002, 0.3), (1.0, 1.0))
    assert _from_edge(((0.0, 0.0), (0.0, 0.4), (0.001, 0.6), (1.0, 1.0))) == ((0.001, 0.6), (1.0, 1.0))
    assert _from_edge(((0.5, 0.5),)) == ((0.001, 0.5), (0.5, 0.5))
    assert _from_edge(((0.0, 0.0),)) == ((0.001, 0.0),)


def test_histograms() -> None:
    one = Densities((0.0, 1.0, 2.0, 4.0), {"forget": (0.5, 0.5, 0.0), "holdout": (0.0, 0.0, 0.5), "never": (0, 0, 0)})
    mean, sd = _moments(one, "forget")
    assert (mean.text, sd.text) == ("1.00", "0.50")
    assert _moments(one, "holdout")[0].text == "3.00" and _moments(one, "never")[0].kind == "gap"
    assert _range([one]) == (0.0, 4.0) and _range([Densities(one.edges, {"forget": (0, 1, 0)})]) == (1.0, 2.0)


def test_no_two_methods_look_alike() -> None:
    names = ["gold", *(f"m{i}" for i in range(26)), "original"]
    looks = [color_of(n, names, LIGHT) for n in names]
    assert len({str(look) for look in looks}) == len(names)
    assert reading_order(names)[0] == "original" and reading_order(names)[-1] == "gold"


def test_curves_alone_give_an_image_and_its_numbers(tmp_path: Path) -> None:
    data = read_farm(make_farm(tmp_path / "f", ROWS[:2]))
    first, second = roc_image(data), roc_image(data)
    assert first is not None and first == second
    assert first.numbers is not None
    rows = {tuple(c.text for c in row.cells[:2]): [c.text for c in row.cells[2:]] for row in first.numbers.rows}
    assert list(rows) == [("original", "U-LIRA"), ("original", "U-MIA"), ("gold", "U-LIRA"), ("gold", "U-MIA")]
    assert list(map(float, rows["gold", "U-LIRA"])) == pytest.approx([0.001, 0.01, 0.05, 0.1, 0.5], rel=0.2)
    assert roc_image(FarmData(Path("f"), "f", {}, {})) is None


CURVES = {"roc": {"a": {"u_lira": [[0, 0], [1, 1]]}}, "distributions": {}, "epochs": {}}
BINS = {"bins": [0, 1, 2], "forget": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("curves", "said"),
    [
        ({"roc": []}, "roc: expected an object"),
        ({"roc": {"a": {"u_lira": [[0, 2]]}}}, r"roc.a.u_lira\[0\]: 2 cannot stand here"),
        ({"roc": {"a": {"u_lira": [[0, 0, 0]]}}}, r"roc.a.u_lira: expected \[\[fpr, tpr\]"),
        ({"roc": {"a": {"u_mia": 3}}}, "roc.a.u_mia: expected a list"),
        ({"distributions": {"a": {**BINS, "forget": [1.0]}}}, "distributions.a.forget: expected 2 densities"),
        ({"distributions": {"a": {**BINS, "forget": [1.0, -1.0]}}}, "distributions.a.forget: -1.0 cannot"),
        (
            {"distributions": {"a": {**BINS, "bins": [0, 2, 1]}}},
            "distributions.a.bins: expected at least two ascending",
        ),
        ({"distributions": {"a": {**BINS, "bins": [0, True, 2]}}}, "distributions.a.bins: True cannot"),
        ({"distributions": {"a": {**BINS, "bins": [0, 1, 10**400]}}}, "not JSON: a whole number of 401 digits"),
        ({"epochs": {"a": [{"epoch": "1"}]}}, r"epochs.a\[0\].epoch: expected a number"),
        ({"epochs": {"a": [{"epoch": 1, "forget_acc": 3}]}}, r"epochs.a\[0\].forget_acc: expected a share"),
    ],
)
def test_broken_curves_are_refused(tmp_path: Path, curves: dict, said: str) -> None:
    folder = make_farm(tmp_path / "f", ROWS[:2])
    (folder / "curves.json").write_text(json.dumps({**CURVES, **curves}))
    with pytest.raises(UserError, match=said):
        read_farm(folder)


LINE = "a,p/1,p,0,4,4,0,1,0,1,{},.5\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method,id\na,b\n", "column 'identity' is missing"),
        (",".join(COLUMNS) + "\na,p/1\n", r"examples.csv:2: expected 12 fields"),
        (",".join(COLUMNS) + "\n" + LINE.format("1.5"), "examples.csv:2: u_lira: expected a share between 0 and 1"),
        (",".join(COLUMNS) + "\n" + LINE.format("nan"), "examples.csv:2: u_lira: expected a share"),
        (",".join(COLUMNS) + "\n" + LINE.format("x"), "'x' is no number"),
        (",".join(COLUMNS) + '\na,"p', "cannot be read as CSV"),
        ("", "column 'method' is missing"),
    ],
)
def test_broken_examples_are_refused(tmp_path: Path, text: str, said: str) -> None:
    folder = make_farm(tmp_path / "f", ROWS[:2])
    (folder / "examples.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        read_farm(folder)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"estimators": {"mad": 2}}, "a.u_lira.estimators.mad: expected a share"),
        ({"tpr_at_fpr": {"often": 0.5}}, "a.u_lira.tpr_at_fpr: 'often' is no rate"),
        ({"tpr_at_fpr": [1]}, "a.u_lira.tpr_at_fpr: expected an object"),
        ({"auc": {"value": 0.5, "ci": [0.6, 0.4]}}, "a.u_lira.auc.ci: the lower end, 0.6, lies above"),
    ],
)
def test_broken_details_are_refused(tmp_path: Path, part: dict, said: str) -> None:
    (tmp_path / "attack.json").write_text(json.dumps({"v": 1, "a": {"u_lira": {"accuracy": 0.5, **part}}}))
    with pytest.raises(UserError, match=said):
        read_farm(tmp_path)


def test_shares_carry_their_number() -> None:
    assert read_share({"value": 0.5, "ci": [0.4, 0.6], "n": 64}, "x") == Share(0.5, 0.4, 0.6, 64)
    assert read_share({"value": 0.5, "ci": None}, "x") == read_share(0.5, "x") == Share(0.5)
    with pytest.raises(UserError, match=r"x\.n: expected a count"):
        read_share({"value": 0.5, "n": -1}, "x")


def test_what_a_farms_directory_is(tmp_path: Path) -> None:
    assert not is_farm(tmp_path)
    (tmp_path / "attack.json").write_text("{}")
    assert is_farm(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    assert not is_farm(tmp_path)
